"""One guarded SQLite connection: how the ledger is locked, how it commits, and how its failures are said.

The rules, and what each one is for:

* `journal_mode=TRUNCATE, synchronous=FULL`: a commit that has returned survives a power cut. DELETE mode does not
  sync the folder after it removes the journal; WAL is avoided because of a corruption bug in widespread SQLite
  versions.
* every write runs in `BEGIN IMMEDIATE`: the lock is taken before anything is read, so two writers wait for each other
  instead of one of them failing half-way.
* every read fetches all of its rows and lets go of the lock before it returns; what may be long is read page by page.
  With a rollback journal a reader who keeps a cursor open delays every commit of the trainer.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightschool.errors import StorageError
from nightschool.ledger.problems import damaged, explain

BUSY_SECONDS = 30.0
"""How long a statement waits for another process before it fails."""

_holding: set[int] = set()
"""Which connections of this process hold a lock of a ledger, or wait for one: in a change, a read or a copy."""

_gate = threading.Lock()
"""Held by whoever comes to be in `_holding`, and while `untouched` is entered."""

COPY_PAGES = 256
"""Pages (of 4 KB) that a backup copies before it lets others write: a millisecond or two."""

COPY_PAUSE = 0.002
"""Seconds between two such portions."""

BEGIN = "BEGIN IMMEDIATE"
"""How every change begins: with the lock, or not at all."""

PAGE = 500
"""Rows in a page unless the caller says otherwise."""

PAGE_LIMIT = 10_000
"""The most rows a single read may fetch: the lock is held while they are fetched."""


class _Restless(Exception):
    """The file changes faster than it can be copied in portions."""


class Database:
    """A connection to one existing ledger file. Threads may share it: they take turns.

    Not to be used on both sides of a fork; a child process opens its own.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime], *, may_create: bool = False) -> None:
        """Connect to `path`. Raises StorageError where the file cannot be opened or is no database."""
        self.path = Path(path).absolute()
        self._clock = clock
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._depth = 0
        self._failed: BaseException | None = None
        mode = "rwc" if may_create else "rw"
        with self._errors():
            self._connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with _hold(id(self)), self._errors():
                self._connection.execute("PRAGMA synchronous=FULL")
                mode = self._connection.execute("PRAGMA journal_mode=TRUNCATE").fetchone()[0]
                if mode != "truncate":
                    raise StorageError(
                        f"{self.path} is in SQLite journal mode {mode!r} and cannot be switched to 'truncate', the "
                        "only one whose commits nightschool trusts. Close every other program that has the file open."
                    )
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection. Whatever was not committed is gone."""
        with self._lock:
            self._connection.close()

    def wait_at_most(self, seconds: float | None) -> None:
        """See `Ledger.wait_at_most`."""
        with self._lock, self._errors():
            milliseconds = round((BUSY_SECONDS if seconds is None else seconds) * 1000)
            self._connection.execute(f"PRAGMA busy_timeout={milliseconds}")

    def backup_to(self, path: Path, patience: float) -> None:
        """See `Ledger.backup_to`. On a connection of its own, so that threads which share this one go on meanwhile."""
        self._guard()
        if path.exists():
            raise StorageError(f"{path} exists already; a copy of the ledger was not written over it.", errno.EEXIST)
        try:
            found = _backup(self.path, path, patience)
        except sqlite3.DatabaseError as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            raise explain(error, path if code in _DISK_REFUSES else self.path) from error
        if found != "ok":
            raise damaged(self.path, f"a copy of it is not sound ({found})")

    def now(self) -> str:
        """The present time as UTC ISO 8601 with milliseconds, from the clock that was passed in."""
        return self._clock().astimezone(UTC).isoformat(timespec="milliseconds")

    @property
    def in_transaction(self) -> bool:
        """Whether a change is under way on this connection, which may yet be taken back."""
        return self._connection.in_transaction

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all. Inside another `transaction()` it joins that one.

        Where an inner block fails the whole transaction is lost, even if somebody swallows the exception on the way
        out: the outermost block then raises StorageError instead of committing one half.
        """
        self._guard()
        with self._lock:
            if self._depth:
                yield from self._inner()
            else:
                yield from self._outermost()

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Fetch every row of a query. The read lock is gone when this returns."""
        self._guard()
        with self._lock:
            if self._depth:  # the lock is held anyway
                return self._fetch(sql, parameters)
            with _hold(id(self)):
                return self._fetch(sql, parameters)

    def _fetch(self, sql: str, parameters: Sequence[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> tuple[Any, ...] | None:
        """Fetch the first row of a query that is limited to one, or None."""
        found = self.rows(sql, parameters)
        return found[0] if found else None

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Fetch the single value of a query that always gives one row."""
        return self.rows(sql, parameters)[0][0]

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one writing statement in a transaction; the cursor tells `lastrowid` and `rowcount`."""
        with self.transaction(), self._errors():
            return self._connection.execute(sql, parameters)

    def write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one writing statement for many rows in a transaction."""
        with self.transaction(), self._errors():
            self._connection.executemany(sql, rows)

    def _outermost(self) -> Iterator[None]:
        with _hold(id(self)):
            try:
                with self._errors():
                    if self._connection.in_transaction:  # the disk failed even while the one before was undone
                        self._connection.execute("ROLLBACK")
                    self._connection.execute(BEGIN)
                self._depth, self._failed = 1, None
                try:
                    yield
                    if self._failed or not self._connection.in_transaction:
                        raise self._half_way()
                    with self._errors():
                        self._connection.execute("COMMIT")
                except BaseException:
                    self._rollback()
                    raise
            finally:
                self._depth = 0

    def _inner(self) -> Iterator[None]:
        # SQLite itself gives up the whole transaction on a full disk; going on would commit statement by statement.
        if self._failed or not self._connection.in_transaction:
            raise self._half_way()
        self._depth += 1
        try:
            yield
        except BaseException as error:
            self._failed = self._failed or error
            raise
        finally:
            self._depth -= 1

    def _half_way(self) -> StorageError:
        text = f"A part of this change to {self.path} failed, so nothing of it was kept: {self._failed}"
        error = StorageError(text, getattr(self._failed, "errno", None))
        error.__cause__ = self._failed
        return error

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            # What led here is being reported already; if this fails too, the next transaction tries it again.
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _guard(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this ledger was opened before a fork; open it again in the child process")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's exceptions into ours. Those that are a mistake in the code stay what they are."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            raise explain(error, self.path) from error
        except UnicodeDecodeError as error:  # a message of SQLite's that quotes damaged content
            raise damaged(self.path, str(error)) from error


@contextmanager
def _hold(key: int) -> Iterator[None]:
    with _gate:
        _holding.add(key)
    try:
        yield
    finally:
        _holding.discard(key)


@contextmanager
def untouched() -> Iterator[bool]:
    """Whether no thread of this process holds a lock of a ledger; while this is entered, none then takes one.

    A process that is stopped with one keeps all others from writing. Never waits, so that a signal's handler may ask.
    """
    if not _gate.acquire(blocking=False):
        yield False
        return
    try:
        yield not _holding
    finally:
        _gate.release()


_DISK_REFUSES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
"""What, in a backup, is about the copy; anything else is about the ledger."""


def _backup(path: Path, copy: Path, patience: float) -> str:
    """Copy the database at `path`; what SQLite says of the copy, "ok" if it is sound."""
    end = time.monotonic() + patience

    def after_portion(status: int, remaining: int, total: int) -> None:
        del status, total
        if remaining:
            if time.monotonic() > end:
                raise _Restless
            _holding.discard(id(source))  # no lock is held between two portions
            time.sleep(COPY_PAUSE)
            with _gate:
                _holding.add(id(source))

    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as source,
        closing(sqlite3.connect(copy, isolation_level=None)) as target,
    ):
        # Whoever asked seals the folder it is in: only then does it count.
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("PRAGMA synchronous=OFF")
        with _hold(id(source)):
            try:
                source.backup(target, pages=COPY_PAGES, progress=after_portion, sleep=COPY_PAUSE)
            except _Restless:
                source.backup(target)
        return str(target.execute("PRAGMA quick_check(1)").fetchone()[0])


def utc_now() -> datetime:
    """The clock used unless a test passes its own."""
    return datetime.now(UTC)


def encode(value: Any) -> str:
    """A value as JSON text. Paths become strings, and so do NaN and infinities, which JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=os.fspath)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=os.fspath)


def decode(text: str, path: Path, what: str) -> Any:
    """The value that `encode` stored. Raises StorageError where the text is not JSON: then the file is damaged."""
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise damaged(path, f"{what} cannot be read ({error})") from error


def page_size(limit: int) -> int:
    """Check the number of rows asked for in a single read. Raises ValueError where it would hold the lock for long."""
    if not 0 < limit <= PAGE_LIMIT:
        raise ValueError(f"a page holds 1 to {PAGE_LIMIT} rows, not {limit}; read page by page")
    return limit


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
