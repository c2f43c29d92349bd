"""Proof that optimizer and weights were carried from one file to the next: a digest before, a digest after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nightschool.ledger.database import PAGE, Database, page_size

SCHEMA = (
    """CREATE TABLE boundaries (
        position INTEGER PRIMARY KEY, step INTEGER NOT NULL, digest_before TEXT NOT NULL, digest_after TEXT,
        carried INTEGER, note TEXT)""",
)

_COLUMNS = "position, step, digest_before, digest_after, carried, note"


@dataclass(frozen=True, slots=True)
class BoundaryRow:
    """What was carried into the entry at `position`, which begins after `step` steps.

    `carried` tells whether the digests agree; it is None while only the first is known. `note` is for people.
    """

    position: int
    step: int
    digest_before: str
    digest_after: str | None
    carried: bool | None
    note: str | None


class Boundaries:
    """The table `boundaries`, one row per entry that has begun."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def before(self, position: int, step: int, digest: str) -> None:
        """Record the state as the previous file left it. Done again after a restart, it starts the check anew."""
        self._database.write(
            f"INSERT OR REPLACE INTO boundaries ({_COLUMNS}) VALUES (?, ?, ?, NULL, NULL, NULL)",
            (position, step, digest),
        )

    def after(self, position: int, digest: str, note: str | None = None) -> bool:
        """Record the state the next file starts from; True where it is the same. KeyError without a `before`."""
        with self._database.transaction():
            changed = self._database.write(
                "UPDATE boundaries SET digest_after = ?1, carried = (digest_before = ?1), note = ?2 "
                "WHERE position = ?3",
                (digest, note, position),
            ).rowcount
            if not changed:
                raise KeyError(f"no state was recorded before position {position}")
            return bool(self._database.value("SELECT carried FROM boundaries WHERE position = ?", (position,)))

    def get(self, position: int) -> BoundaryRow | None:
        """The boundary in front of the entry at `position`, or None."""
        found = self._database.row(f"SELECT {_COLUMNS} FROM boundaries WHERE position = ?", (position,))
        return _from_sql(found) if found else None

    def listing(self, after: int = -1, limit: int = PAGE) -> list[BoundaryRow]:
        """The boundaries behind position `after`, in order; at most `limit` of them."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM boundaries WHERE position > ? ORDER BY position LIMIT ?", (after, page_size(limit))
        )
        return [_from_sql(row) for row in rows]

    def each(self) -> Iterator[BoundaryRow]:
        """Every boundary, in order. Read in pages; no lock is held in between."""
        after = -1
        while page := self.listing(after):
            yield from page
            after = page[-1].position

    def delete_from(self, position: int) -> None:
        """Remove the boundaries at `position` and behind it: a cut has taken their entries out."""
        self._database.write("DELETE FROM boundaries WHERE position >= ?", (position,))


def _from_sql(row: tuple) -> BoundaryRow:
    position, step, before, after, carried, note = row
    return BoundaryRow(position, step, before, after, None if carried is None else bool(carried), note)
