"""`nightschool rollback`: go back to a saved state."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from nightschool.cli.common import Json, confirm, count, print_json, workspace_of
from nightschool.words import duration, escape

if TYPE_CHECKING:
    from nightschool.snapshots.rollback import Plan

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would do; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
FILES_SHOWN = 20


class Later(str, Enum):  # noqa: UP042 - as in init.py
    """What becomes of what was learned after the point."""

    again = "again"
    queue = "queue"
    shelve = "shelve"


def rollback(
    ctx: typer.Context,
    point: Annotated[
        str,
        typer.Argument(
            metavar="POINT",
            help="A snapshot's date or name, a step, latest (the newest snapshot), or undo (take the last rollback or "
            "forgetting back).",
        ),
    ],
    later: Annotated[
        Later,
        typer.Option(
            help="What was learned after it is trained again in the same order under the same settings; waits in the "
            "queue under today's settings; or is shelved."
        ),
    ] = Later.again,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Go back to a saved state: a checkpoint, a snapshot, or one that was undone earlier.

    The state is verified, and what would be undone is shown, before anything changes. A running machine saves, rests
    meanwhile, and goes on from there. What is undone is kept in undone/, and `rollback undo` takes it back.
    """
    workspace = workspace_of(ctx)
    plan = workspace.rollback(point, later.value, dry_run=True)
    if json and dry_run:
        print_json(plan.to_dict())
        return
    if not json:
        _print(plan)
    if dry_run:
        return
    confirm("Go back?", yes)
    plan = workspace.rollback(point, later.value, waiting=print if not json else lambda _: None)
    if json:
        print_json(plan.to_dict())
    else:
        print(f"Done: the run stands at step {plan.then:,}. `nightschool rollback undo` takes this back.")


def _print(plan: Plan) -> None:
    to = f"{plan.start} (step {plan.then:,})" if plan.start else "the base model (step 0)"
    print(f"{'On' if plan.then > plan.now else 'Back'} to {escape(to)}; the run stands at step {plan.now:,} now.")
    for name in plan.revived[:FILES_SHOWN]:
        print(f"{escape(name)}, which was forgotten or shelved, is a part of the run again.")
    if len(plan.revived) > FILES_SHOWN:
        print(f"So are {len(plan.revived) - FILES_SHOWN:,} more files.")
    print_undone(plan)
    if plan.undone and (plan.redo or plan.later != "again"):
        print(
            {
                "again": "They are trained again, in the same order and under the same settings.",
                "queue": "They go back to the queue, and are trained again under today's settings.",
                "shelve": "They are shelved; `nightschool add --again` trains one of them once more.",
            }[plan.later]
        )
    print_cost(plan)


def print_undone(plan: Plan) -> None:
    """List what a plan takes back."""
    if not plan.undone:
        print("Nothing that was learned is undone.")
        return
    print(f"{count(plan.now - plan.kept, 'step')} undone, of {count(len(plan.undone), 'file')}:")
    for one in plan.undone[:FILES_SHOWN]:
        print(f"  {escape(one.name)}: {one.steps:,} of {one.of:,} steps")
    if len(plan.undone) > FILES_SHOWN:
        print(f"  and {len(plan.undone) - FILES_SHOWN:,} more files")


def print_cost(plan: Plan) -> None:
    """Say what is to be trained then."""
    if plan.redo:
        time = f", about {duration(plan.seconds)}" if plan.seconds is not None else ""
        print(f"Then {count(plan.redo, 'step')} to train{time}.")
