"""`nightschool resume`."""

from __future__ import annotations

import typer

from nightschool.cli.common import workspace_of


def resume(ctx: typer.Context) -> None:
    """Go on after a pause, or try again after a failure that was put right."""
    workspace = workspace_of(ctx)
    workspace.resume()
    if workspace.status().pid is None:
        print("Not paused any more. The machine does not run: start it with `nightschool run`.")
    else:
        print("Going on.")
