"""`nightschool stop`."""

from __future__ import annotations

import os
import signal
import time

import typer

from nightschool import durable
from nightschool.cli.common import layout_of
from nightschool.errors import BusyError

POLL_SECONDS = 0.1


def stop(ctx: typer.Context) -> None:
    """Let the running machine save and end.

    Waits until it has ended; Ctrl-C only ends the waiting. Nothing happens if no machine runs.
    """
    lock = layout_of(ctx).supervisor_lock
    pid = durable.holder(lock)
    if pid is None:
        print("No machine runs here.")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        if durable.holder(lock) == pid:
            raise BusyError(
                f"The machine that runs here (process {pid}) cannot be reached from this one: it may run in another "
                "container. Stop it there.",
                pid,
            ) from None
    except PermissionError:
        raise BusyError(
            f"The machine that runs here (process {pid}) belongs to another user. Stop it as that user.", pid
        ) from None
    print(f"Asked process {pid} to stop; it saves a checkpoint first.", flush=True)
    while durable.holder(lock) == pid:
        time.sleep(POLL_SECONDS)
    print("Stopped.")
