"""Taking a file in: from the inbox to the archive, byte for byte, or to `duplicate`.

    1 copy       the bytes, durable, to `.nightschool/incoming/taken/<number>`, and before them the settings beside the
                 file (NAME.toml), if there are any, to `<number>.toml`
    2 record     the ledger names the place in the archive (or the file that has the same bytes), and the settings
    3 archive    that place is linked to the bytes, and the settings beside it
    4 clear      the inbox file is renamed to `.taken-<number>`, looked at once more, and goes; so do the settings
    5 forget     `taken/<number>` goes, last

A crash leaves `taken/<number>` behind as the sign of what is unfinished, and each step finds out whether it was done.
A file that took the name in the meantime, or was written to, comes back to light in step 4 and stays.
Files handed over by `add` lie in `incoming/` already: they are renamed instead of copied.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from nightschool import durable
from nightschool.errors import DataError, StorageError
from nightschool.intake import rejected, sidecar
from nightschool.intake.watch import ASIDE, UNWRITABLE, Stamp, held_open, stamp
from nightschool.ledger.files import TAKEN_OUT, FileRow
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
        found = _stage(layout, row, staged)
        if isinstance(found, str):
            if Path(row.source).parent != layout.incoming:
                _forget(_beside(staged))
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
    options, problem = row.options, ""
    if _beside(staged).exists():
        try:
            options = sidecar.merged(sidecar.read(_beside(staged), row.name), row.options)
        except DataError as error:
            problem = f"the settings beside it are of no use: {error}"
    twin = None if problem or options.get("again") else ledger.files.find_learnable_duplicate(digest, row.id)
    if twin is not None and (other := ledger.files.get(twin)).state == "forgotten" and other.archive is None:
        # The bytes that a duplicate has are in the archive under the other name; of these there are no others.
        twin = None
        problem = f"it has the same bytes as {other.name} (file {other.id}), which was purged; `add --again` trains it"
    outcome: Outcome = "archived"
    if problem:
        log.warning("%s was rejected: %s", escape(row.name), escape(problem))
        with ledger.transaction():
            # In one change: with its bytes but without its settings it must not be found ready to be prepared.
            place = _free_place(layout, row, today)
            ledger.files.reject(row.id, problem, sha256=digest, bytes=size, archive=place)
            ledger.events.add("file-rejected", f"{row.name}: {problem}", file=row.id)
        outcome = "rejected"
    elif twin is not None:
        other = ledger.files.get(twin)
        text = f"it has the same bytes as {other.name} (file {other.id})"
        with ledger.transaction():
            ledger.files.duplicate(row.id, twin, text, options)
            ledger.events.add("file-duplicate", f"{row.name}: {text}", file=row.id, of=twin)
        log.info("%s is skipped: %s; `nightschool add --again` trains it", escape(row.name), escape(text))
        outcome = "duplicate"
    else:
        place = _free_place(layout, row, today)
        with ledger.transaction():
            # Looked up now: while its bytes were copied somebody may have taken it out of the queue.
            out = ledger.files.get(row.id).options.get(TAKEN_OUT)
            ledger.files.archived(row.id, digest, size, place, options)
            ledger.events.add("file-archived", f"{row.name} is in {place}", file=row.id, bytes=size)
            if out:
                ledger.files.set_aside(row.id, out)
        log.info("%s is in %s (%s)", escape(row.name), escape(place), in_bytes(size))
    _finish(layout, ledger, ledger.files.get(row.id), digest, before)
    rejected.finish(layout, ledger, ledger.files.get(row.id))
    return outcome


def refuse(layout: Layout, ledger: Ledger, row: FileRow, reason: str) -> bool:
    """Reject an `arrived` file without a further look at it; it stays where it is.

    False, and nothing done, where its bytes are in the workspace already: then nothing is in the way of taking it.
    """
    staged = _staged(layout, row.id)
    if staged.exists() or Path(row.source).parent == layout.incoming:
        return False
    _forget(_beside(staged))
    log.warning("%s was refused: %s", escape(row.name), reason)
    rejected.reject(layout, ledger, row, reason)
    return True


def recover(layout: Layout, ledger: Ledger) -> int:
    """Finish what a crash interrupted after the ledger knew of it; returns how many files that were.

    To be called, with the intake lock held, before the inbox is looked at and before anything is taken or prepared.
    """
    folder = _staged(layout, 0).parent
    unfinished = sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())
    halves = {folder, *(half.parent for half in layout.rejected.rglob(".tmp-*"))}
    rows: list[FileRow] = []
    for number in unfinished:
        try:
            rows.append(ledger.files.get(number))
        except KeyError:
            # A ledger from a backup does not know it. The bytes stay, for a person to decide.
            log.warning("%s belongs to no file in the ledger; it was left alone", folder / str(number))
            continue
        if rows[-1].archive is not None:
            halves.add((layout.root / rows[-1].archive).parent)
    halves |= {half.parent for half in layout.archive.glob("*/.tmp-*")}
    for place in sorted(halves):
        durable.sweep(place)
    done = 0
    for row in rows:
        if row.state != "arrived":
            _finish(layout, ledger, row, _digest(_staged(layout, row.id)), None)
            done += 1
    for row in ledger.files.each("rejected"):
        rejected.finish(layout, ledger, row)
    _forget_settings(layout, ledger, folder)
    return done


def _forget_settings(layout: Layout, ledger: Ledger, folder: Path) -> None:
    """Remove copies of settings whose data file was not copied any more: both are where they were dropped."""
    for beside in folder.glob(f"[0-9]*{sidecar.ENDING}"):
        if not beside.stem.isdigit() or (folder / beside.stem).exists():
            continue
        try:
            handed = Path(ledger.files.get(int(beside.stem)).source).parent == layout.incoming
        except KeyError:
            handed = False
        if not handed:
            durable.remove_file(beside)


def _staged(layout: Layout, number: int) -> Path:
    # A folder of its own: what others are still writing into `incoming` must not be swept.
    return layout.incoming / "taken" / str(number)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + sidecar.ENDING)


def _forget(staged: Path) -> None:
    if staged.exists():
        durable.remove_file(staged)


def _stage(layout: Layout, row: FileRow, staged: Path) -> Stamp | str:
    """Step 1. The stamp of the file that was copied; or "later", or the reason why it can never be copied.

    The settings go first: where the bytes are, nothing is missing.
    """
    source = Path(row.source)
    durable.make_dirs(staged.parent)
    if source.parent != layout.incoming and (link := _through_link(layout.inbox, source)):
        return f"the folder {link} on the way to it is a symbolic link; it was not followed"
    return _stage_settings(layout, row, _beside(source), _beside(staged)) or _copy(layout, source, staged)


def _stage_settings(layout: Layout, row: FileRow, beside: Path, staged: Path) -> str | None:
    """Copy the settings beside a file, if there are any; a text, as of `_stage`, if that cannot be done."""
    if beside.parent == layout.incoming:
        if beside.exists():
            durable.replace_file(beside, staged)
        return None
    _forget(staged)
    if not os.path.lexists(beside):
        return None
    # What came after the file was reported must settle with it, as if both had just come.
    if _written_since(beside, row.arrived_at):
        return "later"
    found = _copy(layout, beside, staged)
    if not isinstance(found, str):
        return None
    gone = not os.path.lexists(beside)
    return "later" if found == "later" or gone else f"the settings beside it ({beside.name}): {found}"


def _written_since(path: Path, moment: str) -> bool:
    """Whether a file was written after a time (UTC ISO 8601) that has passed. One from the future says nothing."""
    found = _stamp_of(path)
    then = datetime.fromisoformat(moment).timestamp()
    # The ledger's times are cut to milliseconds.
    return found is not None and then + 0.001 <= found.modified_ns / 1e9 <= time.time()


def _through_link(inbox: Path, source: Path) -> Path | None:
    """The first folder between the inbox and the file that is a link: somebody put it there after the file was seen."""
    between = [folder for folder in source.parents if folder.is_relative_to(inbox) and folder != inbox]
    return next((folder.relative_to(inbox) for folder in reversed(between) if folder.is_symlink()), None)


def _copy(layout: Layout, source: Path, staged: Path) -> Stamp | str:
    """Copy one file; its stamp, "later", or the reason why it can never be copied."""
    try:
        found = source.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "it was removed from the inbox before it could be taken"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a plain file (a link, a folder, a pipe or a device); nothing was read or followed"
    if not os.access(source, os.R_OK):
        return "it cannot be read: permission denied"
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
    """Steps 3 to 5, for a file that the ledger has as archived (or further), as rejected, or as a duplicate."""
    staged = _staged(layout, row.id)
    holder = ledger.files.get(row.duplicate_of) if row.state == "duplicate" and row.duplicate_of else row
    # A duplicate's bytes must be in the archive under the other name; should they have vanished there, here they are.
    if holder.archive is not None and holder.sha256 == digest:
        place = layout.root / holder.archive
        if os.path.lexists(place):
            if holder.id == row.id and not _same(place, staged, digest):
                other = _free_place(layout, row, Path(holder.archive).parts[1])
                ledger.files.archived(row.id, digest, staged.stat().st_size, other)
                durable.make_dirs((layout.root / other).parent)
                durable.link_or_copy(staged, layout.root / other)
        else:
            durable.make_dirs(place.parent)
            durable.link_or_copy(staged, place)
    source = Path(row.source)
    if _beside(staged).exists():
        _keep_settings(layout, ledger.files.get(row.id), _beside(staged))
    if source.parent != layout.incoming:
        if before is None:
            _clear_after_crash(ledger, source, row.id, digest)
        else:
            _clear(source, row.id, lambda aside: stamp(aside.lstat()) == before)
        if _beside(staged).exists():
            _clear_settings(_beside(source), row.id, _digest(_beside(staged)))
    _forget(_beside(staged))
    durable.remove_file(staged)


def _keep_settings(layout: Layout, row: FileRow, staged: Path) -> None:
    """Step 3 for the settings beside a file: beside its place in the archive, or where that would be."""
    digest = _digest(staged)
    if row.archive is not None:
        base, wanted = (layout.root / row.archive).parent, [Path(row.archive).name + sidecar.ENDING]
    else:  # a duplicate has no place of its own; the day it came is the same when this is done again after a crash
        base, wanted = layout.archive / row.arrived_at[:10], []
    for name in itertools.chain(wanted, rejected.names(row.name + sidecar.ENDING, row.id)):
        place = base / name
        if os.path.lexists(place):
            if _same(place, staged, digest):
                return
        elif rejected.reachable(base, name):
            durable.make_dirs(place.parent)
            durable.link_or_copy(staged, place)
            return


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
    if ledger.files.arrived_from(source) is not None:
        return
    _clear(source, number, lambda path: _digest(path) == digest)


def _clear_settings(source: Path, number: int, digest: str) -> None:
    """Step 4 for the settings beside a file, the first time or after a crash: they are small enough to be read."""
    aside = _aside(source, number)
    if _stamp_of(aside) is not None and _digest(aside) == digest:
        durable.remove_file(aside)
    _clear(source, number, lambda path: _digest(path) == digest)


def _aside(source: Path, number: int) -> Path:
    return source.parent / f"{ASIDE}{number}{sidecar.ENDING if source.name.endswith(sidecar.ENDING) else ''}"


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
    for name in rejected.names(row.name, row.id):
        # Its settings, if it has any, go beside it; if not, nobody else's may lie there.
        if rejected.free(folder, name) and rejected.free(folder, name + sidecar.ENDING):
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
