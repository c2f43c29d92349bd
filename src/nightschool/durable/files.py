"""Single files, and the entries of folders: written whole under a temporary name, synced, then renamed into place.

When one of these functions has returned, what it did survives a power cut. When it has raised, the old state stands.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool.durable.effects import active, in_words, shown, sync_file, sync_folder
from nightschool.errors import StorageError

TEMPORARY = ".tmp-"
CHUNK = 4 << 20


class SourceChanged(StorageError):
    """The file being copied was written to, replaced or removed meanwhile. Nothing was kept; read it again later."""


class NotRegular(StorageError):
    """A link, folder, pipe or device stands where a plain file was expected. It was not followed or read."""


@dataclass(frozen=True)
class Copied:
    """What `copy_file` copied: the SHA-256 of the bytes in hex, and how many there were."""

    sha256: str
    bytes: int


def nonce() -> str:
    """Eight hex digits that keep two temporary names apart."""
    return os.urandom(4).hex()


def write_file(path: Path, data: bytes | str, like: Path | None = None) -> None:
    """Put `data` (text as UTF-8) at `path`: after a crash the old content or the new is there, never a mixture.

    The folder must exist. A link at `path` is replaced, not followed. Who may not read `like` may not read it either.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.parent / f"{TEMPORARY}{nonce()}"
    with in_words("write", path):
        try:
            fd = active().create(temporary)
            try:
                if like is not None:
                    _no_wider(fd, _mode(like))
                _write_all(fd, memoryview(raw))
                active().sync(fd)
            finally:
                active().close(fd)
            active().rename(temporary, path)
        except BaseException:
            _discard(temporary)
            raise
        sync_folder(path.parent)


def copy_file(source: Path, target: Path) -> Copied:
    """Copy the plain file `source` to the new name `target`, creating and syncing missing folders above it.

    Reads the source once, a few MiB at a time, hashing on the way. Who may not read the source may not read the copy.
    Raises NotRegular for anything but a plain file,
    SourceChanged if it moved under the reader, and StorageError if `target` exists: nothing is ever overwritten.
    """
    if os.path.lexists(target):
        raise StorageError(f"Cannot copy to {shown(target)}: that name is already taken.", errno.EEXIST)
    source_fd, before = open_regular(source)
    temporary = target.parent / f"{TEMPORARY}{nonce()}"
    try:
        make_dirs(target.parent)
        with in_words("write", target):
            try:
                fd = active().create(temporary)
                try:
                    _no_wider(fd, before.st_mode)
                    copied = _stream(source_fd, source, fd)
                    _ensure_unchanged(source, source_fd, before, copied.bytes)
                    active().sync(fd)
                finally:
                    active().close(fd)
                place_new(temporary, target)
            except BaseException:
                _discard(temporary)
                raise
            _sync_new(target)
    finally:
        active().close(source_fd)
    return copied


def is_wider(path: Path, than: Path) -> bool:
    """Whether somebody may read `path` who may not read `than`, by their modes."""
    return bool(_mode(path) & ~_mode(than) & 0o044)


def _mode(path: Path) -> int:
    """The mode of a file; of one that is gone, that of its owner's own."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0o600


def _no_wider(fd: int, mode: int) -> None:
    """Take the rights from a new, empty file that `mode` does not give; its owner's stay."""
    now = os.fstat(fd).st_mode
    wanted = now & (mode | 0o600)
    if wanted != now:
        with suppress(OSError):  # a file system without modes
            os.fchmod(fd, stat.S_IMODE(wanted))


def make_dirs(path: Path) -> None:
    """Create the folder `path` and what is missing above it, and make all of it survive a power cut.

    The deepest folder that was already there is synced into its parent too: an earlier run may have been killed
    between creating it and syncing it. One level is made durable before the next is begun, so it can only be that one.
    """
    with in_words("create the folder", path):
        missing: list[Path] = []
        level = path.absolute()
        while not level.is_dir():
            missing.append(level)
            level = level.parent
        if not level.is_mount() and os.access(level.parent, os.R_OK):
            sync_folder(level.parent)
        for folder in reversed(missing):
            try:
                active().mkdir(folder)
            except FileExistsError:  # fine if another process is making the same one
                if not folder.is_dir():
                    raise
            sync_folder(folder.parent)


def remove_file(path: Path) -> None:
    """Remove the file `path` for good. Nothing happens if it is not there."""
    with in_words("remove", path):
        with suppress(FileNotFoundError):
            active().unlink(path)
        if path.parent.is_dir():
            sync_folder(path.parent)


def replace_file(source: Path, target: Path) -> None:
    """Sync `source`, then rename it over `target`. Both must be on one file system.

    `source` must be a name of the caller's own: it is gone afterwards, also where both names already were one file.
    """
    with in_words("replace", target):
        sync_file(source)
        active().rename(source, target)
        # rename(2) does nothing, successfully, where both names already are one file.
        with suppress(FileNotFoundError):
            active().unlink(source)
        sync_folder(target.parent)
        if source.parent != target.parent:
            sync_folder(source.parent)


def replace_link(path: Path, to: str) -> None:
    """Let the symbolic link `path` point to `to` (as written, so relative to its folder): the old or the new, always.

    Raises StorageError if something other than a link is at `path`.
    """
    if os.path.lexists(path) and not path.is_symlink():
        raise StorageError(f"Cannot make {shown(path)} a link: something else has that name.", errno.EEXIST)
    temporary = path.parent / f"{TEMPORARY}{nonce()}"
    with in_words("link", path):
        try:
            active().symlink(to, temporary)
            active().rename(temporary, path)
        except BaseException:
            _discard(temporary)
            raise
        sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> bool:
    """Give `source` the second name `target`, or copy it where the file system cannot. True if it was linked.

    The folder of `target` must exist; `target` must not.
    """
    with in_words("link", target):
        try:
            active().link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            _sync_new(target, content=True)
            return True
    copy_file(source, target)
    return False


_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def protect(path: Path) -> None:
    """Make a file read-only, under all its names, where the file system knows such a thing. `seal` makes it durable.

    It stops mistakes, not root, and not the removal of a name.
    """
    with in_words("make read-only", path):
        try:
            active().protect(path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def open_regular(path: Path) -> tuple[int, os.stat_result]:
    """Open a plain file for reading, following no link: its descriptor (the caller closes it) and its stat."""
    with in_words("read", path):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular(f"{shown(path)} is {_kind(found.st_mode)}, not a plain file; it was not read.")
        fd = active().open(path)
        opened = os.fstat(fd)
    if not stat.S_ISREG(opened.st_mode):  # swapped between the two looks
        active().close(fd)
        raise NotRegular(f"{shown(path)} is {_kind(opened.st_mode)}, not a plain file; it was not read.")
    return fd, opened


def hash_open_file(fd: int, between: Callable[[], Any] | None = None) -> Copied:
    """SHA-256 and length of an open file from its present position to its end; lets other threads run meanwhile.

    `between` is called after each chunk; what it raises ends the reading.
    """
    digest, total, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
    while count := os.readv(fd, [buffer]):
        digest.update(buffer[:count])
        total += count
        if between is not None:
            between()
    return Copied(digest.hexdigest(), total)


def hash_file(path: Path, *, from_disk: bool = False) -> Copied:
    """SHA-256 and size of a plain file; `from_disk` asks the system to forget what it wrote just now, and to look."""
    fd, _ = open_regular(path)
    try:
        with in_words("read", path):
            if from_disk:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return hash_open_file(fd)
    finally:
        active().close(fd)


def place_new(temporary: Path, target: Path) -> None:
    """Move a file to a name that must be free. A plain rename would overwrite; a link cannot."""
    try:
        active().link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        active().rename(temporary, target)
        return
    try:
        active().unlink(temporary)
    except OSError:
        _discard(target)
        raise


def _stream(source_fd: int, source: Path, fd: int) -> Copied:
    digest, total, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
    while True:
        with in_words("read", source):
            count = os.readv(source_fd, [buffer])
        if count == 0:
            return Copied(digest.hexdigest(), total)
        _write_all(fd, buffer[:count])
        digest.update(buffer[:count])
        total += count


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[active().write(fd, data) :]


def _ensure_unchanged(path: Path, fd: int, before: os.stat_result, copied: int) -> None:
    """The copy is of one version of the file, and that version is still the one under its name."""
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or copied != after.st_size:
        raise SourceChanged(f"{shown(path)} was written to while it was being copied; it will have to be read again.")
    try:
        named = path.lstat()
    except FileNotFoundError:
        raise SourceChanged(f"{shown(path)} was removed while it was being copied.", errno.ENOENT) from None
    if (named.st_dev, named.st_ino) != (after.st_dev, after.st_ino):
        raise SourceChanged(f"{shown(path)} was replaced while it was being copied; it will have to be read again.")


def _sync_new(target: Path, content: bool = False) -> None:
    """Make a new name durable, or take it away again: a name that is not certain is not left for anyone to find."""
    try:
        if content:
            sync_file(target)
        sync_folder(target.parent)
    except OSError:
        _discard(target)
        raise


def _discard(temporary: Path) -> None:
    """Best effort: what cannot be removed now is swept at the next start."""
    with suppress(OSError):
        active().unlink(temporary)


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return word
    return "a device"
