"""`nightschool snapshots`: the states that can be gone back to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightschool.cli.common import Json, count, local_time, print_json, print_row, workspace_of
from nightschool.words import in_bytes

if TYPE_CHECKING:
    from nightschool.api import Workspace

WIDTHS = (20, -9, 19, 24, -9, -9, 0)


def snapshots(
    ctx: typer.Context,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove now what the machine would remove after its next snapshot.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --prune: only say what would be removed.")] = False,
    json: Json = False,
) -> None:
    """List the snapshots: what each holds and weighs, and why it is kept.

    OWN is what removing it would free, SHARED what it has in common with checkpoints or other snapshots. Sizes are
    looked at; `verify --deep` reads every byte. Kept are the last of each day, week and month, as [snapshots] in
    nightschool.toml says, and always what was taken by hand.
    """
    workspace = workspace_of(ctx)
    if dry_run and not prune:
        raise typer.BadParameter("goes with --prune", param_hint="--dry-run")
    if prune:
        _prune(workspace, dry_run, json)
        return
    found = workspace.snapshots()
    if json:
        print_json([one.to_dict() for one in found])
        return
    if not found:
        print("No snapshots yet. The machine takes one each night; `nightschool snapshot` takes one now.")
        return
    print_row(("NAME", "STEP", "TAKEN", "LEARNED LAST", "OWN", "SHARED", "STATE"), WIDTHS)
    for listed in found:
        one = listed.snapshot
        state = f"{'kept' if listed.keep else 'goes'}: {listed.why}"
        if listed.problem:
            state = f"DAMAGED: {listed.problem}"
        cells = (one.name, f"{one.step:,}", local_time(one.taken_at), one.file or "")
        print_row((*cells, in_bytes(listed.own_bytes), in_bytes(listed.shared_bytes), state), WIDTHS)


def _prune(workspace: Workspace, dry_run: bool, json: bool) -> None:
    gone = workspace.prune(dry_run=dry_run)
    if json:
        print_json([{"name": one.snapshot.name, "removed": not dry_run, "why": one.why} for one in gone])
        return
    for verdict in gone:
        print(f"{'Would remove' if dry_run else 'Removed'} {verdict.snapshot.name}: {verdict.why}.")
    print(f"{count(len(gone), 'snapshot')} {'would be removed' if dry_run else 'removed'}.")
