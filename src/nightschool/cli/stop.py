"""`nightschool stop`."""

from __future__ import annotations

import time

import typer

from nightschool import durable
from nightschool.api import stopping
from nightschool.cli.common import layout_of

POLL_SECONDS = 0.1


def stop(ctx: typer.Context) -> None:
    """Let the running machine save and end.

    Waits until it has ended; Ctrl-C only ends the waiting. Nothing happens if no machine runs.
    """
    layout = layout_of(ctx)
    # Not `Workspace.open`: a machine can be stopped where a part of the workspace is missing.
    pid = stopping.ask(layout)
    if pid is None:
        print("No machine runs here.")
        return
    print(f"Asked process {pid} to stop; it saves a checkpoint first.", flush=True)
    while durable.holder(layout.supervisor_lock) == pid:
        time.sleep(POLL_SECONDS)
    print("Stopped.")
