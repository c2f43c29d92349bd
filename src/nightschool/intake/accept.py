"""Taking a file in: from the inbox to the archive, byte for byte, or to `duplicate`.

    1 copy       the bytes, durable, to `.nightschool/incoming/taken/<number>`
    2 record     the ledger names the place in the archive (or the file that has the same bytes)
    3 archive    that place is linked to the bytes
    4 clear      the inbox file is renamed to `.taken-<number>`, looked at once more, and goes
    5 forget     `taken/<number>` goes

A crash leaves `taken/<number>` behind as the sign of what is unfinished, and each step finds out whether it was done.
A file that took the name in the meantime, or was written to, comes back to light in step 4 and stays.
Files handed over by `add` lie in `incoming/` already: they are renamed instead of copied.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.intake import rejected
from nightschool.intake.watch import UNWRITABLE, Stamp, held_open, stamp
from nightschool.ledger.files import FileRow
from nightschool.ledger.ledger import Ledger
from nightschool.words import escape, in_bytes
from nightschool.workspace import Layout

log = logging.getLogger(__name__)

Outcome = Literal["archived", "duplicate", "rejected", "later"]


def take(layout: Layout, ledger: Ledger, row: FileRow, today: str) -> Outcome:
    """Take in an `arrived` file.

    Args:
        layout: the workspace.
        ledger: its ledger.
        row: the file.
        today: YYYY-MM-DD, the archive's folder for files taken now.

    Returns:
        `later` if the file is still being written to, or its folder lets go of nothing. The ledger forgets it: whoever
        watches the inbox enters it again when it may be taken, and nothing waits behind it until then.

    Raises:
        StorageError: the disk refuses. Nothing is lost; the same call goes on where this one ended.
    """
    staged = _staged(layout, row.id)
    before: Stamp | None = None
    if not staged.exists():
        found = _stage(layout, Path(row.source), staged)
        if isinstance(found, str):
            if found == "later":
                ledger.files.withdraw(row.id)
                log.info("%s cannot be taken now, and is looked at again", escape(row.name))
                return "later"
            log.warning("%s was refused: %s", escape(row.name), found)
            rejected.reject(layout, ledger, row, found)
            return "rejected"
        before = found
    with staged.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    twin = None if row.options.get("again") else ledger.files.find_learnable_duplicate(digest, row.id)
    if twin is not None:
        other = ledger.files.get(twin)
        text = f"it has the same bytes as {other.name} (file {other.id})"
        with ledger.transaction():
            ledger.files.duplicate(row.id, twin, text)
            ledger.events.add("file_duplicate", f"{row.name}: {text}", file=row.id, of=twin)
        log.info("%s is skipped: %s; `nightschool add --again` trains it", escape(row.name), escape(text))
    else:
        place = _free_place(layout, row, today)
        with ledger.transaction():
            ledger.files.archived(row.id, digest, size, place)
            ledger.events.add("file_archived", f"{row.name} is in {place}", file=row.id, bytes=size)
        log.info("%s is in %s (%s)", escape(row.name), escape(place), in_bytes(size))
    _finish(layout, ledger, ledger.files.get(row.id), digest, before)
    return "duplicate" if twin is not None else "archived"


def recover(layout: Layout, ledger: Ledger) -> int:
    """Finish what a crash interrupted after the ledger knew of it; returns how many files that were.

    To be called, with the intake lock held, before the inbox is looked at and before anything is taken or prepared.
    """
    folder = _staged(layout, 0).parent
    halves = {folder, layout.rejected, *(half.parent for half in layout.archive.glob("*/.tmp-*"))}
    for place in sorted(halves):
        durable.sweep(place)
    done = 0
    for path in sorted(folder.glob("[0-9]*")):
        try:
            row = ledger.files.get(int(path.name))
        except KeyError:
            # A ledger from a backup does not know it. The bytes stay, for a person to decide.
            log.warning("%s belongs to no file in the ledger; it was left alone", path)
            continue
        if row.state != "arrived":
            _finish(layout, ledger, row, _digest(path), None)
            done += 1
    for row in ledger.files.each("rejected"):
        rejected.finish(layout, ledger, row)
    return done


def _staged(layout: Layout, number: int) -> Path:
    # A folder of its own: what others are still writing into `incoming` must not be swept.
    return layout.incoming / "taken" / str(number)


def _stage(layout: Layout, source: Path, staged: Path) -> Stamp | str:
    """Step 1. The stamp of the file that was copied; or "later", or the reason why it can never be copied."""
    try:
        found = source.lstat()
    except FileNotFoundError:
        return "it was removed from the inbox before it could be taken"
    except NotADirectoryError:
        return "it was removed from the inbox before it could be taken"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a plain file (a link, a folder, a pipe or a device); nothing was read or followed"
    if not os.access(source, os.R_OK):
        return "it cannot be read: permission denied"
    durable.make_dirs(staged.parent)
    if source.parent == layout.incoming:
        durable.replace_file(source, staged)
        return stamp(staged.lstat())
    if not os.access(source.parent, os.W_OK | os.X_OK):
        log.warning("%s: %s", escape(source.parent), UNWRITABLE)
        return "later"
    if held_open(source):
        return "later"
    try:
        durable.copy_file(source, staged)
    except durable.SourceChanged:
        return "later"
    except durable.NotRegular as error:
        return str(error)
    except StorageError as error:
        if error.errno == errno.ENOENT and not os.path.lexists(source):
            return "it was removed from the inbox before it could be taken"
        if error.errno in (errno.EIO, errno.EACCES) and (words := _unreadable(source)):
            return words
        raise
    # Between the first look and the copy the name may have been given to another file.
    if stamp(found) != _stamp_of(source):
        durable.remove_file(staged)
        return "later"
    return stamp(found)


def _finish(layout: Layout, ledger: Ledger, row: FileRow, digest: str, before: Stamp | None) -> None:
    """Steps 3 to 5, for a file that the ledger has as archived (or further), or as a duplicate."""
    staged = _staged(layout, row.id)
    holder = ledger.files.get(row.duplicate_of) if row.state == "duplicate" and row.duplicate_of else row
    # A duplicate's bytes must be in the archive under the other name; should they have vanished there, here they are.
    if holder.archive is not None and holder.sha256 == digest:
        place = layout.root / holder.archive
        if os.path.lexists(place):
            if holder.id == row.id and not _same(place, staged, digest):
                other = _free_place(layout, row, Path(holder.archive).parts[1])
                ledger.files.archived(row.id, digest, staged.stat().st_size, other)
                durable.link_or_copy(staged, layout.root / other)
        else:
            durable.make_dirs(place.parent)
            durable.link_or_copy(staged, place)
    source = Path(row.source)
    if source.parent != layout.incoming:
        if before is None:
            _clear_after_crash(ledger, source, row.id, digest)
        else:
            _clear(source, row.id, lambda aside: stamp(aside.lstat()) == before)
    durable.remove_file(staged)


def _clear(source: Path, number: int, is_ours: Callable[[Path], bool]) -> None:
    """Step 4: remove the inbox file, unless another has taken its name or somebody writes to it.

    Under the name it is given first nobody else will open it, so what is found out then stays true.
    """
    if _stamp_of(source) is None:
        return
    aside = _aside(source, number)
    if os.path.lexists(aside):  # left by a file of that number under another ledger
        _put_back(aside, source, number)
    try:
        # Not `replace_file`: that goes on to remove the old name, which may be another file's by then.
        durable.publish(source, aside)
    except StorageError as error:
        if error.errno == errno.ENOENT:
            return
        raise
    if is_ours(aside) and not held_open(aside):
        durable.remove_file(aside)
    else:
        _put_back(aside, source, number)


def _clear_after_crash(ledger: Ledger, source: Path, number: int, digest: str) -> None:
    """Step 4 once more, when only the bytes can tell whether the file is still the one that was copied."""
    aside = _aside(source, number)
    if _stamp_of(aside) is not None:
        if _digest(aside) == digest:
            durable.remove_file(aside)
        else:
            _put_back(aside, source, number)
    # Reported as new already: then it is a file of its own, and will be found to be a duplicate.
    if any(row.source == str(source) for row in ledger.files.each("arrived")):
        return
    _clear(source, number, lambda path: _digest(path) == digest)


def _aside(source: Path, number: int) -> Path:
    return source.parent / f".taken-{number}"


def _put_back(aside: Path, source: Path, number: int) -> None:
    for name in rejected.names(source.name, number):
        if not os.path.lexists(source.parent / name):
            # Linked, not renamed: a name that is taken just now must not be overwritten.
            durable.link_or_copy(aside, source.parent / name)
            break
    durable.remove_file(aside)


def _free_place(layout: Layout, row: FileRow, today: str) -> str:
    """A name in the archive that nothing has, relative to the workspace."""
    folder = layout.archive / today
    # Only the last part counts, whatever a caller passed as the name.
    for name in rejected.names(Path(row.name).name or "file", row.id):
        if not os.path.lexists(folder / name):
            return f"{layout.archive.name}/{today}/{name}"
    raise AssertionError("unreachable: there are names without end")


def _same(place: Path, staged: Path, digest: str) -> bool:
    return not place.is_symlink() and place.is_file() and (place.samefile(staged) or _digest(place) == digest)


def _stamp_of(path: Path) -> Stamp | None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stamp(found) if stat.S_ISREG(found.st_mode) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(source: Path) -> str | None:
    """Tell trouble with the dropped file from trouble with the workspace's disk."""
    try:
        _digest(source)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None
