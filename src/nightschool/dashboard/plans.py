"""What a change of the past comes to, shown before it is done, and whether it still is what was shown.

The digest of a plan covers all that decides what is undone. How far training has come meanwhile is no other plan, or
a person could never be quick enough; but no more than what it has come in COUNTS_SECONDS is undone unseen.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
COUNTS_SECONDS = 600.0
HAS_GROWN = (
    f"It was shown over {COUNTS_SECONDS / 60:.0f} minutes ago, and training went on: more steps would be undone than "
    "were shown. Nothing was done. Look at it again, and confirm it then."
)


@dataclass(frozen=True)
class Shown:
    """What was shown, as it is given back: `digest` of a plan, in the order of these fields, with dots between.

    Attributes:
        plan: of what decides what is undone; compared once more when the machine rests and the cut is about to be made.
        steps: undone.
        at: the second at which it was made (Unix time).
        traces: of what a purge removes, empty where there is none; only the list that was shown can be compared.
    """

    plan: str
    steps: int
    at: int
    traces: str = ""

    def __str__(self) -> str:
        return f"{self.plan}.{self.steps}.{self.at}.{self.traces}"

    @classmethod
    def read(cls, text: str) -> Shown:
        """Raises Changed where it is none."""
        plan, steps, at, traces = ([*text.split("."), *4 * [""]])[:4]
        if not (steps.isdecimal() and at.isdecimal()):
            raise Changed(HAS_CHANGED)
        return cls(plan, int(steps), int(at), traces)

    def require(self, now: Shown, *, traces: bool = True) -> None:
        """Raise Changed unless what would be done now is what was shown."""
        if now.plan != self.plan or (traces and now.traces != self.traces):
            raise Changed(HAS_CHANGED)
        # By the clock, not by steps: what is quick to train is quick to train again. One that was set back counts too.
        if now.steps > self.steps and not 0 <= now.at - self.at <= COUNTS_SECONDS:
            raise Changed(HAS_GROWN)


def of_rollback(workspace: Workspace, ask: shapes.Rollback) -> shapes.Plan:
    """What going back would do. Reads every byte of the state that is gone back to.

    Raises:
        CheckpointError: there is no such state, or it cannot be used.
    """
    plan = workspace.rollback(ask.to, ask.later, dry_run=True)
    with workspace.ledger() as ledger:
        only_follows = ask.to == UNDO and _only_follows(ledger, plan)
    return _shown(plan, _seen(workspace.layout, plan, only_follows))


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
    traces = workspace.traces(ask.files) if ask.purge else []
    seen = _seen(workspace.layout, plan, only_follows, traces)
    if ask.purge:
        return _shown(plan, seen, [trace.what for trace in traces], undoable=False)
    return _shown(plan, seen)


def require_files(workspace: Workspace, files: Sequence[int]) -> None:
    """Raise NotThere for a number that no file has: words that are no number could be another file's name."""
    with workspace.ledger() as ledger:
        unknown = ledger.files.unknown(files)
    if unknown:
        raise NotThere(f"There is no file {min(unknown)}. Load the page again: it may show another run.")


def require_same(fresh: shapes.Plan, digest: str) -> None:
    """Raise Changed unless the plan, made just now, is the one that was shown with that digest."""
    Shown.read(digest).require(Shown.read(fresh.digest))


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
        Shown.read(digest).require(_seen(workspace.layout, plan, only_follows), traces=False)

    return check


def _only_follows(ledger: Ledger, plan: Plan) -> bool:
    """Whether the history stays, so that the run goes on from its newest checkpoint, which may be one more each time:
    the trainer saves before the cut. Only for a plan that chooses where it starts from by itself."""
    start = plan.cut.start
    return plan.cut.entries == entries_of(ledger) and (start is None or start.where == "current")


def _seen(layout: Layout, plan: Plan, only_follows: bool, traces: Sequence[Trace] = ()) -> Shown:
    """What is shown of a plan that was made just now."""
    of_traces = _digest_of_traces(layout, traces) if traces else ""
    # What follows the newest checkpoint is saved before the cut, and not undone.
    steps = 0 if only_follows else max(0, plan.now - plan.kept)
    return Shown(_digest(layout, plan, only_follows), steps, int(time.time()), of_traces)


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


def _shown(plan: Plan, seen: Shown, purge: Sequence[str] = (), *, undoable: bool | None = None) -> shapes.Plan:
    return shapes.Plan(
        what=plan.cut.what[:1].upper() + plan.cut.what[1:],
        now=plan.now,
        then=plan.then,
        kept=plan.kept,
        start=plan.start,
        undone=[shapes.Undone(name=one.name, steps=one.steps, of=one.of) for one in plan.undone],
        later=plan.later,
        redo=plan.redo,
        seconds=plan.seconds,
        revived=plan.revived,
        undoable=plan.undoable if undoable is None else undoable,
        purge=list(purge),
        digest=str(seen),
    )
