"""`nightschool snapshot`: keep the present state."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from nightschool.cli.common import Json, print_json, workspace_of
from nightschool.words import escape, in_bytes


def snapshot(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it; default: the local time.")] = None,
    json: Json = False,
) -> None:
    """Take a snapshot of the whole training state, now.

    Works whether the machine runs or not: a trainer at work saves a checkpoint first, and goes on. What is taken by
    hand is never removed by itself. The folder in snapshots/ loads as it stands, and `rollback` goes back to it.
    """
    from nightschool.snapshots.pruning import room_of

    workspace = workspace_of(ctx)
    began = time.monotonic()
    taken = workspace.snapshot(name, told=lambda text: print(text, file=sys.stderr, flush=True))
    seconds = time.monotonic() - began
    room = room_of(taken.folder)
    copied = workspace.copy_snapshots()
    if json:
        print_json({**taken.to_manifest()["snapshot"], "folder": taken.folder, "own_bytes": room.own,
                    "shared_bytes": room.shared, "seconds": seconds})  # fmt: skip
        return
    print(
        f"Took the snapshot {escape(taken.name)} of step {taken.step:,} in {seconds:.1f} s: {in_bytes(room.own)} of "
        f"its own, {in_bytes(room.shared)} shared with the checkpoint. It is {escape(taken.folder)}."
    )
    if copied is not None:
        written, there = in_bytes(copied.bytes), in_bytes(copied.linked)
        print(f"The second place is up to date: {written} written, {there} there already.")
        for problem in copied.problems:
            print(problem, file=sys.stderr)
