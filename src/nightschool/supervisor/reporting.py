"""Keeps the process that tells the experiment trackers. Whatever becomes of it, the machine's work goes on.

So it is no `Keeper`: it has no part in the machine's state, cannot fail for good, and is never waited for but for a few
seconds at the end, when trainer and intake worker are gone and their last rows are there to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightschool import durable
from nightschool.supervisor import policies
from nightschool.supervisor.children import Child
from nightschool.workspace import Layout

GRACE = 30.0
FIRST_DELAY = 5.0
LONGEST_DELAY = 600.0
STEADY_SECONDS = 600.0
"""A life so long ends a row of failures: the next one is told again."""
LOCK_SECONDS = 1.0


class Reporting:
    """One child, started again as long as it is wanted.

    Args:
        layout: the workspace.
        command: program and arguments; empty where there is nothing to start.
        trackers: their names; with none, nothing is started.
        say: takes one line for the log.
        clock: monotonic seconds.
    """

    def __init__(
        self, layout: Layout, command: Sequence[str], trackers: Sequence[str], say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.child = Child("tracker", command, layout.tracker_output, GRACE, clock, cwd=layout.root)
        self._lock = layout.tracker_lock
        self._trackers = list(trackers)
        self._say = say
        self._clock = clock
        self._failures = 0
        self._started = 0.0
        self._not_before = 0.0

    def apply(self, trackers: Sequence[str]) -> None:
        """Tell others from now on: the child reads its settings when it starts."""
        if list(trackers) != self._trackers:
            self._trackers, self._not_before = list(trackers), 0.0
            self.child.ask_to_stop()

    def tend(self, wanted: bool) -> None:
        """Collect its end; start it where it is wanted, ask it to stop where it is not."""
        code = self.child.poll()
        if code is not None:
            self._ended(code)
        if self.child.alive:
            if not wanted:
                self.child.ask_to_stop()
        elif wanted and self._trackers and self.child.command and self._clock() >= self._not_before:
            self._start()

    def _start(self) -> None:
        if durable.holder(self._lock) is not None:  # one of an earlier run lets its trackers finish
            self._not_before = self._clock() + LOCK_SECONDS
            return
        try:
            self.child.start()
        except OSError as error:
            self._failed(f"could not be started: {error.strerror or error}")
            return
        self._started = self._clock()

    def _ended(self, code: int) -> None:
        if self.child.asked:
            if self.child.killed:
                self._say(
                    f"The trackers did not finish within {GRACE:.0f} seconds. What they lack they are told at the "
                    "next start."
                )
            return
        if self._clock() - self._started >= STEADY_SECONDS:
            self._failures = 0
        words = self.child.last_output(1)
        self._failed(policies.describe_exit(code) + (f": {words[-1].rstrip('.')}" if words else ""))

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._not_before = self._clock() + policies.backoff(self._failures, FIRST_DELAY, LONGEST_DELAY)
        if self._failures == 1:
            self._say(
                f"The process that tells the trackers {why}. It is started again by itself; training goes on, and "
                "nothing of the curve is lost."
            )
