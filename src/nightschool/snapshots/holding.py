"""One at a time: whoever takes, removes, copies or goes back to saved states holds the lock of the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nightschool import durable
from nightschool.errors import BusyError
from nightschool.workspace import Layout

POLL_SECONDS = 0.2


@contextmanager
def way_back(layout: Layout, what: str, *, patience: float = 0.0, waiting: Callable[[BusyError], object] | None = None):
    """Hold the workspace's lock of the way back while the block runs; see `held`."""
    with held(layout.way_back_lock, what, patience=patience, waiting=waiting):
        yield


@contextmanager
def held(
    path: Path, what: str, *, patience: float = 0.0, waiting: Callable[[BusyError], object] | None = None
) -> Iterator[None]:
    """Hold the lock `path` while the block runs.

    Args:
        path: the lock.
        what: names the holder in messages, as in "a rollback".
        patience: seconds to wait for another holder.
        waiting: called once, with who has it, when there is something to wait for.

    Raises:
        BusyError: somebody else has it, and still had it after `patience` seconds.
    """
    end = time.monotonic() + patience
    lock = durable.Lock(path, what)
    told = False
    while True:
        try:
            lock.acquire()
            break
        except BusyError as error:
            if time.monotonic() >= end:
                raise
            if waiting is not None and not told:
                waiting(error)
            told = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
