"""The ordered list of what is trained: ranges of steps over files, with the settings frozen when each began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace

from nightschool.ledger.database import PAGE, Database

SCHEMA = (
    """CREATE TABLE entries (
        position INTEGER PRIMARY KEY, file_id INTEGER NOT NULL, data_digest TEXT NOT NULL, sequences INTEGER NOT NULL,
        recipe TEXT NOT NULL, steps_total INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
        began_at TEXT NOT NULL)""",
    "CREATE INDEX entries_file ON entries (file_id)",
    "CREATE TABLE entries_revision (revision INTEGER NOT NULL)",
    "INSERT INTO entries_revision VALUES (0)",
)

_COLUMNS = "position, file_id, data_digest, sequences, recipe, steps_total, start, stop, began_at"


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One range of steps over one file.

    `position` counts from 0 without gaps. `recipe` is the canonical JSON exactly as it was frozen. `start` and `stop`
    are local steps of the file, a range [start, stop) out of `steps_total`. `began_at` is UTC ISO 8601.
    """

    position: int
    file_id: int
    data_digest: str
    sequences: int
    recipe: str
    steps_total: int
    start: int
    stop: int
    began_at: str


class Entries:
    """The table `entries`. Only the process that trains, or repairs, writes to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self,
        file_id: int,
        data_digest: str,
        sequences: int,
        recipe: str,
        steps_total: int,
        start: int = 0,
        stop: int | None = None,
    ) -> int:
        """Put an entry at the end and return its position. `stop` is `steps_total` unless given."""
        began_at = self._database.now()
        with self._database.transaction():
            position = int(self._database.value("SELECT coalesce(max(position) + 1, 0) FROM entries"))
            stop = steps_total if stop is None else stop
            self._insert(
                [EntryRow(position, file_id, data_digest, sequences, recipe, steps_total, start, stop, began_at)]
            )
        return position

    def all(self) -> list[EntryRow]:
        """Every entry in order. Read in pages; if the list is rewritten meanwhile, it is read again from the start."""
        while True:
            revision = self._revision()
            rows = [row for page in self._pages() for row in page]
            if self._revision() == revision:
                return rows

    def get(self, position: int) -> EntryRow:
        """The entry at `position`. Raises KeyError where there is none."""
        found = self._database.row(f"SELECT {_COLUMNS} FROM entries WHERE position = ?", (position,))
        if found is None:
            raise KeyError(f"no entry at position {position}")
        return EntryRow(*found)

    def last(self) -> EntryRow | None:
        """The entry at the end of the list, or None while there is none."""
        found = self._database.row(f"SELECT {_COLUMNS} FROM entries ORDER BY position DESC LIMIT 1")
        return EntryRow(*found) if found else None

    def of_file(self, file_id: int) -> list[EntryRow]:
        """The entries over one file, in order."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM entries WHERE file_id = ? ORDER BY position", (file_id,))
        return [EntryRow(*row) for row in rows]

    def replace_all(self, rows: Sequence[EntryRow]) -> None:
        """Make `rows` the whole list, in their order, in one transaction. Positions are given anew from 0."""
        with self._database.transaction():
            self._database.write("DELETE FROM entries")
            self._insert([replace(row, position=position) for position, row in enumerate(rows)])
            self._database.write("UPDATE entries_revision SET revision = revision + 1")

    def _insert(self, rows: Sequence[EntryRow]) -> None:
        for row in rows:
            if not 0 <= row.start <= row.stop <= row.steps_total:
                raise ValueError(f"entry range [{row.start}, {row.stop}) does not lie in {row.steps_total} steps")
        self._database.write_many(
            f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (astuple(row) for row in rows)
        )

    def _pages(self) -> Iterator[list[EntryRow]]:
        after = -1
        while True:
            rows = self._database.rows(
                f"SELECT {_COLUMNS} FROM entries WHERE position > ? ORDER BY position LIMIT {PAGE}", (after,)
            )
            yield [EntryRow(*row) for row in rows]
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def _revision(self) -> int:
        return int(self._database.value("SELECT revision FROM entries_revision"))
