"""Removing every trace of a forgotten file: its bytes, its tokens, and every saved state that has seen it.

What lies outside of the workspace and its second place is out of reach; `UNREACHED` says so to the user.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightschool import curriculum, durable
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError
from nightschool.intake import rejected, sidecar
from nightschool.ledger import FileRow, Ledger
from nightschool.record import Record, belongs, entries_of, read_record, root_digest
from nightschool.snapshots.states import LEDGER, read_snapshot
from nightschool.words import escape
from nightschool.workspace import Layout, checkpoints_in

log = logging.getLogger("nightschool.cut")

UNREACHED = (
    "backups made with other programs, and copies of the workspace",
    "models that were exported, published or merged from states that had seen it",
    "what experiment trackers were told: its name, and the losses of its steps",
    "free blocks of the disk, from which deleted bytes can sometimes be recovered",
)
"""What no purge can reach."""


@dataclass(frozen=True)
class Trace:
    """Something that has seen a file. `what` is for people."""

    path: Path
    what: str


@dataclass(frozen=True)
class _Going:
    """What is purged, as a state can tell it.

    Attributes:
        files: ids. One file may have been prepared in several ways, and only the last one's digest is in the ledger.
        digests: of what they were prepared to: a ledger that was put back may have given their numbers anew.
        twins: ids of other files with these digests, which stay.
        root, entries: the run without them. A state that is a part of it is what it would be had they never come.
    """

    files: Collection[int]
    digests: Collection[str]
    twins: Collection[int]
    root: str
    entries: list[Entry]

    def seen(self, record: Record) -> bool:
        """Whether a state was trained on one of them."""
        done = curriculum.cut(record.entries, record.step)
        parts = (part for entry in done for part in entry.parts)
        return any(
            part.file_id in self.files or (part.data_digest in self.digests and part.file_id not in self.twins)
            for part in parts
        ) and (belongs(record, self.root, self.entries) is not None)


def _going(ledger: Ledger, rows: Collection[FileRow]) -> _Going:
    files = {row.id for row in rows}
    digests = {row.data_digest for row in rows if row.data_digest}
    twins = {id for digest in digests for id in ledger.files.prepared_to(digest)} - files
    entries = curriculum.without(entries_of(ledger), files)
    return _Going(files, digests, twins, root_digest(ledger.machine.get("root") or {}), entries)


def traces(layout: Layout, ledger: Ledger, files: Iterable[int], second_place: Path | None = None) -> list[Trace]:
    """All that a purge of these files removes.

    Args:
        layout, ledger: the workspace.
        files: ids of forgotten files.
        second_place: the folder that snapshots and archive are copied to, if there is one that can be reached.
    """
    rows = [ledger.files.get(id) for id in files]
    going = _going(ledger, rows)
    found = [*_states(layout, going)]
    places = [layout.root]
    if second_place is not None and second_place.is_dir():
        found += _in_snapshots(second_place / layout.snapshots.name, going)
        places.append(second_place)
    for row in rows:
        for place in places:
            found += _bytes_of(row, place)
        found += _prepared(layout, ledger, row, going.files)
    return list({trace.path: trace for trace in found}.values())


def _states(layout: Layout, going: _Going) -> Iterator[Trace]:
    for _, folder in layout.checkpoints():
        if _may_have_seen(folder, going):
            yield Trace(folder, folder.name)
    yield from _in_snapshots(layout.snapshots, going)
    for parent in sorted(layout.undone.iterdir()) if layout.undone.is_dir() else []:
        name = f"{layout.undone.name}/{parent.name}"
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if folder.name.startswith("checkpoint-") and _may_have_seen(folder, going):
                yield Trace(folder, f"{name}/{folder.name}")
        if (parent / LEDGER).exists():
            # It names the file, and the way forward that it is for is closed.
            yield Trace(parent / LEDGER, f"{name}/{LEDGER}")


def _in_snapshots(parent: Path, going: _Going) -> Iterator[Trace]:
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            inner = [folder / f"checkpoint-{read_snapshot(folder).step}"]
        except CheckpointError:
            inner = [path for _, path in checkpoints_in(folder)] or [folder]
        if any(_may_have_seen(path, going) for path in inner):
            yield Trace(folder, f"the snapshot {folder}")


def _may_have_seen(folder: Path, going: _Going) -> bool:
    """Also of a state that cannot be read: it is of no use to anyone who trains, and may hold what must go."""
    try:
        return going.seen(read_record(folder))
    except (CheckpointError, ValueError):
        return True


def _bytes_of(row: FileRow, place: Path) -> Iterator[Trace]:
    if row.archive is not None:
        path = place / row.archive
        # Of a rejected file, what says why lies beside it under the same name.
        why = (rejected.WHY, rejected.BAD_ROWS) if row.archive.startswith("rejected/") else ()
        for one in (path, *(path.with_name(path.name + ending) for ending in (sidecar.ENDING, *why))):
            if one.exists():
                yield Trace(one, str(one))
    # Of files with one name, which report is whose is not noted. One too many may go: it can be made again, its file's
    # bytes stay.
    for name in itertools.islice(rejected.names(row.name, row.id), 3):
        for ending in (rejected.BAD_ROWS, rejected.WHY):
            beside = place / "rejected" / (name + ending)
            if beside.exists() and (ending == rejected.BAD_ROWS or row.state == "rejected"):
                yield Trace(beside, str(beside))


def _prepared(layout: Layout, ledger: Ledger, row: FileRow, going: Collection[int]) -> Iterator[Trace]:
    if row.prepared is None:
        return
    folder = layout.prepared / row.prepared
    others = [one for one in ledger.files.prepared_from(row.prepared) if one not in going]
    if folder.exists() and not others:
        yield Trace(folder, f"its tokens ({folder.name})")


def sweep(layout: Layout, second_place: Path | None = None) -> None:
    """Remove what crashes have left half made, of which nobody can tell what it has seen. To be called at rest."""
    for folder in _folders(layout, second_place):
        durable.sweep(folder)


def _folders(layout: Layout, second_place: Path | None) -> list[Path]:
    undone = [path for path in layout.undone.glob("*") if path.is_dir()]
    copies = [] if second_place is None else [second_place / layout.snapshots.name]
    return [layout.current_model, layout.snapshots, layout.undone, *undone, layout.prepared, layout.tmp, *copies]


def remove(layout: Layout, ledger: Ledger, files: Iterable[int], second_place: Path | None = None) -> list[Trace]:
    """Remove all traces of these forgotten files; can be done again after a crash. Returns what was removed."""
    files = list(files)
    for folder in _folders(layout, second_place):
        # Of a purge that was killed. Of the rest, something may be in use: a start does this while intake is at work.
        for path in folder.glob(f"{durable.TRASH}*"):
            durable.remove_tree(path)
    gone = traces(layout, ledger, files, second_place)
    for trace in gone:
        durable.remove_tree(trace.path)
        log.info("Purged %s.", escape(trace.what))
    with ledger.transaction():
        for id in files:
            ledger.files.purged(id)
        if gone:
            ledger.events.add("purged", f"Purged {len(gone)} traces.", files=files, removed=[t.what for t in gone])
    return gone
