"""A child that hangs outside of any change of the ledger: on a mount whose other end is gone, on a pipe, in a loop.

An intake worker tells of no steps that could be counted. But it reads, or writes: a file, and where there is nothing to
do the ledger, several times a second. The kernel counts the bytes, so nobody need trust the worker to say so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nightschool.supervisor import policies
from nightschool.supervisor.children import Tended


def moved(pid: int) -> str | None:
    """What the kernel counts of a process' reading and writing; None where it does not tell."""
    try:
        return Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    except OSError:
        return None


class Watchdog:
    """Ends one child that neither reads nor writes anything for too long.

    Args:
        kept: who keeps the child.
        hang_minutes: for how long it may; 0 for ever.
        clock: monotonic seconds.
        before: done before the child is ended; what it raises puts that off.
        moved: changes as the process gets on, by its id; None for one of which nothing is known.
    """

    def __init__(
        self, kept: Tended, hang_minutes: float, clock: Callable[[], float], before: Callable[[], None],
        moved: Callable[[int], str | None] = moved,
    ) -> None:  # fmt: skip
        self.limit = hang_minutes * 60
        self._kept = kept
        self._clock = clock
        self._before = before
        self._moved = moved
        self._seen: tuple[int, str] | None = None
        self._since = 0.0

    def look(self, excused: bool) -> None:
        """Look, and end it where it is time. Raises what `before` does.

        Args:
            excused: it waits for others, or somebody else sees to it.
        """
        child, now = self._kept.child, self._clock()
        found = None if child.pid is None else self._moved(child.pid)
        seen = None if found is None or child.pid is None else (child.pid, found)
        if seen is None or seen != self._seen or excused:
            self._seen, self._since = seen, now
            return
        why = policies.stands_still(now - self._since, self.limit)
        if why is not None and not child.asked and not child.killed:
            self._before()
            self._kept.end(why)
