"""What happened, one line for people and fields for programs. Rows are never changed; very old ones go.

docs/watching.md lists every kind that is written anywhere; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightschool.ledger.database import PAGE, Database, decode, encode, page_size

SCHEMA = (
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
        fields TEXT NOT NULL)""",
    "CREATE INDEX events_kind ON events (kind, id)",
)

KEEP = 100_000
"""Events that stay; at a few hundred a night, a year of them."""
NEVER_PRUNED = ("cut", "ledger-rebuilt", "adopted", "restored", "purged", "numerics")
"""What a rebuilt ledger and `verify` go by, however long ago it was."""
PRUNE_PORTION = 500

_COLUMNS = "id, at, kind, text, fields"


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened. `at` is UTC ISO 8601 and for reading only: the order is that of `id`."""

    id: int
    at: str
    kind: str
    text: str
    fields: dict[str, Any]


class Events:
    """The table `events`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, kind: str, text: str, /, **fields: Any) -> int:
        """Add an event and return its id. `fields` are JSON values or paths; NaN and infinities become text."""
        return _id(
            self._database.write(
                "INSERT INTO events (at, kind, text, fields) VALUES (?, ?, ?, ?)",
                (self._database.now(), kind, text, encode(fields)),
            ).lastrowid
        )

    def since(self, id: int = 0, limit: int = PAGE, kind: str | None = None) -> list[EventRow]:
        """The events (of one kind) after the one with this id, in order; at most `limit` of them."""
        where, values = ("", ()) if kind is None else (" AND kind = ?", (kind,))
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM events WHERE id > ?{where} ORDER BY id LIMIT ?", (id, *values, page_size(limit))
        )
        return self._from_sql(rows)

    def newest(self) -> int:
        """The number of the newest event; 0 before the first."""
        return int(self._database.value("SELECT coalesce(max(id), 0) FROM events"))

    def prune(self, keep: int = KEEP) -> int:
        """Remove a bounded portion of what is older than the newest `keep`; returns how many rows went.

        The kinds in NEVER_PRUNED stay.
        """
        kept = ", ".join("?" * len(NEVER_PRUNED))
        old = f"SELECT id FROM events WHERE id <= ? AND kind NOT IN ({kept}) ORDER BY id LIMIT {PRUNE_PORTION}"
        bound = (self.newest() - keep, *NEVER_PRUNED)
        # Looked at first: nearly always there is nothing, and that needs no transaction.
        if bound[0] <= 0 or not self._database.rows(old, bound):
            return 0
        return self._database.write(f"DELETE FROM events WHERE id IN ({old})", bound).rowcount

    def latest(self, limit: int = PAGE) -> list[EventRow]:
        """The newest `limit` events, oldest of them first."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM events ORDER BY id DESC LIMIT ?", (page_size(limit),))
        return self._from_sql(rows[::-1])

    def of_kind(self, kind: str, limit: int = PAGE) -> list[EventRow]:
        """The newest `limit` events of one kind, oldest of them first."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM events WHERE kind = ? ORDER BY id DESC LIMIT ?", (kind, page_size(limit))
        )
        return self._from_sql(rows[::-1])

    def _from_sql(self, rows: list[tuple[Any, ...]]) -> list[EventRow]:
        path = self._database.path
        return [EventRow(row[0], row[1], row[2], row[3], decode(row[4], path, f"event {row[0]}")) for row in rows]


def _id(lastrowid: int | None) -> int:
    assert lastrowid is not None  # an INSERT always has one
    return lastrowid
