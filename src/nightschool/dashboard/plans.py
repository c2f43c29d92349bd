"""What a change of the past comes to, shown before it is done, and whether it still is what was shown.

The digest of a plan covers all that decides what is undone, and not how far training has come meanwhile. It has two
parts: of the plan itself, compared once more when the machine rests and the cut is about to be made; and of what a
purge removes, of which only the list that was shown can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from nightschool.api import Workspace
from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Changed, NotThere
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_generation
from nightschool.snapshots.purge import Trace
from nightschool.snapshots.rollback import UNDO, Plan
from nightschool.workspace import Layout

HAS_CHANGED = "Something has changed since this was shown, and nothing was done. Look at it again, and confirm it then."


def of_rollback(workspace: Workspace, ask: shapes.Rollback) -> shapes.Plan:
    """What going back would do. Reads every byte of the state that is gone back to.

    Raises:
        CheckpointError: there is no such state, or it cannot be used.
    """
    plan = workspace.rollback(ask.to, ask.later, dry_run=True)
    with workspace.ledger() as ledger:
        only_follows = ask.to == UNDO and _only_follows(ledger, plan)
    return _shown(plan, _digest(workspace.layout, plan, only_follows))


def of_forget(workspace: Workspace, ask: shapes.Forget) -> shapes.Plan:
    """What forgetting would do. Reads every byte of the state that is started from.

    Raises:
        NotThere: there is no such file.
        CheckpointError, DataError: it cannot be forgotten.
    """
    require_files(workspace, ask.files)
    plan = workspace.forget(ask.files, purge=ask.purge, dry_run=True)
    with workspace.ledger() as ledger:
        only_follows = _only_follows(ledger, plan)
        unchanged = plan.cut.entries == entries_of(ledger)
    digest = _digest(workspace.layout, plan, only_follows)
    if ask.purge:
        traces = workspace.traces(ask.files)
        purge = [trace.what for trace in traces]
        return _shown(plan, f"{digest}.{_digest_of_traces(workspace.layout, traces)}", purge, undoable=False)
    if unchanged:
        # It was never begun: it goes, and nothing else happens. `forget.plan` counts from the newest checkpoint.
        return _shown(plan, digest, undoable=False, untouched=True)
    return _shown(plan, digest)


def require_files(workspace: Workspace, files: Sequence[int]) -> None:
    """Raise NotThere for a number that no file has: words that are no number could be another file's name."""
    with workspace.ledger() as ledger:
        unknown = ledger.files.unknown(files)
    if unknown:
        raise NotThere(f"There is no file {min(unknown)}. Load the page again: it may show another run.")


def require_same(fresh: shapes.Plan, digest: str) -> None:
    """Raise Changed unless the plan, made just now, is the one with that digest."""
    if fresh.digest != digest:
        raise Changed(HAS_CHANGED)


def still_agreed(workspace: Workspace, word: str, digest: str) -> Callable[[Plan], None]:
    """For `agreed` of `Workspace.rollback` and `forget`: raises Changed where the plan is not the one agreed to.

    Args:
        workspace: whose past it is.
        word: what is gone back to; empty for a forgetting.
        digest: of the plan that was agreed to.
    """

    def check(plan: Plan) -> None:
        with workspace.ledger() as ledger:
            only_follows = word in (UNDO, "") and _only_follows(ledger, plan)
        if _digest(workspace.layout, plan, only_follows) != digest.partition(".")[0]:
            raise Changed(HAS_CHANGED)

    return check


def _only_follows(ledger: Ledger, plan: Plan) -> bool:
    """Whether the history stays, so that the run goes on from its newest checkpoint, which may be one more each time:
    the trainer saves before the cut. Only for a plan that chooses where it starts from by itself."""
    start = plan.cut.start
    return plan.cut.entries == entries_of(ledger) and (start is None or start.where == "current")


def _digest(layout: Layout, plan: Plan, only_follows: bool) -> str:
    cut = plan.cut
    decides: dict[str, Any] = {
        "v": 1,
        "generation": read_generation(layout),
        "what": "" if only_follows else cut.what,
        "start": None if only_follows else [plan.start, cut.step, cut.start.record.lineage if cut.start else None],
        "undone": [] if only_follows else [[one.id, one.name, one.of] for one in plan.undone],
        "later": plan.later,
        "revived": plan.revived,
        # Whether what waits has to be prepared anew is no matter of the past.
        "states": sorted((file, state) for file, (state, _) in cut.files.items() if state not in ("ready", "archived")),
        "rests": sorted(cut.rests),
        "purge": sorted(cut.purge),
    }
    return _hashed(decides)


def _digest_of_traces(layout: Layout, traces: Sequence[Trace]) -> str:
    """Without the present checkpoints: each that is saved meanwhile has seen the file too, and goes like the others."""
    return _hashed(sorted(trace.what for trace in traces if trace.path.parent != layout.current_model))


def _hashed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shown(
    plan: Plan, digest: str, purge: Sequence[str] = (), *, undoable: bool | None = None, untouched: bool = False
) -> shapes.Plan:
    undone = () if untouched else plan.undone
    return shapes.Plan(
        what=plan.cut.what[:1].upper() + plan.cut.what[1:],
        now=plan.now,
        then=plan.now if untouched else plan.then,
        kept=plan.now if untouched else plan.kept,
        start=plan.start,
        undone=[shapes.Undone(name=one.name, steps=one.steps, of=one.of) for one in undone],
        later=plan.later,
        redo=0 if untouched else plan.redo,
        seconds=None if untouched else plan.seconds,
        revived=plan.revived,
        undoable=plan.undoable if undoable is None else undoable,
        purge=list(purge),
        digest=digest,
    )
