"""A job beside the machine, such as a replay, takes the lease for its GPU as the trainer does, and waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightschool import leases
from nightschool.errors import BusyError
from nightschool.leases import Lease, Waiting
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.settings import Settings
    from nightschool.workspace import Layout

POLL_SECONDS = 0.5

Say = Callable[[str], Any]


def claim(
    layout: Layout,
    settings: Settings,
    say: Say,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:
    """Return with the lease of the GPU that these settings train on; at once where there is none, as on a CPU.

    It ends with this process. While another workspace has the GPU this one waits, by the same rules as a trainer: it
    is let go after the file that it is at, and who waited longer comes first.

    Args:
        layout: the workspace that the job is for.
        settings: model.device and machine.gpu_lease are read.
        say: called once, with who is waited for.
        clock, sleep: monotonic seconds.

    Raises:
        BusyError: the workspace's own machine has the GPU; or whoever asked for the job is gone.
        StorageError: the folder for leases cannot be used.
    """
    name = leases.name_of(settings)
    if name is None:
        return
    own, asker = str(layout.root.resolve()), os.getppid()
    lease, sign = Lease(name, layout.root), Waiting(name, layout.root)
    free_since: float | None = None
    said = False
    try:
        while True:
            holder = leases.holder(name)
            if holder is not None and holder.workspace == own:
                raise BusyError(
                    f"This workspace has the GPU itself, in process {holder.pid}, and two do not fit on it. "
                    "`nightschool pause` lets its trainer save and end; try again when `nightschool status` says "
                    "`paused`, and `nightschool resume` afterwards.",
                    holder.pid,
                )
            why = f"is in use by {holder}"
            free_since = None if holder is not None else clock() if free_since is None else free_since
            if free_since is not None:
                first = next(iter(leases.queue(name)), None)
                ours = first is None or first.workspace == own
                if not leases.after_you(clock() - free_since, other_had_it=ours):
                    try:
                        lease.acquire()
                    except BusyError:
                        continue  # another one was faster
                    return
                why = f"is free, but {first} waited for it longer, and comes first"
            sign.acquire()
            if not said:
                say(
                    f"The GPU {why} (lease {escape(name)}). Waiting for it: it is let go after the file that is "
                    "trained on there, or when there is nothing to do. Ctrl-C gives up."
                )
                said = True
            if os.getppid() != asker:
                raise BusyError("Whoever asked for this is gone, so it waits for the GPU no more.")
            sleep(POLL_SECONDS)
    finally:
        sign.release()
