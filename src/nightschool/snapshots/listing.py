"""The snapshots as people see them: what each weighs, whether it is whole, and what retention will do with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from nightschool import durable
from nightschool.snapshots import pruning, retention, states
from nightschool.snapshots.states import Snapshot
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.settings import SnapshotSettings


@dataclass(frozen=True)
class Listed:
    """One snapshot.

    Attributes:
        snapshot: what its manifest says.
        own_bytes: what removing it frees.
        shared_bytes: what it has in common with checkpoints or other snapshots, which takes no room of its own.
        problem: what is wrong with it, as far as sizes tell; None when it is whole.
        keep, why: what retention does with it, and the reason.
    """

    snapshot: Snapshot
    own_bytes: int
    shared_bytes: int
    problem: str | None
    keep: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        told = asdict(self)
        one = told.pop("snapshot")
        return {**one, "folder": str(one["folder"]), "date": one["date"].isoformat(), **told}


def listing(layout: Layout, settings: SnapshotSettings, today: date) -> list[Listed]:
    """Every snapshot of a workspace, by generation and step. Contents are not read."""
    every = states.snapshots(layout.snapshots)
    problems = {one.name: "; ".join(durable.check(one.folder, deep=False)) or None for one in every}
    whole = {name for name, problem in problems.items() if problem is None}
    found = []
    for verdict in retention.decide(every, pruning.rules_of(settings), today, whole):
        one = verdict.snapshot
        room = pruning.room_of(one.folder)
        found.append(Listed(one, room.own, room.shared, problems[one.name], verdict.keep, verdict.why))
    return found
