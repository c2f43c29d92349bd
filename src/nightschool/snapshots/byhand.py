"""What people ask for: a snapshot now, and the removal of old ones now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import durable
from nightschool.ledger import Ledger
from nightschool.snapshots import asking, pruning, second, take, undone
from nightschool.snapshots.holding import way_back
from nightschool.snapshots.retention import Verdict
from nightschool.snapshots.states import Snapshot
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.settings import SnapshotSettings


def take_now(
    layout: Layout,
    settings: SnapshotSettings,
    name: str | None,
    now: datetime,
    patience: float,
    told: Callable[[str], Any],
) -> Snapshot:
    """Take a snapshot by hand; see `Workspace.snapshot`. `now` is the wall clock, with a zone."""
    if name is not None:
        take.check_name(name)
    with Ledger.open(layout.ledger) as ledger:
        if not asking.wait_for_save(layout, ledger, patience, lambda: told("The trainer saves a checkpoint first.")):
            told("The trainer did not save in time, so this is of the newest checkpoint there is.")
        with way_back(layout, "the work on saved states", patience=patience, waiting=lambda error: told(str(error))):
            called = name or take.free_name(layout, now)
            taken = take.take(layout, ledger, name=called, kind="named", day=now.date(), now=now)
        second.want(ledger, settings.copy_to)
        return taken


def copy_now(layout: Layout, settings: SnapshotSettings, today: date) -> second.Summary | None:
    """Bring the second place up to date; None where there is none, or where the machine that runs does it."""
    if not settings.copy_to or durable.holder(layout.supervisor_lock) is not None:
        return None
    with Ledger.open(layout.ledger) as ledger:
        return second.copy(layout, ledger, Path(settings.copy_to), pruning.rules_of(settings), today)


def prune_now(layout: Layout, settings: SnapshotSettings, today: date, dry_run: bool) -> list[Verdict]:
    """Remove what retention lets go of, or only say what that is; the verdicts on those."""
    rules = pruning.rules_of(settings)
    if dry_run:
        return [one for one in pruning.judged(layout.snapshots, rules, today) if not one.keep]
    with way_back(layout, "the work on saved states"), Ledger.open(layout.ledger) as ledger:
        undone.prune(layout, ledger, settings.keep_undone)
        return pruning.prune(layout, ledger, rules, today)
