"""Giving the GPU back when there has been nothing to do for a while."""

from __future__ import annotations

from collections.abc import Callable


class Unloading:
    """Counts for how long the trainer has had nothing to do.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    def due(self, idle: bool, after_minutes: float) -> bool:
        """Whether it is to be unloaded.

        Args:
            idle: whether it has nothing to do now.
            after_minutes: machine.unload_after; 0 for never.
        """
        if not idle:
            self._since = None
            return False
        if self._since is None:
            self._since = self._clock()
        return after_minutes > 0 and self._clock() - self._since >= after_minutes * 60
