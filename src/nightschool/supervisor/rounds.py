"""When the next round of the loop is due: after a while, or as soon as somebody has written to the ledger."""

from __future__ import annotations

import time
from pathlib import Path

STIR_SECONDS = 0.02
"""Between two looks at whether the ledger was written to; one is a single `stat`."""
SHARE = 10
"""Rounds that are made early take at most one part in so many of a core: intake may write without a break."""
STOPPED_SECONDS = 5.0
"""Who wakes up so much too late was not asleep but stopped: by Ctrl-Z, or with all that runs in its container."""
LONGEST_ROUND = 60.0
"""Who takes longer for a round was stopped in the middle of it, or waited for a disk: it saw nobody meanwhile."""


class Rounds:
    """Waits between two rounds.

    A command is a row in the ledger, and whoever pauses the machine waits for the GPU: so it is obeyed in a moment, and
    not when the next round would come by itself.

    Args:
        ledger: the file that is looked at.
    """

    def __init__(self, ledger: Path) -> None:
        self._stopped = 0.0
        self._ledger = ledger
        self._seen: int | None = None
        self._woke: int | None = None
        self._began = time.monotonic()

    @property
    def stopped(self) -> float:
        """Seconds for which this process was stopped. Others were too, perhaps: what they did not do tells nothing."""
        return self._stopped + max(0.0, time.monotonic() - self._began - LONGEST_ROUND)

    def changed(self) -> bool:
        """Whether somebody has written to the ledger since this was asked last."""
        before, self._seen = self._seen, self._stamp()
        return self._seen is not None and self._seen != before

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or earlier where the ledger is written to: once for each time it was."""
        self._stopped = self.stopped
        now = time.monotonic()
        due, early = now + seconds, now + SHARE * (now - self._began)
        while True:
            wake = now + max(0.0, min(STIR_SECONDS, due - now))
            time.sleep(wake - now)
            now = time.monotonic()
            if now - wake >= STOPPED_SECONDS:
                self._stopped += now - wake
            if now >= due:
                break
            if now >= early and (stamp := self._stamp()) not in (None, self._seen, self._woke):
                self._woke = stamp
                break
        self._began = now

    def _stamp(self) -> int | None:
        try:
            return self._ledger.stat().st_mtime_ns
        except OSError:
            return None
