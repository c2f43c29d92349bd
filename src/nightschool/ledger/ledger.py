"""`Ledger`: opens or creates the file, and holds one object per table family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Self

from nightschool.ledger import schema
from nightschool.ledger.amounts import Amounts
from nightschool.ledger.boundaries import Boundaries
from nightschool.ledger.checkpoints import Checkpoints
from nightschool.ledger.database import Database, utc_now
from nightschool.ledger.entries import Entries
from nightschool.ledger.events import Events
from nightschool.ledger.files import Files
from nightschool.ledger.holdouts import Holdouts
from nightschool.ledger.line import Line
from nightschool.ledger.machine import Machine
from nightschool.ledger.steps import Steps


class Ledger:
    """An open ledger. Threads may share one; every process opens its own.

    `files`, `line`, `entries`, `steps`, `checkpoints`, `boundaries`, `holdouts`, `events` and `machine` are the table
    families. Every method of theirs that writes is one durable transaction by itself; `transaction()` joins several
    into one. Each of them may raise StorageError: the disk is full (errno ENOSPC), read-only, or failing, the file
    is damaged, or it stayed locked.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.path = database.path
        self.files = Files(database)
        self.line = Line(database, self.files)
        self.amounts = Amounts(database)
        self.entries = Entries(database)
        self.steps = Steps(database)
        self.checkpoints = Checkpoints(database)
        self.boundaries = Boundaries(database)
        self.holdouts = Holdouts(database)
        self.events = Events(database)
        self.machine = Machine(database)

    @classmethod
    def create(cls, path: Path, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Make a new ledger at `path` and open it. Raises WorkspaceError where one exists.

        A file left empty by a `create` that was killed counts as not there. `clock` gives aware datetimes.
        """
        database = Database(path, clock, may_create=True)
        try:
            schema.install(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open the ledger at `path`, and migrate it where it is older than this program.

        Raises WorkspaceError where it is missing (it is never created here), and StorageError where it is damaged,
        empty, another program's, or of a newer version. `clock` gives aware datetimes.
        """
        database = Database(path, clock)
        try:
            schema.migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def transaction(self) -> AbstractContextManager[None]:
        """Group several calls into one atomic, durable change. Nested uses join the outermost one."""
        return self._database.transaction()

    def called(self, file_ids: Sequence[int]) -> str:
        """What people call the data of an entry: its file's name; of several, the first one's and how many more.

        Raises KeyError where there is no such file.
        """
        name = self.files.get(file_ids[0]).name
        return name if len(file_ids) == 1 else f"{name} and {len(file_ids) - 1:,} more"

    def check(self) -> list[str]:
        """Let SQLite read the whole file, holding its read lock; the problems in words, empty when there are none."""
        found = [str(row[0]) for row in self._database.rows("PRAGMA quick_check(100)")]
        return [] if found == ["ok"] else found

    def backup_to(self, path: Path, *, patience: float = 10.0) -> None:
        """Write a copy of the whole ledger, as it is at one moment, to the new file `path`, and check that it is sound.

        Through SQLite's own backup: it copies some pages at a time, holds no lock in between, and begins anew when
        another process changes the ledger meanwhile; after `patience` seconds others wait until the rest is copied.
        The copy is not made durable here: seal the folder it lies in.

        Raises:
            StorageError: the disk refuses, or `path` exists.
        """
        self._database.backup_to(path, patience)

    def wait_at_most(self, seconds: float | None) -> None:
        """How long this connection waits from now on for another process that has the ledger; None: as usual."""
        self._database.wait_at_most(seconds)

    def close(self) -> None:
        """Close the connection. A closed ledger cannot be used again."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
