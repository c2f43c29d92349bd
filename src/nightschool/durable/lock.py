"""A lock between processes that ends with its holder, whatever ended it.

A POSIX record lock (`lockf`) belongs to one process: it is gone the moment that process is, also after `kill -9`, and
a child forked by the holder does not keep it, as it would with `flock`. The price is a trap: when *any* descriptor on
the file is closed in the holding process, the lock is gone. So nothing here opens a lock file that this process holds,
and nobody else should.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from nightschool.durable.effects import in_words, shown
from nightschool.durable.files import nonce
from nightschool.errors import BusyError, StorageError

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_LONGEST_NOTE = 65_536

ELSEWHERE = 2**31 - 1
"""Stands for a holder that has no pid here, as in another container: no process has this number (Linux stops at 2^22).

The pid that such a holder wrote down is never handed out, for here it may be anyone's, and get the signal meant for it.
"""

# Locks held by this process, by (device, inode). A forked child inherits the table but not the locks: hence `_owner`.
_held: dict[tuple[int, int], Lock] = {}
_table = threading.Lock()


@dataclass(frozen=True)
class Held:
    """Who holds a lock: its process, or ELSEWHERE, and what it wrote into the file, as far as that is known."""

    pid: int
    note: dict[str, Any]


class Lock:
    """An exclusive lock on `path`; `what` names the holder in messages, as in "a nightschool run".

    `about` is written into the file beside pid and time, for people and for `held`. `acquire` never waits. The file
    stays when the lock is released: removing it would let two processes in.
    """

    def __init__(self, path: Path, what: str, about: dict[str, Any] | None = None) -> None:
        self.path = path
        self.what = what
        self.about = about or {}
        self._fd: int | None = None
        self._key = (0, 0)
        self._owner = 0
        self._note = b""

    def acquire(self) -> None:
        """Take the lock. Raises BusyError with the holder's pid if it is taken, StorageError if the disk refuses."""
        with _table:
            if _held_here(self.path):
                raise self._busy(os.getpid(), {})
            while self._fd is None:
                self._fd = self._try()
            _held[self._key] = self
            self._owner = os.getpid()
        self._write_note()

    def still_held(self) -> bool:
        """Whether the lock is this process's, now and without a break since it was taken.

        False once the file was deleted or replaced under it, once it was lost and taken by someone else meanwhile,
        and in a forked child.
        """
        if self._fd is None or self._owner != os.getpid():
            return False
        try:
            named = self.path.stat(follow_symlinks=False)
            if (named.st_dev, named.st_ino) != self._key:
                return False
            # Taking it again changes nothing while it is held, and fails if someone else has it.
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.pread(self._fd, _LONGEST_NOTE, 0) == self._note
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back. Nothing happens if it is not held."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with _table:
            if self._owner == os.getpid():
                _held.pop(self._key, None)
                if self._note_is_ours(fd):
                    with suppress(OSError):
                        os.ftruncate(fd, 0)
            os.close(fd)

    def _note_is_ours(self, fd: int) -> bool:
        """Whether the file may be written: in case the lock was lost, the note in it is its new holder's."""
        try:
            return os.pread(fd, _LONGEST_NOTE, 0) == self._note
        except OSError:
            return False

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _try(self) -> int | None:
        """A locked descriptor, or None if the file was replaced between opening and locking it: try again then."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        with in_words("open the lock", self.path):
            try:
                # Without O_CREAT: in a folder for everybody, Linux refuses it for another user's file.
                fd = os.open(self.path, flags)
            except FileNotFoundError:
                fd = os.open(self.path, flags | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = os.fstat(fd)
            self._key = (opened.st_dev, opened.st_ino)
            named = self.path.stat(follow_symlinks=False)
            if (named.st_dev, named.st_ino) == self._key:
                return fd
        except FileNotFoundError:
            pass
        except OSError as error:
            pid, note = _asked(fd), _read_note(fd)
            os.close(fd)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise self._busy(pid, note) from None
            raise StorageError(
                f"Cannot lock {shown(self.path)}: {error.strerror}. If it is on a network mount, move the workspace "
                f"to a local disk.",
                error.errno,
            ) from error
        os.close(fd)
        return None

    def _write_note(self) -> None:
        """Say in the file who holds it, for people and for messages. The lock holds without it, so a full disk may."""
        note = {
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "id": nonce(),
            **self.about,
        }
        raw = json.dumps(note).encode()
        assert self._fd is not None
        try:
            os.ftruncate(self._fd, 0)
            self._note = raw[: os.pwrite(self._fd, raw, 0)]
        except OSError:
            with suppress(OSError):
                self._note = os.pread(self._fd, _LONGEST_NOTE, 0)

    def _busy(self, pid: int | None, note: dict[str, Any]) -> BusyError:
        since = f", since {note['since']}" if pid == note.get("pid") and "since" in note else ""
        who = "a process in another container" if pid == ELSEWHERE else f"process {pid}{since}"
        if pid is None:  # it let go between the two questions
            who = "another process"
        return BusyError(
            f"{self.what[:1].upper()}{self.what[1:]} is already at work here ({who}; the lock is {shown(self.path)}). "
            f"Stop it first, or leave the work to it.",
            pid,
        )


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock `path`, or None if nobody does. Never disturbs the lock.

    ELSEWHERE if it is a process that cannot be named from here; to signal that gives ProcessLookupError.
    """
    found = held(path)
    return None if found is None else found.pid


def held(path: Path) -> Held | None:
    """Who holds the lock `path`, or None if nobody does. Never disturbs the lock."""
    with _table:
        ours = _held_here(path)
        if ours is not None:
            return Held(os.getpid(), _read(ours._note))
        with in_words("look at the lock", path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            try:
                pid, note = _asked(fd), _read_note(fd)
            finally:
                os.close(fd)
    if pid is None:
        return None
    # Between taking the lock and writing, the note is an earlier holder's. Pids of other containers do not compare.
    return Held(pid, note if pid in (note.get("pid"), ELSEWHERE) else {})


def _held_here(path: Path) -> Lock | None:
    """The lock by which this very process holds `path`; looks at the name only, opens nothing."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    ours = _held.get((found.st_dev, found.st_ino))
    return ours if ours is not None and ours._owner == os.getpid() else None


def _asked(fd: int) -> int | None:
    """Ask the kernel who holds the lock; it says 0, or less, for someone whom it cannot name from here."""
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return None
    return pid if pid > 0 else ELSEWHERE


def _read_note(fd: int) -> dict[str, Any]:
    try:
        return _read(os.pread(fd, _LONGEST_NOTE, 0))
    except OSError:
        return {}


def _read(raw: bytes) -> dict[str, Any]:
    try:
        note = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}
