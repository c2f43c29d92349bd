"""Who keeps all others from writing to the ledger: a process that is stopped, or hangs, in the middle of a change.

It need not be the trainer in training, which is watched by its progress. An intake worker that hangs so, or the page,
lets no step be recorded and no file be entered, and a trainer that waits for its next file is not expected to get on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nightschool.ledger import Ledger
from nightschool.ledger.holders import LOCKS, holders
from nightschool.supervisor import policies
from nightschool.supervisor.children import Tended

HELD_SECONDS = 10.0
"""One change that takes so long is more than a slow disk."""
PATIENCE_SECONDS = 0.1
"""How long the supervisor waits for the ledger then: its rounds go on, and so do signals and the watch over others."""


class Holding:
    """Watches the locks of one ledger, and ends a child that does not let go.

    Where the kernel does not tell (a system without /proc/locks), nobody is ended.

    Args:
        ledger: the supervisor's own connection.
        kept: all that keep a child.
        hang_minutes: for how long a child may hold the ledger with one change; 0 for ever.
        clock: monotonic seconds.
        locks: where the kernel lists all locks.
    """

    def __init__(
        self, ledger: Ledger, kept: Sequence[Tended], hang_minutes: float, clock: Callable[[], float],
        locks: Path = LOCKS,
    ) -> None:  # fmt: skip
        self.limit = hang_minutes * 60
        self._ledger = ledger
        self._kept = kept
        self._clock = clock
        self._locks = locks
        self._changed: int | None = None
        self._since: dict[int, float] = {}
        self._short = False

    @property
    def long(self) -> bool:
        """Whether somebody, child or not, has held the ledger for longer than a slow disk takes."""
        now = self._clock()
        return any(now - since >= HELD_SECONDS for since in self._since.values())

    def has(self, pid: int | None) -> bool:
        """Whether a process had the ledger at the last look."""
        return pid in self._since

    def look(self) -> None:
        """Look who has a lock, and end a child that has had it all the time for too long. Never waits."""
        now = self._clock()
        before, self._changed = self._changed, self._stamp()
        # Who has changed the ledger since the last look is not the one who keeps others from it: nobody does.
        since = self._since if before == self._changed else {}
        self._since = {pid: since.get(pid, now) for pid in holders(self._ledger.path, self._locks)}
        short = self.long
        if short != self._short:
            self._short = short
            self._ledger.wait_at_most(PATIENCE_SECONDS if short else None)
        for kept in self._kept:
            child = kept.child
            held = now - self._since.get(child.pid or 0, now)
            why = policies.holds_up(held, self.limit)
            # One that was asked to stop has its own time, and to one that cannot even be killed it was done already.
            if why is not None and not child.asked and not child.killed:
                kept.end(why)

    def _stamp(self) -> int | None:
        try:
            return self._ledger.path.stat().st_mtime_ns
        except OSError:
            return None
