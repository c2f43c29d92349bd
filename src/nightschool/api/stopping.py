"""Asking the machine that runs in a workspace to save and end."""

from __future__ import annotations

import os
import signal

from nightschool import durable
from nightschool.errors import BusyError
from nightschool.workspace import Layout


def ask(layout: Layout) -> int | None:
    """Ask it, and return its process id at once; None where none runs. It has ended when it holds the lock no more.

    Raises:
        BusyError: it runs, and cannot be reached from here.
    """
    pid = durable.holder(layout.supervisor_lock)
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        if durable.holder(layout.supervisor_lock) == pid:
            raise BusyError(
                f"The machine that runs here (process {pid}) cannot be reached from this one: it may run in another "
                "container. Stop it there.",
                pid,
            ) from None
    except PermissionError:
        raise BusyError(
            f"The machine that runs here (process {pid}) belongs to another user. Stop it as that user.", pid
        ) from None
    return pid
