"""Who keeps all others from writing to the ledger: a process that is stopped, or hangs, in the middle of a change.

It need not be the trainer in training, which is watched by its progress. An intake worker that hangs so, or the page,
lets no step be recorded and no file be entered, and a trainer that waits for its next file is not expected to get on.
SQLite's locks are the kernel's, which tells whose they are; a process that has ended has none. So nothing here needs
the ledger itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from nightschool.ledger import Ledger
from nightschool.supervisor import policies
from nightschool.supervisor.children import Tended

HELD_SECONDS = 10.0
"""One change that takes so long is more than a slow disk."""
PATIENCE_SECONDS = 0.1
"""How long the supervisor waits for the ledger then: its rounds go on, and so do signals and the watch over others."""
LOCKS = Path("/proc/locks")
_FIRST, _LAST = 0x40000000, 0x40000000 + 511
"""The bytes that SQLite locks, far behind any content."""


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
    def who(self) -> str | None:
        """Who has held the ledger for long, for people; None where nobody has."""
        now = self._clock()
        pid = next((pid for pid, since in self._since.items() if now - since >= HELD_SECONDS), None)
        if pid is None:
            return None
        name = next((f"the {kept.child.name}, " for kept in self._kept if kept.child.pid == pid), "")
        return f"{name}process {pid}"

    def look(self) -> None:
        """Look who has a lock, and end a child that has had it all the time for too long. Never waits."""
        now = self._clock()
        before, self._changed = self._changed, self._stamp()
        # Who has changed the ledger since the last look is not the one who keeps others from it: nobody does.
        since = self._since if before == self._changed else {}
        self._since = {pid: since.get(pid, now) for pid in holders(self._ledger.path, self._locks)}
        short = self.who is not None
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


def holders(ledger: Path, locks: Path = LOCKS) -> list[int]:
    """The processes, but for this one, that have a lock on a SQLite file, in the kernel's order.

    Files are told by their number alone: some file systems (btrfs) give the kernel's list another device than `stat`.
    """
    try:
        number = str(ledger.stat().st_ino)
        lines = locks.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[int, None] = {}
    for line in lines:
        # 17: POSIX  ADVISORY  WRITE 877 fe:00:2228455 1073741824 1073741825
        words = line.split()
        if len(words) == 8 and words[1] == "POSIX" and words[5].rpartition(":")[2] == number:
            _, _, _, _, pid, _, first, last = words
            if pid.isdigit() and first.isdigit() and last.isdigit() and _FIRST <= int(first) <= int(last) <= _LAST:
                found[int(pid)] = None
    return [pid for pid in found if pid not in (0, os.getpid())]
