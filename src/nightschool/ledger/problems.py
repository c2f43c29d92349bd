"""SQLite's failures in plain words: what happened, to which file, and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from nightschool.errors import NightschoolError, StorageError, WorkspaceError
from nightschool.ledger.holders import holders, named


def explain(error: sqlite3.Error, path: Path) -> NightschoolError:
    """The error to raise for one of SQLite's: WorkspaceError for a missing file, else StorageError with its errno."""
    extended = getattr(error, "sqlite_errorcode", None)
    code = None if extended is None else extended & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if extended == sqlite3.SQLITE_READONLY_DBMOVED:
        return StorageError(
            f"{path} was moved or deleted while nightschool was using it; nothing more is recorded. Stop nightschool, "
            "put the file back, and start again.",
            errno.ENOENT,
        )
    if code == sqlite3.SQLITE_READONLY:
        return StorageError(
            f"{path} cannot be written: the file, its folder or the file system is read-only for this user. Make it "
            "writable. (A file system that turned read-only by itself usually had a disk error: see dmesg.)",
            errno.EROFS,
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _locked(path)
    if code == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(path)
    if code == sqlite3.SQLITE_IOERR:
        if _no_room(path):
            return _full(path)
        return StorageError(
            f"The disk reported an error while {path} was read or written ({error}). Nothing of this change was kept. "
            "Look at the system log (dmesg) for the disk's own message before you start again.",
            errno.EIO,
        )
    return damaged(path, str(error))


def damaged(path: Path, detail: str) -> StorageError:
    """The error for a file whose content no whole ledger could have."""
    return StorageError(
        f"{path} is damaged: {detail}. Stop nightschool, and make the file again: `nightschool doctor "
        "--rebuild-ledger` does that from the checkpoints, the archive and copies of it. Or restore "
        f"{path.parent.name}/{path.name} from a backup and remove {path.name}-journal beside it. Checkpoints and "
        "archived files are not touched by this."
    )


def missing(path: Path) -> WorkspaceError:
    """The error for a ledger that is not there; it is never created on the way."""
    return WorkspaceError(
        f"{path} is not there, so {path.parent.parent} is no workspace, or a part of it is missing. If the folder lies "
        "on a drive that is not mounted, mount it; if the file is lost, `nightschool doctor --rebuild-ledger` makes it "
        "again. Nothing was created."
    )


def _locked(path: Path) -> StorageError:
    who = named(holders(path))
    what = f"It is {who} that has it: where that hangs, end it."
    if not who:
        what = (
            "If no nightschool command hangs, some other program (a database browser, a backup) has the file open: "
            "close it."
        )
    return StorageError(
        f"{path} stayed locked by another process for too long, so nothing was read or changed. {what}", errno.EBUSY
    )


def _full(path: Path) -> StorageError:
    return StorageError(
        f"The disk is full: {path} could not be written, and nothing of this change was kept. Free some space on it.",
        errno.ENOSPC,
    )


def _cannot_open(path: Path) -> NightschoolError:
    """SQLite says only that it could not open something: the file, or the journal beside it."""
    forbidden = StorageError(
        f"{path} or its folder may not be opened by this user. Check who owns them and their permissions.", errno.EACCES
    )
    try:
        path.stat()
    except PermissionError:
        return forbidden
    except OSError:
        return missing(path)
    if path.is_dir():
        return StorageError(f"{path} is a folder, not a file. Move it away and restore the file.", errno.EISDIR)
    if _no_room(path):
        return _full(path)
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        return forbidden
    return StorageError(f"{path} or {path.name}-journal beside it cannot be opened. Check both files.", errno.EIO)


def _no_room(path: Path) -> bool:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail == 0 or (disk.f_files > 0 and disk.f_favail == 0)
