"""The one place where this package touches the disk to change it.

Everything in `durable` that creates, writes, syncs, renames, links or removes goes through `active()`. A test puts
another object there (`use`), and can then record every operation, enumerate what a power cut may leave behind, or
make any single one of them fail. Reading is not routed: it changes nothing that a power cut could undo.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightschool.errors import StorageError


class Effects:
    """The real thing: one system call per method. A method that fails raises OSError."""

    def create(self, path: Path) -> int:
        """Create a new empty file, open for writing; FileExistsError if the name is taken, even by a broken link."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def open(self, path: Path) -> int:
        """Open a file for reading and syncing. Follows no link, and does not block on a FIFO."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def open_folder(self, path: Path) -> int:
        """Open a folder for syncing. A link to a folder is followed: a workspace may be reached through one."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data` at the file's position; returns how many bytes were taken."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Make a file's content, or a folder's entries, survive a power cut."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor that `create` or `open` returned."""
        os.close(fd)

    def mkdir(self, path: Path) -> None:
        """Create one folder whose parent exists."""
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        """Rename atomically; a file at `target` is replaced."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """Give the file at `source` a second name; FileExistsError if `target` is taken."""
        target.hardlink_to(source)

    def symlink(self, text: str, path: Path) -> None:
        """Create a symbolic link at `path` that points to `text`; FileExistsError if the name is taken."""
        path.symlink_to(text)

    def unlink(self, path: Path) -> None:
        """Remove a name of a file."""
        path.unlink()

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def protect(self, path: Path) -> None:
        """Take away everybody's right to write to a file. Synced with the file itself."""
        path.chmod(path.stat().st_mode & 0o444)


_active: Effects = Effects()


def active() -> Effects:
    """The object that all changes go through at present."""
    return _active


@contextmanager
def use(effects: Effects) -> Iterator[None]:
    """Send every change through `effects` while the block runs. For tests; the whole process is affected."""
    global _active
    before, _active = _active, effects
    try:
        yield
    finally:
        _active = before


def sync_file(path: Path) -> None:
    """Make the content of the file at `path` durable. Raises OSError; a failed fsync is never tried again."""
    _sync_and_close(active().open(path))


def sync_folder(path: Path) -> None:
    """Make the entries of the folder at `path` durable: what was created, renamed or removed in it stays so."""
    _sync_and_close(active().open_folder(path))


def _sync_and_close(fd: int) -> None:
    try:
        active().sync(fd)
    finally:
        active().close(fd)


_EXPLANATIONS = {
    errno.ENOSPC: "there is no room left on the disk. What was saved before is untouched; free some space",
    errno.EDQUOT: "the disk quota is used up. What was saved before is untouched; free some space or raise the quota",
    errno.EROFS: "the file system is read-only. Mount it writable (a disk error can make Linux do this: see `dmesg`)",
    errno.EIO: "the disk reported an input/output error, so these bytes cannot be trusted to be stored. What was "
    "saved before still stands; look at `dmesg` and at the disk's health before going on",
    errno.EACCES: "permission denied. Check who owns it and that this user may write there",
    errno.EPERM: "the operation is not permitted. Check who owns it and whether it is marked immutable",
    errno.ENOENT: "it, or the folder it belongs in, is not there. If it should be, check that its disk is mounted",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EEXIST: "that name is already taken, and nothing is overwritten here",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EMFILE: "this process has too many files open. Raise the limit with `ulimit -n`",
    errno.ENFILE: "the system has too many files open",
    errno.ESTALE: "the network file system lost track of it. Mount it again",
    errno.EXDEV: "source and target are on different file systems, and a rename cannot cross them",
}


def explain(action: str, path: Path, error: OSError) -> StorageError:
    """Turn `error`, met while doing `action` (as in "write") to `path`, into words. Keeps the errno."""
    code = error.errno
    reason = _EXPLANATIONS.get(code) if code is not None else None
    if reason is None:
        reason = f"the system says: {error.strerror or error}"
    name = errno.errorcode.get(code, "") if code is not None else ""
    return StorageError(f"Cannot {action} {shown(path)}: {reason}{f' ({name})' if name else ''}.", code)


def shown(path: Path | str) -> str:
    """A path fit for a message: odd bytes, newlines and terminal escapes are written out, never sent to a terminal."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def in_words(action: str, path: Path) -> Iterator[None]:
    """Raise any OSError of the block as a StorageError that says what was being done to which path."""
    try:
        yield
    except OSError as error:
        raise explain(action, path, error) from error
