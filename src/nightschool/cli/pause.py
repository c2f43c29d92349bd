"""`nightschool pause`."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool import pausing
from nightschool.cli.common import local_time, workspace_of


def pause(
    ctx: typer.Context,
    length: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="How long: 2h, 30m, 1h30m, 90s, 2d. Then it goes on by itself."),
    ] = None,
) -> None:
    """Save a checkpoint, stop training for now, and free the GPU.

    Files are still taken in and read. Lasts until `nightschool resume`, or for the time given, also over restarts.
    """
    try:
        seconds = None if length is None else pausing.seconds_of(length)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    workspace = workspace_of(ctx)
    workspace.pause(seconds)
    found = workspace.status()
    until = f"until {local_time(found.paused_until)} or `nightschool resume`" if found.paused_until else ""
    if found.pid is None:
        print(
            f"Paused{' ' + until if until else ''}. The machine does not run; when it is started it will not train"
            f"{' before that.' if until else ' until `nightschool resume`.'}"
        )
    elif until:
        print(f"Pausing {until}: the trainer saves a checkpoint and ends.")
    else:
        print("Pausing: the trainer saves a checkpoint and ends. `nightschool resume` goes on.")
