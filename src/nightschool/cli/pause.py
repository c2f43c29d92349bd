"""`nightschool pause`."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool.cli.common import workspace_of
from nightschool.pausing import seconds_of


def pause(
    ctx: typer.Context,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End by itself after so long: 2h, 30m, 1h30m, 2d.")
    ] = None,
) -> None:
    """Free the GPU and stop training for now.

    The step that is under way is given up, to be done again later with the same bits; the state is copied, the GPU is
    freed, and then the checkpoint is written. Files are still taken in and read. Lasts until `nightschool resume`, or
    for the time that --for gives, also over restarts.
    """
    seconds = None if duration is None else seconds_of(duration)
    workspace = workspace_of(ctx)
    workspace.pause(seconds)
    end = "until `nightschool resume`" if duration is None else f"for {duration}, or until `nightschool resume`"
    if workspace.status().pid is None:
        print(f"Paused. The machine does not run; when it is started it does not train {end}.")
    else:
        print(f"Pausing: the trainer frees the GPU, saves a checkpoint and ends. It rests {end}.")
