"""Which files in the inbox may be taken. Looking is `scan`; deciding is `settled`, a pure function of the clock too.

A file is ready when size, modification time and inode have stayed as they are for a while: a copy in progress changes
at least one of them. A program that only pauses still has it open, which `held_open` tells. What can never be a data
file is refused with a reason, left where it is, and told once.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from nightschool.errors import WorkspaceError

HIGH, NORMAL, LOW = 0, 1, 2
LONGEST_NAME = 200
"""Bytes in a file's name. The system's limit is 255; `.bad-rows.jsonl` and a number must fit behind it."""

UNWRITABLE = "files cannot be taken out of this folder: permission denied; give this user the right to write to it"

_IGNORED_ENDINGS = (".part", ".partial", ".filepart", ".tmp", ".crdownload", ".download", ".swp", "~")
_BREAKING = ("Cc", "Zl", "Zp")
_KINDS = (
    (stat.S_ISLNK, "it is a symbolic link, and links are not followed; copy the file itself"),
    (stat.S_ISDIR, "it is a folder; drop the files in it"),
    (stat.S_ISFIFO, "it is a named pipe"),
    (stat.S_ISSOCK, "it is a socket"),
)


class Stamp(NamedTuple):
    """What changes when a file is written to or replaced."""

    device: int
    inode: int
    size: int
    modified_ns: int


class Found(NamedTuple):
    """A plain file in the inbox."""

    stamp: Stamp
    priority: int


@dataclass(frozen=True)
class Snapshot:
    """What one look at the inbox found, by absolute path. `refused` gives the reason why an item is no data file."""

    files: Mapping[str, Found]
    refused: Mapping[str, str]


class Seen(NamedTuple):
    """A file as the last look saw it: since when it is unchanged, and whether it was reported as ready."""

    stamp: Stamp
    since: float
    reported: bool


@dataclass(frozen=True)
class Watched:
    """What `settled` remembers from one look to the next."""

    seen: Mapping[str, Seen] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Ready(NamedTuple):
    """A file that may be taken now."""

    path: Path
    priority: int


class Refused(NamedTuple):
    """An item that is left alone, with the reason. The path may hold any character: show it with `logs.escape`."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What to do now, and the state to pass in at the next look.

    `ready` is sorted by path and names each version of a file once: it is repeated only if the caller goes on with
    the old state. `waiting` counts the files that have not settled. `refused` names what was not refused before.
    """

    state: Watched
    ready: list[Ready]
    waiting: int
    refused: list[Refused]


def ignored(name: str) -> bool:
    """True for names that programs give to what is not finished, and for hidden files."""
    return name.startswith(".") or name.lower().endswith(_IGNORED_ENDINGS)


def stamp(found: os.stat_result) -> Stamp:
    """The part of a file's state by which two looks are compared."""
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def scan(inbox: Path) -> Snapshot:
    """Look at `inbox`, `inbox/high` and `inbox/low`. Nothing is opened or followed.

    Raises:
        WorkspaceError: the inbox is not there. That is never taken for an empty one.
    """
    files: dict[str, Found] = {}
    refused: dict[str, str] = {}
    root = inbox.absolute()
    for folder, priority in ((root / "high", HIGH), (root, NORMAL), (root / "low", LOW)):
        try:
            if folder != root and folder.is_symlink():
                refused[str(folder)] = _KINDS[0][1]
                continue
            if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
                refused[str(folder)] = UNWRITABLE
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if ignored(entry.name) or (folder == root and entry.name in ("high", "low")):
                        continue
                    try:
                        state = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    reason = _refusal(entry, state)
                    if reason:
                        refused[entry.path] = reason
                    else:
                        files[entry.path] = Found(stamp(state), priority)
        except (FileNotFoundError, NotADirectoryError):
            if folder == root:
                raise WorkspaceError(
                    f"The inbox {inbox} is not there. If it lies on another disk, mount it; else make the folder again."
                ) from None
        except PermissionError:
            refused[str(folder)] = "the folder cannot be read: permission denied; give this user the right to read it"
    return Snapshot(files, refused)


def _refusal(entry: os.DirEntry[str], state: os.stat_result) -> str | None:
    if not stat.S_ISREG(state.st_mode):
        return next((words for test, words in _KINDS if test(state.st_mode)), "it is a device")
    try:
        length = len(entry.name.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    if any(unicodedata.category(character) in _BREAKING for character in entry.name):
        return "its name holds a line break or another control character; rename it"
    if length > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes; rename it"
    if not os.access(entry.path, os.R_OK):
        return "it cannot be read: permission denied; give this user the right to read it"
    return None


def settled(previous: Watched | None, now: Snapshot, clock: float, settle_seconds: float) -> Verdict:
    """Say which files have been unchanged for `settle_seconds`.

    Args:
        previous: `state` of the last verdict; None at the first look, which starts the waiting for every file.
        now: what `scan` found.
        clock: monotonic seconds.
        settle_seconds: how long a file must have rested; 0 takes it at the first look.
    """
    before = previous or Watched()
    seen: dict[str, Seen] = {}
    ready: list[Ready] = []
    waiting = 0
    for path in sorted(now.files):
        found = now.files[path]
        known = before.seen.get(path)
        if known is None or known.stamp != found.stamp:
            known = Seen(found.stamp, clock, False)
        if not known.reported:
            if clock - known.since >= settle_seconds:
                known = known._replace(reported=True)
                ready.append(Ready(Path(path), found.priority))
            else:
                waiting += 1
        seen[path] = known
    news = [Refused(Path(p), reason) for p, reason in sorted(now.refused.items()) if before.refused.get(p) != reason]
    return Verdict(Watched(seen, dict(now.refused)), ready, waiting, news)


def postponed(verdict: Verdict, paths: Collection[Path]) -> Verdict:
    """The verdict without these files: they wait on, and the next look names them again if they stay unchanged."""
    if not paths:
        return verdict
    seen = dict(verdict.state.seen)
    # What is gone by now has nothing to wait for.
    names = [name for name in map(str, paths) if name in seen]
    seen.update({name: seen[name]._replace(reported=False) for name in names})
    ready = [item for item in verdict.ready if item.path not in paths]
    return replace(
        verdict, state=Watched(seen, verdict.state.refused), ready=ready, waiting=verdict.waiting + len(names)
    )


def held_open(path: Path) -> bool:
    """True if a process has the file open for writing; False where that cannot be told.

    The kernel grants a read lease only on a file without writers. Not every file system or owner may ask for one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Whoever opens the file while the lease is held makes the kernel send a signal. The usual one, SIGIO, would
        # end this process; SIGURG is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return False
    finally:
        os.close(descriptor)
    return False
