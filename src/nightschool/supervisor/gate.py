"""Whether the trainer may run now, and if not, the plain word for it and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightschool.ledger import Ledger

Rest = tuple[str, str]
"""The word for the machine's state while the trainer rests, and the reason."""


class Gate:
    """What keeps the trainer from being run; asked about twice a second.

    Args:
        ledger: where commands are rows.
        say: takes one line for the log.
    """

    def __init__(self, ledger: Ledger, say: Callable[[str], Any]) -> None:
        self.rest: Rest | None = None
        self._ledger = ledger
        self._say = say

    def look(self, told: dict[str, Any]) -> None:
        """Make up `rest` anew. `told`: all machine rows."""
        before, self.rest = self.rest, paused(told)
        if self.rest is None and before is not None:
            self._say("Going on after the pause.")
        elif self.rest is not None and before is None:
            self._say("Paused. `nightschool resume` goes on.")


def paused(told: dict[str, Any]) -> Rest | None:
    """The rest that the user asked for."""
    return ("paused", "`nightschool resume` goes on") if told.get("paused") else None
