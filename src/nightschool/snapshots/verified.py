"""Which saved states were read and compared with their hashes, when, and what was found.

It is kept in `.nightschool/verified.json`, one object by the folder's path in the workspace:

    {"current_model/checkpoint-1250": {"at": UTC ISO 8601, "problem": null, "manifest": 1764202800000000000}, ...}

`problem` is a clause without a full stop. `manifest` is when the folder's manifest was written (nanoseconds, as the
file system says it; null where there was none): a state that was written anew under an old name was not verified.
Nothing depends on the file; where it is lost or cannot be read, nothing counts as verified.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import durable
from nightschool.record import entries_of
from nightschool.snapshots import inspection
from nightschool.snapshots.moving import Reading
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.ledger import Ledger


@dataclass(frozen=True)
class Verified:
    """When a state was read (UTC ISO 8601), and what was wrong with it then; None where it was whole."""

    at: str
    problem: str | None


def verified(layout: Layout) -> dict[str, Verified]:
    """What is known of the states that are there now, by `name_of`. Costs a `stat` for each that was verified."""
    return {
        name: Verified(str(mark["at"]), mark["problem"])
        for name, mark in _marks(layout).items()
        if mark["manifest"] == inspection.written(layout.root / name)
    }


def name_of(layout: Layout, folder: Path) -> str:
    """The name under which a saved state is known here: its path in the workspace."""
    return folder.relative_to(layout.root).as_posix()


def record(layout: Layout, found: Mapping[Path, str | None], began: datetime) -> None:
    """Note what was found of saved states; what is known of others stays as long as they are there.

    Args:
        layout: the workspace.
        found: the problem of each folder that was read whole, or None.
        began: when the reading began (aware). A state written since is left out: another one may have been read.

    Raises:
        StorageError: the disk refuses; then all is as it was.
    """
    marks = {name: mark for name, mark in _marks(layout).items() if (layout.root / name).is_dir()}
    limit, at = int(began.timestamp() * 1e9), began.astimezone(UTC).isoformat(timespec="seconds")
    for folder, problem in found.items():
        written = inspection.written(folder)
        if folder.is_dir() and (written is None or written <= limit):
            marks[name_of(layout, folder)] = {"at": at, "problem": problem, "manifest": written}
    # In ASCII: a folder's name may hold bytes that are no UTF-8.
    durable.write_file(layout.verified, json.dumps(marks, indent=1, sort_keys=True) + "\n")


def read_all(
    layout: Layout,
    ledger: Ledger,
    told: Callable[[str], Any] = lambda _: None,
    between: Callable[[], Any] | None = None,
) -> dict[Path, str | None]:
    """Read every checkpoint and every snapshot and compare it with its hashes; the problem of each, or None.

    Args:
        layout, ledger: the workspace; nothing of it is locked or changed.
        told: called with what is being read, a sentence.
        between: as of `durable.check`.

    Raises:
        CheckpointError: the generation cannot be read.
    """

    def read(folder: Path) -> str | None:
        return "; ".join(durable.check(folder, deep=True, between=between)) or None

    reading = Reading(layout, read, lambda problem: problem is not None)
    folders = [folder for _, folder in layout.checkpoints()]
    for number, folder in enumerate(folders, 1):
        told(f"Reading {folder.name}, {number} of {len(folders)} checkpoints.")
        reading.read(folder)
    told("Reading the snapshots.")
    snapshots = inspection.inspect(
        layout, ledger.machine.get("root"), entries_of(ledger), deep=True, between=between
    )  # fmt: skip
    found = {layout.snapshots / one.name: one.problem for one in snapshots}
    return {**reading.settled(told), **{folder: problem for folder, problem in found.items() if folder.is_dir()}}


def _marks(layout: Layout) -> dict[str, dict[str, Any]]:
    try:
        told = json.loads(layout.verified.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    wanted = {"at", "problem", "manifest"}
    return {name: mark for name, mark in told.items() if isinstance(mark, dict) and mark.keys() >= wanted}
