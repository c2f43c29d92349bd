"""`nightschool pause`."""

from __future__ import annotations

import typer

from nightschool.cli.common import workspace_of


def pause(ctx: typer.Context) -> None:
    """Save a checkpoint, stop training for now, and free the GPU.

    Files are still taken in and read. Lasts until `nightschool resume`, also over restarts.
    """
    workspace = workspace_of(ctx)
    workspace.pause()
    if workspace.status().pid is None:
        print("Paused. The machine does not run; when it is started it will not train until `nightschool resume`.")
    else:
        print("Pausing: the trainer saves a checkpoint and ends. `nightschool resume` goes on.")
