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
from nightschool.errors import CheckpointError
from nightschool.intake import rejected, sidecar
from nightschool.ledger import FileRow, Ledger
from nightschool.record import Record, read_record
from nightschool.snapshots.states import LEDGER, read_snapshot
from nightschool.words import escape
from nightschool.workspace import Layout, checkpoints_in

log = logging.getLogger("nightschool.cut")

UNREACHED = (
    "backups made with other programs, and copies of the workspace",
    "models that were exported, published or merged from states that had seen it",
    "free blocks of the disk, from which deleted bytes can sometimes be recovered",
)
"""What no purge can reach."""


@dataclass(frozen=True)
class Trace:
    """Something that has seen a file. `what` is for people."""

    path: Path
    what: str


def seen(record: Record, digests: Collection[str]) -> bool:
    """Whether a state was trained on prepared data with one of these digests."""
    done = curriculum.cut(record.entries, record.step)
    return any(part.data_digest in digests for entry in done for part in entry.parts)


def traces(layout: Layout, ledger: Ledger, files: Iterable[int], second_place: Path | None = None) -> list[Trace]:
    """All that a purge of these files removes.

    Args:
        layout, ledger: the workspace.
        files: ids of forgotten files.
        second_place: the folder that snapshots and archive are copied to, if there is one that can be reached.
    """
    rows = [ledger.files.get(id) for id in files]
    digests = {row.data_digest for row in rows if row.data_digest}
    found = [*_states(layout, digests)]
    places = [layout.root]
    if second_place is not None and second_place.is_dir():
        found += _in_snapshots(second_place / layout.snapshots.name, digests)
        places.append(second_place)
    for row in rows:
        for place in places:
            found += _bytes_of(row, place)
        found += _prepared(layout, ledger, row, {one.id for one in rows})
    return found


def _states(layout: Layout, digests: Collection[str]) -> Iterator[Trace]:
    for _, folder in layout.checkpoints():
        if _may_have_seen(folder, digests):
            yield Trace(folder, folder.name)
    yield from _in_snapshots(layout.snapshots, digests)
    for parent in sorted(layout.undone.iterdir()) if layout.undone.is_dir() else []:
        name = f"{layout.undone.name}/{parent.name}"
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if folder.name.startswith("checkpoint-") and _may_have_seen(folder, digests):
                yield Trace(folder, f"{name}/{folder.name}")
        if (parent / LEDGER).exists():
            # It names the file, and the way forward that it is for is closed.
            yield Trace(parent / LEDGER, f"{name}/{LEDGER}")


def _in_snapshots(parent: Path, digests: Collection[str]) -> Iterator[Trace]:
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            inner = [folder / f"checkpoint-{read_snapshot(folder).step}"]
        except CheckpointError:
            inner = [path for _, path in checkpoints_in(folder)] or [folder]
        if any(_may_have_seen(path, digests) for path in inner):
            yield Trace(folder, f"the snapshot {folder}")


def _may_have_seen(folder: Path, digests: Collection[str]) -> bool:
    """Also of a state that cannot be read: it is of no use to anyone who trains, and may hold what must go."""
    try:
        return seen(read_record(folder), digests)
    except (CheckpointError, ValueError):
        return True


def _bytes_of(row: FileRow, place: Path) -> Iterator[Trace]:
    if row.archive is not None:
        path = place / row.archive
        for one in (path, path.with_name(path.name + sidecar.ENDING)):
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


def remove(layout: Layout, ledger: Ledger, files: Iterable[int], second_place: Path | None = None) -> list[Trace]:
    """Remove all traces of these forgotten files; can be done again after a crash. Returns what was removed."""
    files = list(files)
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
