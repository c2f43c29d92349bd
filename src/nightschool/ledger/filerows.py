"""The table of files: its states, its schema, its rows, and what everything that uses it is built on.

    arrived -> archived -> ready -> training -> trained -> learned     duplicate   rejected   set_aside   forgotten
                                    |      ^
                                    skipped

`arrived`: seen, its bytes still where they were dropped. `archived`: kept byte for byte. `ready`: tokenised.
`training`: has an entry. `skipped`: its entry ended early, and the rest of it waits in the queue. `trained`: its last
step is done. `learned`: a checkpoint holds its last step. The others end there, with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nightschool.ledger.database import Database, decode

NOW, HIGH, NORMAL, LOW = -1, 0, 1, 2
"""Priorities: a lower number goes first. NOW interrupts the file in training."""

REST = "rest"
"""The option of a file whose entry ended early and whose remaining steps are to be trained later: the recipe they are
trained by. What they are follows from the entries: all behind the last one's end."""
TAKEN_OUT = "taken_out"
"""The option of a file that left the queue before its bytes were archived, with why: it is set aside when they are."""

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

COLUMNS = (
    "id, name, sha256, bytes, priority, batch, sort_key, source, archive, options, state, reason, shape, rows_good, "
    "rows_bad, tokens, label_tokens, sequences, prepared, data_digest, duplicate_of, arrived_at, learned_at"
)


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


class FileRows:
    """The table `files`: single rows, and moving one to another state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, id: int) -> FileRow:
        """The file with this id. Raises KeyError where there is none."""
        found = self._select("WHERE id = ?", (id,))
        if not found:
            raise KeyError(f"no file with id {id}")
        return found[0]

    def _select(self, clauses: str, values: Sequence[Any]) -> list[FileRow]:
        rows = self._database.rows(f"SELECT {COLUMNS} FROM files {clauses}", values)
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
