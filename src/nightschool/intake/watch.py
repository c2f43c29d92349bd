"""Which files in the inbox may be taken. Looking is `scan`; deciding is `settled`, a pure function of the clock too.

A file is ready when size, modification time and inode have stayed as they are for a while: a copy in progress changes
at least one of them. A program that only pauses still has it open, which `held_open` tells. A file that was renamed
into place is whole at once, and is told by one of two signs:

- its inode changed (a rename does that) so much later than its content that the content had rested by then, both by
  the clock of the file system itself;
- the last look saw the same inode under an unfinished name that holds this one, as in `data.jsonl.part`.

What can never be a data file is refused with a reason, left where it is, and told once. `NAME.toml` holds settings for
NAME beside it: both settle together, and alone it is never taken.
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
from nightschool.intake.sidecar import ENDING as SIDECAR

HIGH, NORMAL, LOW = 0, 1, 2
LONGEST_NAME = 200
"""Bytes in a file's or folder's name. The system's limit is 255; `.bad-rows.jsonl` and a number must fit behind it."""
LONGEST_PATH = 1000
"""Bytes in a file's name with the folders below the inbox. The system's limit for a whole path is 4096."""
ASIDE = ".taken-"
"""Names that files get for the moment in which they are taken out of the inbox begin so."""

UNWRITABLE = "files cannot be taken out of this folder: permission denied; give this user the right to write to it"
ALONE = "it holds settings for a data file of the same name without .toml, which is not beside it; drop that file too"

_IGNORED_ENDINGS = (".part", ".partial", ".filepart", ".tmp", ".crdownload", ".download", ".swp", "~")
_BREAKING = ("Cc", "Zl", "Zp")
_KINDS = (
    (stat.S_ISLNK, "it is a symbolic link, and links are not followed; copy the file itself"),
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
    """A plain file in the inbox. `name` is relative to its priority's folder; `changed_ns` is its inode's time."""

    stamp: Stamp
    priority: int
    name: str = ""
    changed_ns: int = 0


@dataclass(frozen=True)
class Snapshot:
    """What one look at the inbox found, by absolute path.

    Attributes:
        files: the plain files.
        refused: why an item is no data file.
        unfinished: names that are ignored, by (device, inode).
        folders: those that were looked into.
    """

    files: Mapping[str, Found]
    refused: Mapping[str, str]
    unfinished: Mapping[tuple[int, int], str] = field(default_factory=dict)
    folders: Collection[str] = ()


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
    unfinished: Mapping[tuple[int, int], str] = field(default_factory=dict)


class Ready(NamedTuple):
    """A file that may be taken now."""

    path: Path
    priority: int
    name: str = ""
    size: int = 0


class Refused(NamedTuple):
    """An item that is left alone, with the reason. The path may hold any character: show it with `words.escape`."""

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
    """True for names that programs give to what is not finished, and for hidden files; also of folders."""
    return name.startswith(".") or name.lower().endswith(_IGNORED_ENDINGS)


def stamp(found: os.stat_result) -> Stamp:
    """The part of a file's state by which two looks are compared."""
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def scan(inbox: Path) -> Snapshot:
    """Look at the inbox and the folders in it. Nothing is opened, and no link is followed.

    `high` and `low` directly in the inbox set a priority; every other folder is a part of the names of its files.

    Raises:
        WorkspaceError: the inbox is not there. That is never taken for an empty one.
    """
    root = str(inbox.absolute())
    look = _Look({}, {}, {}, [])
    folders = [(root, NORMAL, "")]
    while folders:
        folder, priority, prefix = folders.pop()
        try:
            folders += look.into(folder, priority, prefix, top=folder == root)
        except (FileNotFoundError, NotADirectoryError):
            if folder == root:
                raise WorkspaceError(
                    f"The inbox {inbox} is not there. If it lies on another disk, mount it; else make the folder again."
                ) from None
        except PermissionError:
            look.refused[folder] = "the folder cannot be read: permission denied; give this user the right to read it"
        except OSError as error:
            look.refused[folder] = f"the folder cannot be read: {error.strerror or error}"
    return Snapshot(look.files, look.refused, look.unfinished, look.folders)


class _Look(NamedTuple):
    """What a scan has found so far."""

    files: dict[str, Found]
    refused: dict[str, str]
    unfinished: dict[tuple[int, int], str]
    folders: list[str]

    def into(self, folder: str, priority: int, prefix: str, top: bool) -> list[tuple[str, int, str]]:
        """Look into one folder; the folders in it, each with its priority and the beginning of its files' names."""
        inner: list[tuple[str, int, str]] = []
        if Path(folder).is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            self.refused[folder] = UNWRITABLE
            return inner
        with os.scandir(folder) as entries:
            self.folders.append(folder)
            for entry in entries:
                try:
                    state = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.refused[entry.path] = f"it cannot be looked at: {error.strerror or error}"
                    continue
                name = entry.name
                if ignored(name):
                    if stat.S_ISREG(state.st_mode) and not name.startswith(ASIDE):
                        self.unfinished[state.st_dev, state.st_ino] = name
                    continue
                reason = _refusal(entry, state, prefix)
                if reason:
                    self.refused[entry.path] = reason
                elif stat.S_ISREG(state.st_mode):
                    self.files[entry.path] = Found(stamp(state), priority, prefix + name, state.st_ctime_ns)
                elif top and name in ("high", "low"):
                    inner.append((entry.path, HIGH if name == "high" else LOW, ""))
                else:
                    inner.append((entry.path, priority, f"{prefix}{name}/"))
        return inner


def _refusal(entry: os.DirEntry[str], state: os.stat_result, prefix: str) -> str | None:
    """Why an item is neither a data file nor a folder that is looked into."""
    folder = stat.S_ISDIR(state.st_mode)
    if not folder and not stat.S_ISREG(state.st_mode):
        return next((words for test, words in _KINDS if test(state.st_mode)), "it is a device")
    reason = name_refusal(entry.name, prefix)
    if reason is None and not folder and not os.access(entry.path, os.R_OK):
        return "it cannot be read: permission denied; give this user the right to read it"
    return reason


def name_refusal(name: str, prefix: str = "") -> str | None:
    """Why no file or folder may be called so, below folders that make `prefix` (ending in a slash); None if it may."""
    if name.isascii() and name.isprintable():
        length, above = len(name), len(prefix.encode())
    else:
        try:
            length, above = len(name.encode()), len(prefix.encode())
        except UnicodeEncodeError:
            return "its name is not valid UTF-8; rename it"
        if any(unicodedata.category(character) in _BREAKING for character in name):
            return "its name holds a line break or another control character; rename it"
    if length > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes; rename it"
    if length + above > LONGEST_PATH:
        return f"its name with its folders is longer than {LONGEST_PATH} bytes; put it higher up"
    return None


def settled(previous: Watched | None, now: Snapshot, clock: float, settle_seconds: float) -> Verdict:
    """Say which files are whole: unchanged for `settle_seconds`, or renamed into place.

    Args:
        previous: `state` of the last verdict; None at the first look, which starts the waiting for every file.
        now: what `scan` found.
        clock: monotonic seconds.
        settle_seconds: how long a file must have rested; 0 takes it at the first look.
    """
    before = previous or Watched()
    seen: dict[str, Seen] = {}
    for path, found in now.files.items():
        known = before.seen.get(path)
        if known is None or known.stamp != found.stamp:
            whole = _renamed_in(path, found, before, settle_seconds)
            known = Seen(found.stamp, clock - settle_seconds if whole else clock, False)
        seen[path] = known

    def rested(path: str) -> bool:
        return clock - seen[path].since >= settle_seconds

    ready: list[Ready] = []
    refused = dict(now.refused)
    waiting = 0
    for path in sorted(now.files):
        found = now.files[path]
        if path.endswith(SIDECAR):
            data = path.removesuffix(SIDECAR)
            if data in now.files or data in now.refused:
                continue
            if rested(path):
                refused[path] = ALONE
            else:
                waiting += 1
            continue
        if seen[path].reported:
            continue
        beside = path + SIDECAR
        if beside in now.refused:
            refused[path] = f"the settings beside it, {Path(beside).name}, are of no use: {now.refused[beside]}"
        elif rested(path) and (beside not in seen or rested(beside)):
            seen[path] = seen[path]._replace(reported=True)
            ready.append(Ready(Path(path), found.priority, found.name or Path(path).name, found.stamp.size))
        else:
            waiting += 1
    news = [Refused(Path(p), reason) for p, reason in sorted(refused.items()) if before.refused.get(p) != reason]
    return Verdict(Watched(seen, refused, now.unfinished), ready, waiting, news)


def _renamed_in(path: str, found: Found, before: Watched, settle_seconds: float) -> bool:
    """Whether a file that is new at its name was whole when it got it."""
    # A name of its own, because inodes are given again: another program's temporary file may have had this one.
    unfinished = before.unfinished.get((found.stamp.device, found.stamp.inode))
    if unfinished is not None and Path(path).name in unfinished:
        return True
    # While a file is written to, both times move together. Copies that keep the time set it when they are done.
    return found.changed_ns - found.stamp.modified_ns >= settle_seconds * 1e9 > 0


def postponed(verdict: Verdict, paths: Collection[Path]) -> Verdict:
    """The verdict without these files: they wait on, and the next look names them again if they stay unchanged."""
    if not paths:
        return verdict
    seen = dict(verdict.state.seen)
    # What is gone by now has nothing to wait for.
    names = [name for name in map(str, paths) if name in seen]
    seen.update({name: seen[name]._replace(reported=False) for name in names})
    ready = [item for item in verdict.ready if item.path not in paths]
    return replace(verdict, state=replace(verdict.state, seen=seen), ready=ready, waiting=verdict.waiting + len(names))


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
