"""Keeps a child beside the work: the trackers' process, the page. Whatever becomes of it, the machine's work goes on.

So it is no `Keeper`: it has no part in the machine's state, cannot fail for good, and is never waited for but for a few
seconds at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.supervisor import policies
from nightschool.supervisor.children import Child, Tended

FIRST_DELAY = 5.0
LONGEST_DELAY = 600.0
STEADY_SECONDS = 600.0
"""A life so long ends a row of failures: the next one is told again."""
LOCK_SECONDS = 1.0


@dataclass(frozen=True)
class Words:
    """How it is spoken of in the log.

    Attributes:
        name: who ended: `The process that tells the trackers`.
        meanwhile: what its end means.
        killed: said where it had to be killed.
    """

    name: str
    meanwhile: str
    killed: str


class Aside(Tended):
    """One child, started again as long as it is wanted.

    Args:
        child: the process; one without a command is never started.
        words: how it is spoken of.
        say: takes one line for the log.
        clock: monotonic seconds.
        lock: held by a child of an earlier run while it still ends.
    """

    def __init__(
        self, child: Child, words: Words, say: Callable[[str], None], clock: Callable[[], float],
        lock: Path | None = None,
    ) -> None:  # fmt: skip
        self.child = child
        self._words = words
        self._say = say
        self._clock = clock
        self._lock = lock
        self._failures = 0
        self._started = 0.0
        self._not_before = 0.0

    def renew(self) -> None:
        """End it, and start it again at once where it is wanted: it reads its settings when it starts."""
        self._not_before = 0.0
        self.child.ask_to_stop()

    def _may_start(self) -> bool:
        return bool(self.child.command) and self._clock() >= self._not_before

    def _start(self) -> None:
        try:
            if self._lock is not None and durable.holder(self._lock) is not None:
                self._not_before = self._clock() + LOCK_SECONDS
                return
            self.child.start()
        except StorageError as error:
            self._failed(f"could not be started: {str(error).rstrip('.')}")
            return
        except OSError as error:
            self._failed(f"could not be started: {error.strerror or error}")
            return
        self._started = self._clock()

    def _ended(self, code: int) -> None:
        hung, self._hung = self._hung, None
        if self.child.asked:
            if self.child.killed:
                self._say(self._words.killed)
            return
        if self._clock() - self._started >= STEADY_SECONDS:
            self._failures = 0
        words = self.child.last_output(1)
        self._failed((hung or policies.describe_exit(code)) + (f": {words[-1].rstrip('.')}" if words else ""))

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._not_before = self._clock() + policies.backoff(self._failures, FIRST_DELAY, LONGEST_DELAY)
        if self._failures == 1:
            self._say(f"{self._words.name} {why}. {self._words.meanwhile}")
