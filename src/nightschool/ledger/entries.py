"""The ordered list of what is trained: ranges of steps over files, with the settings frozen when each began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

from nightschool.ledger.database import PAGE, Database, page_size

SCHEMA = (
    """CREATE TABLE entries (
        position INTEGER PRIMARY KEY, file_id INTEGER NOT NULL, data_digest TEXT NOT NULL, sequences INTEGER NOT NULL,
        recipe TEXT NOT NULL, steps_total INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
        began_at TEXT NOT NULL)""",
    "CREATE INDEX entries_file ON entries (file_id)",
    "CREATE TABLE entries_revision (revision INTEGER NOT NULL)",
    "INSERT INTO entries_revision VALUES (0)",
)

SEVERAL_FILES = (
    """CREATE TABLE entry_parts (
        position INTEGER NOT NULL, part INTEGER NOT NULL, file_id INTEGER NOT NULL, data_digest TEXT NOT NULL,
        sequences INTEGER NOT NULL, PRIMARY KEY (position, part)) WITHOUT ROWID""",
    "INSERT INTO entry_parts SELECT position, 0, file_id, data_digest, sequences FROM entries",
    "CREATE INDEX entry_parts_file ON entry_parts (file_id)",
    "DROP INDEX entries_file",
    "ALTER TABLE entries DROP COLUMN file_id",
    "ALTER TABLE entries DROP COLUMN data_digest",
    "ALTER TABLE entries DROP COLUMN sequences",
)
"""What format 2 changed: an entry may be over several files."""

ENTRIES = 50
"""Entries in a page: each may bring several hundred parts, and the lock is held while they are read."""

_BEHIND_ALL = 2**63 - 1

Part = tuple[int, str, int]
"""One file of an entry: its id, the digest of its prepared data, the number of its sequences."""

_REST = "recipe, steps_total, start, stop, began_at"


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One range of steps over one file, or over several small ones.

    `position` counts from 0 without gaps. `parts` are the files in order. `recipe` is the canonical JSON exactly as it
    was frozen. `start` and `stop` are local steps, a range [start, stop) out of `steps_total`. `began_at` is UTC ISO
    8601.
    """

    position: int
    parts: tuple[Part, ...]
    recipe: str
    steps_total: int
    start: int
    stop: int
    began_at: str

    @property
    def file_ids(self) -> tuple[int, ...]:
        """The ids of the files, in order."""
        return tuple(file_id for file_id, _, _ in self.parts)


@dataclass(frozen=True, slots=True)
class Extent:
    """How long an entry is, and what on, without its recipe: `file` is the first of so many `files`."""

    position: int
    steps: int
    file: int
    files: int


class Entries:
    """The tables `entries` and `entry_parts`. Only the process that trains, or repairs, writes to them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._summed = (0, -1, 0)

    def append(
        self, parts: Sequence[Part], recipe: str, steps_total: int, start: int = 0, stop: int | None = None
    ) -> int:
        """Put an entry at the end and return its position. `stop` is `steps_total` unless given."""
        began_at = self._database.now()
        with self._database.transaction():
            position = int(self._database.value("SELECT coalesce(max(position) + 1, 0) FROM entries"))
            stop = steps_total if stop is None else stop
            self._insert([EntryRow(position, tuple(parts), recipe, steps_total, start, stop, began_at)])
        return position

    def all(self) -> list[EntryRow]:
        """Every entry in order. Read in pages; if the list is rewritten meanwhile, it is read again from the start."""
        while True:
            revision = self.revision()
            rows = [row for page in self._pages() for row in page]
            if self.revision() == revision:
                return rows

    def get(self, position: int) -> EntryRow:
        """The entry at `position`. Raises KeyError where there is none."""
        found = self._select("WHERE position = ?", (position,))
        if not found:
            raise KeyError(f"no entry at position {position}")
        return found[0]

    def last(self) -> EntryRow | None:
        """The entry at the end of the list, or None while there is none."""
        found = self._select("ORDER BY position DESC LIMIT 1", ())
        return found[0] if found else None

    def extents(self, after: int = -1, limit: int = PAGE) -> list[Extent]:
        """How long the entries after position `after` are, in order; at most `limit` of them."""
        rows = self._database.rows(
            "SELECT position, stop - start, (SELECT file_id FROM entry_parts p WHERE p.position = e.position AND "
            "part = 0), (SELECT count(*) FROM entry_parts p WHERE p.position = e.position) FROM entries e "
            "WHERE position > ? ORDER BY position LIMIT ?",
            (after, page_size(limit)),
        )
        return [Extent(*row) for row in rows]

    def file_ids(self, position: int) -> tuple[int, ...]:
        """The files of the entry at `position`, in order; none where there is no such entry."""
        rows = self._database.rows("SELECT file_id FROM entry_parts WHERE position = ? ORDER BY part", (position,))
        return tuple(row[0] for row in rows)

    def of_file(self, file_id: int) -> list[EntryRow]:
        """The entries that a file is in, in order."""
        where = "WHERE position IN (SELECT position FROM entry_parts WHERE file_id = ?) ORDER BY position"
        return self._select(where, (file_id,))

    def unfinished(self, done: int, limit: int | None = None) -> list[tuple[EntryRow, int]]:
        """The entries that end behind step `done`, in order, each with the number of its steps still to be done.

        At most the first `limit` of them: after a rollback it may be thousands.
        """
        total = self.steps()
        left: list[tuple[int, int]] = []
        while total > done:
            page = self._database.rows(
                "SELECT position, stop - start FROM entries WHERE position < ? ORDER BY position DESC LIMIT ?",
                (left[-1][0] if left else _BEHIND_ALL, PAGE),
            )
            if not page:
                break
            for position, steps in page:
                if total <= done:
                    break
                left.append((position, min(steps, total - done)))
                total -= steps
        first = left[::-1][:limit]
        return [(self.get(position), steps) for position, steps in first]

    def steps(self) -> int:
        """Steps of all entries together, done or not.

        Whoever asks every second must not read a hundred thousand entries each time: only what came since is.
        """
        revision, last, before = self._summed
        # What is read within a transaction may never come about.
        settled = not self._database.in_transaction
        if settled and revision != self.revision():
            revision, last, before = self.revision(), -1, 0
        first = last if settled else -1
        found = self._database.rows(
            "SELECT (SELECT revision FROM entries_revision), coalesce(max(position), ?), "
            "coalesce(sum(stop - start), 0) FROM entries WHERE position > ?",
            (first, first),
        )[0]
        if not settled:
            return int(found[2])
        if found[0] != revision:
            return self.steps()
        self._summed = (revision, found[1], before + found[2])
        return self._summed[2]

    def steps_between(self, first: int, stop: int) -> int:
        """Steps of the entries at positions `first` up to, not including, `stop`: a few ten thousand at once."""
        sql = "SELECT coalesce(sum(stop - start), 0) FROM entries WHERE position >= ? AND position < ?"
        return int(self._database.value(sql, (first, stop)))

    def replace_all(self, rows: Sequence[EntryRow]) -> None:
        """Make `rows` the whole list, in their order, in one transaction. Positions are given anew from 0."""
        with self._database.transaction():
            self._database.write("DELETE FROM entries")
            self._database.write("DELETE FROM entry_parts")
            self._insert([replace(row, position=position) for position, row in enumerate(rows)])
            self._database.write("UPDATE entries_revision SET revision = revision + 1")

    def replace_from(self, position: int, rows: Sequence[EntryRow]) -> None:
        """Make `rows` the list from `position` on, in one transaction; what is before it stays.

        Their positions are given, and the time to those that have none.
        """
        now = self._database.now()
        with self._database.transaction():
            self._database.write("DELETE FROM entries WHERE position >= ?", (position,))
            self._database.write("DELETE FROM entry_parts WHERE position >= ?", (position,))
            self._insert([replace(r, position=position + at, began_at=r.began_at or now) for at, r in enumerate(rows)])
            self._database.write("UPDATE entries_revision SET revision = revision + 1")

    def revision(self) -> int:
        """A number that goes up whenever the list is rewritten; an entry that is added at its end leaves it."""
        return int(self._database.value("SELECT revision FROM entries_revision"))

    def _insert(self, rows: Sequence[EntryRow]) -> None:
        for row in rows:
            if not 0 <= row.start <= row.stop <= row.steps_total:
                raise ValueError(f"entry range [{row.start}, {row.stop}) does not lie in {row.steps_total} steps")
            if not row.parts:
                raise ValueError("an entry is over at least one file")
        self._database.write_many(
            f"INSERT INTO entries (position, {_REST}) VALUES (?, ?, ?, ?, ?, ?)",
            ((row.position, row.recipe, row.steps_total, row.start, row.stop, row.began_at) for row in rows),
        )
        self._database.write_many(
            "INSERT INTO entry_parts (position, part, file_id, data_digest, sequences) VALUES (?, ?, ?, ?, ?)",
            ((row.position, number, *part) for row in rows for number, part in enumerate(row.parts)),
        )

    def _select(self, clauses: str, values: tuple) -> list[EntryRow]:
        # One statement: a list that is rewritten between two reads would give an entry another's files.
        found = self._database.rows(
            f"SELECT position, file_id, data_digest, sequences, {_REST} FROM (SELECT * FROM entries {clauses}) "
            "JOIN entry_parts USING (position)",
            values,
        )
        # Sorted here, and not while the lock is held; the parts of each come in the order of their primary key.
        found.sort(key=itemgetter(0))
        entries = groupby(found, key=lambda row: (row[0], *row[4:]))
        return [EntryRow(row[0], tuple(part[1:4] for part in parts), *row[1:]) for row, parts in entries]

    def _pages(self) -> Iterator[list[EntryRow]]:
        after = -1
        while True:
            rows = self._select(f"WHERE position > ? ORDER BY position LIMIT {ENTRIES}", (after,))
            yield rows
            if len(rows) < ENTRIES:
                return
            after = rows[-1].position
