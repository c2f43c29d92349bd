"""The second place: snapshots and archive once more, on another disk.

    DIR/nightschool-copy.json     whose copies these are, written first
    DIR/archive/…                 every archived file, at its place
    DIR/snapshots/NAME/…          as at home; what the place has already, in whatever snapshot, is linked and not copied

Everything is read back after it was written and compared with its hash. A file, and a snapshot, is there as a whole or
not at all, and nothing that is there is overwritten. The same rules of retention are applied to what is there.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nightschool import durable
from nightschool.errors import CheckpointError, NightschoolError, StorageError
from nightschool.snapshots import states
from nightschool.snapshots.holding import held
from nightschool.snapshots.retention import Rules, Verdict, decide
from nightschool.snapshots.states import Snapshot
from nightschool.words import escape
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.ledger import Ledger

MARK = "nightschool-copy.json"
LOCK = ".nightschool.lock"
ROW = "second_place"
"""The machine row: {"path", "id" (as in the mark), "pending", "copied_at"}.

"pending" is true while a copy is to be made: a word that is another one for each time that it was wanted.
"""
SNAPSHOTS, ARCHIVE = "snapshots", "archive"

Stopping = Callable[[], bool]
T = TypeVar("T")


class Stopped(Exception):
    """It was asked to stop between two files; the next copy goes on from there."""


@dataclass
class Summary:
    """What a copy did.

    Attributes:
        snapshots: names of those that were copied.
        files: number of archived files that were copied.
        bytes: read and written.
        linked: bytes that the place had already.
        removed: what retention took away there.
        problems: what is not as it should be there, in sentences; nothing was done about it.
        links: whether the place's file system has hard links, as far as is known.
    """

    snapshots: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    linked: int = 0
    removed: list[Verdict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    links: bool = True


def want(ledger: Ledger, place: str | None) -> None:
    """Note that a copy is to be made; nothing happens without a second place."""
    if place:
        with ledger.transaction():
            ledger.machine.set(ROW, {**(ledger.machine.get(ROW) or {}), "pending": os.urandom(4).hex()})


def wanted(ledger: Ledger) -> bool:
    """Whether a copy is to be made."""
    return bool((ledger.machine.get(ROW) or {}).get("pending"))


def copy(
    layout: Layout, ledger: Ledger, place: Path, rules: Rules, today: date, stopping: Stopping = lambda: False
) -> Summary:
    """Bring the second place up to date.

    Args:
        layout, ledger: the workspace.
        place: the folder, which must be there: a disk that is not mounted is never taken for an empty one.
        rules, today: retention.
        stopping: asked between two files.

    Raises:
        StorageError: the place is not there, is another workspace's, or the disk refuses. What was copied stays.
        BusyError: another process copies there, or restores from it.
        Stopped: `stopping` said so.
    """
    mark = _enter(layout, ledger, place)
    asked = (ledger.machine.get(ROW) or {}).get("pending")
    done = Summary()
    with held(place / LOCK, "the copying of snapshots"):
        _archive(layout, ledger, place, stopping, done)
        _snapshots(layout, place, rules, today, stopping, done)
    if stopping():
        raise Stopped  # perhaps for the sake of another place, which this is no news about
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with ledger.transaction():
        # A snapshot that was taken meanwhile may not have been seen.
        pending = (ledger.machine.get(ROW) or {}).get("pending")
        pending = False if pending == asked else pending
        ledger.machine.set(ROW, {"path": str(place), "id": mark["id"], "pending": pending, "copied_at": now})
    return done


def problem_of(place: Path, row: dict[str, Any] | None) -> str | None:
    """Why nothing can be copied to `place`, in a sentence; None if it can. `row` is the machine row `ROW`."""
    known = row if row and row.get("path") == str(place) else None
    if not place.is_dir():
        return f"{place} (snapshots.copy_to) is not there, and is not made: if it is on another disk, mount that"
    try:
        mark = read_mark(place)
    except StorageError as error:
        return str(error).rstrip(".")
    if mark is None and known:
        return (
            f"{place} (snapshots.copy_to) held copies, and {MARK} is not there now: its disk may not be mounted. If "
            "another disk is meant to begin there, name a new folder on it"
        )
    if mark is not None and mark["id"] != (row or {}).get("id"):
        return (
            f"{place} (snapshots.copy_to) holds the copies of another workspace ({escape(mark.get('workspace'))}). "
            f"Name another folder; or, if these are to be taken over by this one, remove {MARK} there"
        )
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        return f"{place} (snapshots.copy_to) cannot be written by this user"
    return None


def silent(place: Path) -> str:
    """The problem where a place answers nothing, not even with an error, a clause without a full stop."""
    return f"{place} (snapshots.copy_to) does not answer: its disk may be gone"


def within(look: Callable[[], T], seconds: float) -> T:
    """What `look` finds of a place, or raises; TimeoutError where it has not answered in time.

    A thread that asks a mount whose other end is gone cannot be ended: it is left to itself, and no end of a process
    waits for it.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            found.append(look())
        except BaseException as error:  # raised by whoever waits
            failed.append(error)

    thread = threading.Thread(target=ask, name="second place", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError
    return found[0]


def read_mark(place: Path) -> dict[str, Any] | None:
    """What says whose copies a folder holds; None where there is nothing."""
    try:
        mark = json.loads((place / MARK).read_text(encoding="utf-8"))
        return {**mark, "id": str(mark["id"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{place / MARK} cannot be read ({error}), so nothing is copied there.") from None


def _enter(layout: Layout, ledger: Ledger, place: Path) -> dict[str, Any]:
    row = ledger.machine.get(ROW) or {}
    problem = problem_of(place, row)
    if problem:
        raise StorageError(f"{problem}.", errno.ENOENT)
    mark = read_mark(place)
    if mark is None:
        mark = {"id": os.urandom(8).hex(), "workspace": str(layout.root)}
        # Known here before it is written there: killed in between, the next copy finds no mark and no path, and begins.
        ledger.machine.set(ROW, {**row, "path": None, "id": mark["id"], "pending": row.get("pending") or True})
        durable.write_file(place / MARK, json.dumps(mark, indent=1) + "\n")
    return mark


# --- the archive ------------------------------------------------------------------------------------------------


def _archive(layout: Layout, ledger: Ledger, place: Path, stopping: Stopping, done: Summary) -> None:
    """Files are never changed once they are archived: what is there with the same size is there."""
    swept: set[Path] = set()
    hashes = {row.archive: row.sha256 for row in ledger.files.each() if row.archive}
    by_hash: dict[str, Path] = {}
    for source in files_in(layout.archive):
        if stopping():
            raise Stopped
        name = source.relative_to(layout.root).as_posix()
        target = place / ARCHIVE / source.relative_to(layout.archive)
        expected = hashes.get(name)
        if not os.path.lexists(target):
            if target.parent not in swept and target.parent.is_dir():
                durable.sweep(target.parent)
            swept.add(target.parent)
            try:
                _bring(source, target, expected, by_hash.get(expected or ""), done)
            except durable.SourceChanged:
                continue  # purged just now
            done.files += 1
        elif target.lstat().st_size != source.lstat().st_size:
            done.problems.append(f"{escape(target)} has another size than the archived file; it was left as it is.")
            continue
        if expected:
            by_hash[expected] = target


def files_in(folder: Path) -> Iterator[Path]:
    """The archived files below a folder, in order; not what is only being written."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        hidden = any(part.startswith((".tmp-", ".trash-")) for part in path.relative_to(folder).parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield path


def _bring(source: Path, target: Path, expected: str | None, there: Path | None, done: Summary) -> None:
    """One file: linked if the place has its bytes, else copied; read back from the disk in either case."""
    durable.make_dirs(target.parent)
    if there is not None and done.links:
        done.links = durable.link_or_copy(there, target)
        found = durable.hash_file(target, from_disk=True)
        if found.sha256 == expected:
            done.linked += found.bytes
            return
        durable.remove_file(target)
        done.problems.append(f"{escape(there)} is damaged; it was left as it is, and its bytes were copied once more.")
    copied = durable.copy_file(source, target)
    done.bytes += copied.bytes
    if expected is not None and copied.sha256 != expected:
        durable.remove_file(target)
        raise StorageError(f"{source} is damaged: its bytes are not those with the hash it should have.", errno.EIO)
    if durable.hash_file(target, from_disk=True) != copied:
        durable.remove_file(target)
        raise StorageError(
            f"What was written to {target} is not what comes back from there. That disk, or its cable, is not to be "
            "trusted; the copy was dropped.",
            errno.EIO,
        )


# --- the snapshots ----------------------------------------------------------------------------------------------


def _snapshots(layout: Layout, place: Path, rules: Rules, today: date, stopping: Stopping, done: Summary) -> None:
    folder = place / SNAPSHOTS
    durable.make_dirs(folder)
    durable.sweep(folder)
    there = {one.name: one for one in states.snapshots(folder)}
    whole = {name for name, one in there.items() if not durable.check(one.folder, deep=False)}
    home = {one.name: one for one in states.snapshots(layout.snapshots)}
    good = {name for name, one in home.items() if not durable.check(one.folder, deep=False)}
    # What retention would take away there at once is not brought.
    together = list({**home, **there}.values())
    kept = {verdict.snapshot.name for verdict in decide(together, rules, today, whole | good) if verdict.keep}
    known = _known(there[name] for name in whole)
    for name, one in home.items():
        if name not in good or name not in kept:
            continue
        if os.path.lexists(folder / name):
            _compare(one, folder / name, name in whole, done)
            continue
        try:
            _copy_snapshot(one, folder, known, stopping, done)
        except FileNotFoundError:
            continue  # removed at home meanwhile
        except StorageError as error:
            if error.errno == errno.ENOENT and not one.folder.exists():
                continue
            raise
        done.snapshots.append(name)
    every = states.snapshots(folder)
    sound = {one.name for one in every if not durable.check(one.folder, deep=False)}
    for verdict in decide(every, rules, today, sound):
        if not verdict.keep:
            durable.remove_tree(verdict.snapshot.folder)
            done.removed.append(verdict)


def _known(those: Iterator[Snapshot]) -> dict[tuple[str, int], Path]:
    found: dict[tuple[str, int], Path] = {}
    for one in those:
        for name, copied in durable.read_manifest(one.folder).files.items():
            found[copied.sha256, copied.bytes] = one.folder / name
    return found


def _compare(one: Snapshot, there: Path, whole: bool, done: Summary) -> None:
    try:
        same = states.read_snapshot(there).to_manifest() == one.to_manifest()
    except CheckpointError:
        same = False
    if not (same and whole):
        what = "is damaged" if same else "is another than the one at home"
        done.problems.append(f"{escape(there)} {what}; it was left as it is. Remove it, and it is copied again.")


def _copy_snapshot(
    one: Snapshot, folder: Path, known: dict[tuple[str, int], Path], stopping: Stopping, done: Summary
) -> None:
    manifest = durable.read_manifest(one.folder)
    staged = durable.staging(folder, one.name)
    made: dict[tuple[str, int], Path] = {}
    try:
        for name, copied in manifest.files.items():
            if stopping():
                raise Stopped
            key = (copied.sha256, copied.bytes)
            _bring(one.folder / name, staged / name, copied.sha256, made.get(key) or known.get(key), done)
            durable.protect(staged / name)
            made[key] = staged / name
        durable.copy_file(one.folder / durable.MANIFEST, staged / durable.MANIFEST)
        found = durable.check(staged, deep=False)
        if found:
            raise StorageError(f"The copy of the snapshot {one.name} is not whole: {'; '.join(found)}.", errno.EIO)
        durable.publish(staged, folder / one.name)
    except BaseException:
        with suppress(OSError, NightschoolError):
            durable.remove_tree(staged)
        raise
    for key, path in made.items():
        known[key] = folder / one.name / path.relative_to(staged)
