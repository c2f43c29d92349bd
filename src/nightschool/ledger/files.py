"""What was dropped, and how far each file has come: the queue and the history of files.

    arrived -> archived -> ready -> training -> trained -> learned     duplicate   rejected   set_aside   forgotten
                                    |      ^
                                    skipped

`arrived`: seen, its bytes still where they were dropped. `archived`: kept byte for byte. `ready`: tokenised.
`training`: has an entry. `skipped`: its entry ended early, and the rest of it waits in the queue. `trained`: its last
step is done. `learned`: a checkpoint holds its last step. The others end there, with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nightschool.errors import DataError
from nightschool.ledger.database import PAGE, Database, decode, encode, page_size
from nightschool.ledger.order import natural_key

NOW, HIGH, NORMAL, LOW = -1, 0, 1, 2
"""Priorities: a lower number goes first. NOW interrupts the file in training."""

REST = "rest"
"""The option of a file whose entry ended early and whose remaining steps are to be trained later: the recipe they are
trained by. What they are follows from the entries: all behind the last one's end."""
TAKEN_OUT = "taken_out"
"""The option of a file that left the queue before its bytes were archived, with why: it is set aside when they are."""

ENTER_PAGE = 2000
"""Files entered or asked for in one go: a hundred thousand at once would keep the trainer's commits waiting."""

TAKEN_OVER = "what the run began with; its data is not here"
"""The reason shown with what stands for an adopted state."""

State = Literal[
    "arrived", "archived", "ready", "training", "skipped", "trained", "learned", "duplicate", "rejected", "set_aside",
    "forgotten",
]  # fmt: skip
STATES: tuple[State, ...] = get_args(State)
WAITING_STATES: tuple[State, ...] = ("arrived", "archived", "ready", "skipped")
"""States in which a file is in the queue."""

SCHEMA = (
    """CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, sha256 TEXT, bytes INTEGER, priority INTEGER NOT NULL,
        batch INTEGER NOT NULL, sort_key TEXT NOT NULL, source TEXT NOT NULL, archive TEXT, options TEXT NOT NULL,
        state TEXT NOT NULL, reason TEXT, shape TEXT, rows_good INTEGER, rows_bad INTEGER, tokens INTEGER,
        label_tokens INTEGER, sequences INTEGER, prepared TEXT, data_digest TEXT, duplicate_of INTEGER,
        arrived_at TEXT NOT NULL, learned_at TEXT)""",
    # The first waiting file must be found among any number of learned ones: only waiting files are in this index.
    """CREATE INDEX files_queue ON files (priority, batch, sort_key, id)
        WHERE state IN ('arrived', 'archived', 'ready')""",
    "CREATE INDEX files_stage ON files (state, priority, batch, sort_key, id)",
    "CREATE INDEX files_state ON files (state, id)",
    "CREATE INDEX files_sha256 ON files (sha256)",
    "CREATE INDEX files_source ON files (source) WHERE state = 'arrived'",
)

MOVED = (
    # The rest of a file that was skipped waits in the queue too.
    "DROP INDEX files_queue",
    """CREATE INDEX files_queue ON files (priority, batch, sort_key, id)
        WHERE state IN ('arrived', 'archived', 'ready', 'skipped')""",
    # The newest row need not have the highest number any more.
    "CREATE INDEX files_batch ON files (batch)",
)
"""What format 3 changed: files can be moved in the queue."""

_COLUMNS = (
    "id, name, sha256, bytes, priority, batch, sort_key, source, archive, options, state, reason, shape, rows_good, "
    "rows_bad, tokens, label_tokens, sequences, prepared, data_digest, duplicate_of, arrived_at, learned_at"
)
_QUEUE_ORDER = "ORDER BY priority, batch, sort_key, id"
# The condition is the index's word for word, or SQLite could not use it. Left to itself it takes another and sorts.
_WAITING = f"INDEXED BY files_queue WHERE state IN {WAITING_STATES}"
_STAGE = "INDEXED BY files_stage WHERE state ="


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file to take in: its name for people, the absolute path its bytes are at, its priority and its own settings.

    The name may have folders in it, parted by slashes. `bytes` is the file's size so far as it is known.
    """

    name: str
    source: str | os.PathLike[str]
    priority: int = NORMAL
    options: Mapping[str, Any] = field(default_factory=dict)
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file. What a later stage finds out is None until then.

    `batch` numbers the arrivals, `source` is the absolute path of the bytes until they are archived, `archive` their
    path relative to the workspace from then on, `prepared` the name of the folder with the tokens. Times are UTC ISO
    8601.
    """

    id: int
    name: str
    sha256: str | None
    bytes: int | None
    priority: int
    batch: int
    sort_key: str
    source: str
    archive: str | None
    options: dict[str, Any]
    state: State
    reason: str | None
    shape: str | None
    rows_good: int | None
    rows_bad: int | None
    tokens: int | None
    label_tokens: int | None
    sequences: int | None
    prepared: str | None
    data_digest: str | None
    duplicate_of: int | None
    arrived_at: str
    learned_at: str | None


class Files:
    """The table `files`.

    The methods that move a file on raise ValueError where it is not in a state that leads there, and KeyError where
    there is no such file; asked for the state that a file is in already, they change nothing but what they were
    given.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def arrive(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Take in files that came together, as one batch in one transaction; the ids of the new ones, in their order.

        A path that waits as `arrived` already is skipped. Raises DataError for a name or path that is not Unicode,
        before anything is written.
        """
        if not arrivals:
            return []
        rows = _in_order(arrivals)
        with self._database.transaction():
            last = self._insert(rows)
            new = dict(self._database.rows("SELECT source, id FROM files WHERE id > ?", (last,)))
        sources = dict.fromkeys(os.fspath(arrival.source) for arrival in arrivals)
        return [new[source] for source in sources if source in new]

    def enter(self, arrivals: Sequence[Arrival], at_once: int = ENTER_PAGE) -> dict[str, int]:
        """Take in any number of files, in their order, `at_once` in a transaction; the id of each by its path.

        Paths that wait as `arrived` already keep their id. After an error some may be in: calling it again goes on.
        Raises DataError like `arrive`.
        """
        rows = _in_order(arrivals)
        ids: dict[str, int] = {}
        for first in range(0, len(rows), at_once):
            page = rows[first : first + at_once]
            with self._database.transaction():
                self._insert(page)
                found = self._database.rows(
                    "SELECT source, files.id FROM json_each(?) CROSS JOIN files INDEXED BY files_source "
                    "ON source = json_each.value WHERE state = 'arrived'",
                    (encode([row[1] for row in page]),),
                )
            ids.update(found)
        return ids

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert rows of `_in_order` as the next batch; the highest id before."""
        last = int(self._database.value("SELECT coalesce(max(id), 0) FROM files"))
        batch = self._last_batch()
        now = self._database.now()
        self._database.write_many(
            "INSERT INTO files (sort_key, source, name, priority, options, bytes, batch, arrived_at, state) "
            "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'arrived' "
            "WHERE NOT EXISTS (SELECT 1 FROM files WHERE source = ?2 AND state = 'arrived')",
            ((*row, batch + 1, now) for row in rows),
        )
        return last

    def taken_over(self, name: str, data_digest: str, sequences: int) -> int:
        """Enter what was learned elsewhere, before the run began here: learned, and without data. Returns its id."""
        batch = self._last_batch()
        now = self._database.now()
        written = self._database.write(
            "INSERT INTO files (name, priority, batch, sort_key, source, options, state, reason, shape, data_digest, "
            "sequences, arrived_at, learned_at) VALUES (?, ?, ?, ?, '', '{}', 'learned', ?, 'adopted', ?, ?, ?, ?)",
            (name, NORMAL, batch + 1, natural_key(name), TAKEN_OVER, data_digest, sequences, now, now),
        )
        assert written.lastrowid is not None  # an INSERT always has one
        return written.lastrowid

    def _last_batch(self) -> int:
        return int(self._database.value("SELECT coalesce(max(batch), 0) FROM files"))

    def withdraw(self, id: int) -> None:
        """Forget an arrived file of which nothing was taken. Its number is never given again."""
        with self._database.transaction():
            state = self.get(id).state
            if state != "arrived":
                raise ValueError(f"file {id} is {state}; it cannot be withdrawn")
            self._database.write("DELETE FROM files WHERE id = ?", (id,))

    def arrived_from(self, source: str | os.PathLike[str]) -> int | None:
        """The id of the arrived file whose bytes are at this path, or None."""
        found = self._database.row(
            "SELECT id FROM files INDEXED BY files_source WHERE state = 'arrived' AND source = ?", (os.fspath(source),)
        )
        return found[0] if found else None

    def unknown(self, ids: Iterable[int]) -> set[int]:
        """Those of `ids` that no file has. Asked in pages."""
        wanted, missing = list(ids), set[int]()
        for first in range(0, len(wanted), ENTER_PAGE):
            found = self._database.rows(
                "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM files)",
                (encode(wanted[first : first + ENTER_PAGE]),),
            )
            missing.update(id for (id,) in found)
        return missing

    def archived(
        self, id: int, sha256: str, bytes: int, archive: str, options: Mapping[str, Any] | None = None
    ) -> None:
        """The bytes are kept, at `archive` relative to the workspace. `options`, if given, replace the file's."""
        self._move(id, "archived", ("arrived",), sha256=sha256, bytes=bytes, archive=archive, **_options(options))

    def duplicate(self, id: int, of: int, reason: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        """The bytes are those of the file `of`; this one is not trained."""
        values = {"duplicate_of": of, "reason": reason, **_options(options)}
        self._move(id, "duplicate", ("arrived", "archived"), **values)

    def duplicates_of(self, id: int) -> list[FileRow]:
        """The files that were passed over because they have the bytes of this one, in the order they arrived."""
        return self._select("WHERE state = 'duplicate' AND duplicate_of = ? ORDER BY id", (id,))

    def arrived_again(self, id: int, source: str | os.PathLike[str]) -> None:
        """A duplicate is one no longer: it waits in its old place of the queue, with its bytes at `source`."""
        self._move(id, "arrived", ("duplicate",), source=os.fspath(source), duplicate_of=None, reason=None)

    def prepared_as(
        self,
        id: int,
        prepared: str,
        *,
        shape: str,
        rows_good: int,
        rows_bad: int,
        tokens: int,
        label_tokens: int,
        sequences: int,
        data_digest: str,
    ) -> None:
        """The tokens are in the folder `prepared`: an archived file is ready now. Later ones keep their state."""
        with self._database.transaction():
            state = self.get(id).state
            self._move(
                id,
                state if state in ("training", "skipped", "trained", "set_aside") else "ready",
                # Set aside by hand while its tokens were made: it stays so.
                ("archived", "ready", "training", "skipped", "trained", "set_aside"),
                prepared=prepared,
                shape=shape,
                rows_good=rows_good,
                rows_bad=rows_bad,
                tokens=tokens,
                label_tokens=label_tokens,
                sequences=sequences,
                data_digest=data_digest,
            )

    def prepared_otherwise(self, id: int, prepared: str, data_digest: str, sequences: int) -> None:
        """For cuts: a file has the tokens of an earlier time again, in a folder that may have to be made again."""
        self._database.write(
            "UPDATE files SET prepared = ?, data_digest = ?, sequences = ? WHERE id = ?",
            (prepared, data_digest, sequences, id),
        )

    def reject(self, id: int, reason: str, **counts: int | str | None) -> None:
        """The file cannot be used. `counts`: any of `shape, rows_good, rows_bad, sha256, bytes, archive`."""
        unknown = set(counts) - {"shape", "rows_good", "rows_bad", "sha256", "bytes", "archive"}
        if unknown:
            raise TypeError(f"reject() cannot record {', '.join(sorted(unknown))}")
        self._move(id, "rejected", ("arrived", "archived", "ready", "set_aside"), reason=reason, **counts)

    def begin(self, id: int) -> None:
        """The file has its entry now."""
        self._move(id, "training", ("ready", "skipped"))

    def trained(self, id: int) -> None:
        """The file's last step is done, but in no checkpoint yet."""
        self._move(id, "trained", ("training",))

    def learned(self, ids: Sequence[int]) -> None:
        """A checkpoint holds the last step of each of these files."""
        now = self._database.now()
        with self._database.transaction():
            for id in ids:
                if self.get(id).state != "learned":
                    self._move(id, "learned", ("training", "trained"), learned_at=now)

    def set_aside(self, id: int, reason: str) -> None:
        """The file is not trained any further, in whatever state it was."""
        self._move(id, "set_aside", STATES, reason=reason)

    def purged(self, id: int) -> None:
        """No bytes of a forgotten file are left: it has no place in the archive and no tokens any more."""
        self._move(id, "forgotten", ("forgotten",), archive=None, prepared=None)

    def restore(self, rows: Iterable[FileRow], dropped: Iterable[int] = ()) -> None:
        """Write whole rows under their own ids, over what is there, and remove others: for a ledger made again."""
        with self._database.transaction():
            self._database.write_many("DELETE FROM files WHERE id = ?", ((id,) for id in dropped))
            self._database.write_many(
                f"INSERT OR REPLACE INTO files ({_COLUMNS}) VALUES ({', '.join('?' * (_COLUMNS.count(',') + 1))})",
                ((*values[:9], encode(row.options), *values[10:]) for row in rows for values in [_values(row)]),
            )

    def set_state(self, id: int, state: State, reason: str | None = None) -> None:
        """Put a file into any state: for cuts, and for repairs from what a checkpoint says."""
        with self._database.transaction():
            before = self.get(id)
            learned_at = (before.learned_at or self._database.now()) if state == "learned" else None
            self._move(id, state, STATES, reason=reason, learned_at=learned_at)

    def find_learnable_duplicate(self, sha256: str, excluding: int) -> int | None:
        """The id of the first other file with these bytes that is not out (duplicate, rejected, set aside), or None.

        One whose bytes are archived goes before one that was purged.
        """
        where = "sha256 = ? AND id != ? AND state NOT IN ('rejected', 'duplicate', 'set_aside')"
        for more in ("AND NOT (state = 'forgotten' AND archive IS NULL)", ""):
            found = self._database.row(
                f"SELECT id FROM files WHERE {where} {more} ORDER BY id LIMIT 1", (sha256, excluding)
            )
            if found:
                return found[0]
        return None

    def set_option(self, id: int, key: str, value: Any) -> None:
        """Set one of a file's own settings; None removes it."""
        with self._database.transaction():
            options = encode({k: v for k, v in {**self.get(id).options, key: value}.items() if v is not None})
            self._database.write("UPDATE files SET options = ? WHERE id = ?", (options, id))

    def take_place(self, id: int, of: int) -> None:
        """Let a waiting file stand in the queue where the file `of` stood."""
        self._database.write(
            "UPDATE files SET (priority, batch, sort_key) = (SELECT priority, batch, sort_key FROM files WHERE id = ?) "
            "WHERE id = ?",
            (of, id),
        )

    def prepared_from(self, prepared: str) -> list[int]:
        """The ids of the files whose tokens lie in this prepared folder: the same bytes may have come twice."""
        return [id for (id,) in self._database.rows("SELECT id FROM files WHERE prepared = ?", (prepared,))]

    def prepared_to(self, data_digest: str) -> list[int]:
        """The ids of the files that were last prepared to data with this digest."""
        return [id for (id,) in self._database.rows("SELECT id FROM files WHERE data_digest = ?", (data_digest,))]

    def called(self, name: str) -> list[FileRow]:
        """The files of this name, in the order they arrived; at most a page of them."""
        return self._select(f"WHERE name = ? ORDER BY id LIMIT {PAGE}", (name,))

    def next_to_train(self) -> FileRow | None:
        """The first file of the queue, ready or not: nothing behind it may go before it."""
        return self._first(_WAITING)

    def next_to_take(self) -> FileRow | None:
        """The first file whose bytes are not archived yet."""
        return self._first(f"{_STAGE} 'arrived'")

    def next_to_prepare(self) -> FileRow | None:
        """The first archived file that has no tokens yet."""
        return self._first(f"{_STAGE} 'archived'")

    def queue(self, after: FileRow | None = None, limit: int = PAGE) -> list[FileRow]:
        """Waiting files in the order they will be trained, from behind `after` on; at most `limit` of them."""
        if after is None:
            where, values = _WAITING, ()
        else:
            where = f"{_WAITING} AND (priority, batch, sort_key, id) > (?, ?, ?, ?)"
            values = (after.priority, after.batch, after.sort_key, after.id)
        return self._select(f"{where} {_QUEUE_ORDER} LIMIT ?", (*values, page_size(limit)))

    def counts(self) -> dict[str, int]:
        """How many files there are in each state; states without a file are there with 0."""
        counts: dict[str, int] = dict.fromkeys(STATES, 0)
        counts.update(self._database.rows("SELECT state, count(*) FROM files GROUP BY state"))
        return counts

    def listing(self, state: State | None = None, after_id: int = 0, limit: int = PAGE) -> list[FileRow]:
        """Files in the order they arrived, of one state or of all: the first `limit` behind `after_id`."""
        where, values = ("id > ?", ()) if state is None else ("state = ? AND id > ?", (state,))
        return self._select(f"WHERE {where} ORDER BY id LIMIT ?", (*values, after_id, page_size(limit)))

    def each(self, state: State | None = None) -> Iterator[FileRow]:
        """Every file, of one state or of all, in the order they arrived. Read in pages; no lock is held in between."""
        after = 0
        while page := self.listing(state, after):
            yield from page
            after = page[-1].id

    def get(self, id: int) -> FileRow:
        """The file with this id. Raises KeyError where there is none."""
        found = self._select("WHERE id = ?", (id,))
        if not found:
            raise KeyError(f"no file with id {id}")
        return found[0]

    def _first(self, where: str) -> FileRow | None:
        found = self._select(f"{where} {_QUEUE_ORDER} LIMIT 1", ())
        return found[0] if found else None

    def _select(self, clauses: str, values: Sequence[Any]) -> list[FileRow]:
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM files {clauses}", values)
        return [self._from_sql(row) for row in rows]

    def _from_sql(self, row: tuple[Any, ...]) -> FileRow:
        options = decode(row[9], self._database.path, f"the options of file {row[0]}")
        values = (*row[:9], options, *row[10:])
        return FileRow(*values)

    def _move(self, id: int, state: State, sources: Sequence[State], **values: Any) -> None:
        with self._database.transaction():
            before = self.get(id).state
            if before != state and before not in sources:
                raise ValueError(f"file {id} is {before}; it cannot become {state}")
            columns = "".join(f", {name} = ?" for name in values)
            self._database.write(f"UPDATE files SET state = ?{columns} WHERE id = ?", (state, *values.values(), id))


def _in_order(arrivals: Sequence[Arrival]) -> list[tuple[Any, ...]]:
    """The values of `_insert` in name order, so that ids do not depend on the order in which a folder was read.

    Made before any lock is taken: a hundred thousand files take a second.
    """
    for arrival in arrivals:
        _check(arrival)
    rows = [
        (natural_key(a.name), os.fspath(a.source), a.name, a.priority, encode(dict(a.options)), a.bytes)
        for a in arrivals
    ]
    rows.sort(key=lambda row: row[:4])
    return rows


def _values(row: FileRow) -> tuple[Any, ...]:
    """The columns of a row, in their order, as they are in the object."""
    return tuple(getattr(row, name.strip()) for name in _COLUMNS.split(","))


def _options(options: Mapping[str, Any] | None) -> dict[str, str]:
    return {} if options is None else {"options": encode(dict(options))}


def _check(arrival: Arrival) -> None:
    for text in (arrival.name, os.fspath(arrival.source)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode(errors="backslashreplace").decode()
            raise DataError(f"The name of {shown} is not valid UTF-8. Rename the file and drop it again.") from error
    if arrival.priority not in (NOW, HIGH, NORMAL, LOW):
        raise ValueError(f"a priority is {NOW}, {HIGH}, {NORMAL} or {LOW}, not {arrival.priority!r}")
