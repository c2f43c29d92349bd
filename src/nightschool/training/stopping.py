"""How a trainer learns that it shall stop: SIGTERM, or the end of its lifeline.

The lifeline is a pipe whose other end only the supervisor holds. A parent's pid does not tell that the parent is gone
(it may be taken again), and a ledger on a full disk can carry no command; a pipe and a signal need neither.
"""

from __future__ import annotations

import os
import signal
import threading


class Stop:
    """Set once; `reason` says by what."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def set(self, reason: str) -> None:
        """Ask to stop at the next step boundary."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until somebody asks."""
        return self._event.wait(seconds)

    def listen(self, lifeline: int | None) -> None:
        """Let SIGTERM and the end of the pipe `lifeline` (a file descriptor) set this. SIGINT is the supervisor's."""
        signal.signal(signal.SIGTERM, lambda *_: self.set("the supervisor asked for it"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if lifeline is not None:
            threading.Thread(target=self._watch, args=(lifeline,), name="lifeline", daemon=True).start()

    def _watch(self, lifeline: int) -> None:
        # Nothing is ever written to the pipe: read() returns when the supervisor is gone, however it went.
        while os.read(lifeline, 1):
            pass
        self.set("its supervisor is gone")
