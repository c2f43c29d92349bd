"""`nightschool forget`: the run as if a file had never been dropped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightschool.cli.common import Json, confirm, count, print_json, workspace_of
from nightschool.cli.rollback import DryRun, Yes, print_cost, print_undone
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.snapshots.rollback import Plan

NIGHT_HOURS = 9
"""What is called a night where the cost of a forgetting is told."""
TRACES_SHOWN = 40


def forget(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Names or numbers, as in `nightschool files`.")],
    replace: Annotated[
        Path | None,
        typer.Option(metavar="FIXED", help="Put this mended file in its place, prepared as the old one was."),
    ] = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Remove its bytes too, its tokens, and every checkpoint and snapshot that has seen it."
        ),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Forget files exactly: the result is, bit for bit, the run in which they were never dropped.

    Goes back to the newest saved state that has not seen them and trains what came later again. Until the new model has
    caught up, current_model/ keeps the one in use (not with --purge). Without --purge, `rollback undo` takes it back.
    """
    workspace = workspace_of(ctx)
    plan = workspace.forget(files, replace=replace, purge=purge, dry_run=True)
    gone = [trace.what for trace in workspace.traces(files)] if purge else []
    if json and dry_run:
        print_json({**plan.to_dict(), "purge": gone})
        return
    if not json:
        _print(plan, replace, gone)
    if dry_run:
        return
    confirm("Purge? This cannot be undone." if purge else "Forget?", yes)
    plan = workspace.forget(files, replace=replace, purge=purge, waiting=print if not json else lambda _: None)
    if json:
        print_json({**plan.to_dict(), "purge": gone})
        return
    print(f"Done: the run stands at step {plan.then:,}.")
    if purge:
        _print_unreached()
    elif plan.undoable:
        print("`nightschool rollback undo` takes this back.")
    else:
        print("It had not been begun: `nightschool add --again` puts it into the queue again.")


def _print(plan: Plan, replace: Path | None, gone: list[str]) -> None:
    what = escape(plan.cut.what[:1].upper() + plan.cut.what[1:])
    start = f"{plan.start} (step {plan.then:,})" if plan.start else "the base model: no saved state is left from before"
    if plan.undoable:
        print(f"{what}: back to {escape(start)}; now step {plan.now:,}.")
    else:
        print(f"{what}: it was not begun yet.")
    print_undone(plan)
    if replace is not None:
        print(f"{escape(replace.name)} takes its place.")
    print_cost(plan)
    if plan.seconds is not None and plan.seconds > 3600:
        print(f"That is {count(math.ceil(plan.seconds / 3600 / NIGHT_HOURS), 'night')} of {NIGHT_HOURS} hours.")
    if plan.redo and not gone:
        print("The model in use stays as it is until the new one has caught up.")
    if gone:
        print(f"These are removed, {count(len(gone), 'thing')}:")
        for what in gone[:TRACES_SHOWN]:
            print(f"  {escape(what)}")
        if len(gone) > TRACES_SHOWN:
            print(f"  and {len(gone) - TRACES_SHOWN:,} more")


def _print_unreached() -> None:
    from nightschool.snapshots.purge import UNREACHED

    print("Out of reach, and for you to look after:")
    for what in UNREACHED:
        print(f"  {what}")
