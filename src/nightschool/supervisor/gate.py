"""Whether the trainer may run now, and if not, the plain word for it and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from nightschool import hours, pausing

Rest = tuple[str, str]
"""The word for the machine's state while the trainer rests, and the reason."""

Reason = Callable[[], Rest | None]


class Gate:
    """What keeps the trainer from being run; asked in each round.

    The reasons are asked in the order in which the user must know them: what they asked for first, then what they set,
    then what others do.

    Args:
        hours_text: machine.hours.
        say: takes one line for the log.
        now: the aware local time.
        ignore_hours: whether the user cannot wait.
        others: further reasons, in their order, each asked only if none before it holds.
    """

    def __init__(
        self,
        hours_text: str,
        say: Callable[[str], Any],
        *,
        now: Callable[[], datetime] = hours.local_now,
        ignore_hours: bool = False,
        others: Sequence[Reason] = (),
    ) -> None:
        self.rest: Rest | None = None
        self._hours = hours.parse(hours_text)
        self._say = say
        self._now = now
        self._ignore_hours = ignore_hours
        self._others = others

    def apply(self, hours_text: str) -> None:
        """Go by other hours from now on."""
        self._hours = hours.parse(hours_text)

    def look(self, told: dict[str, Any]) -> None:
        """Make up `rest` anew. `told`: all machine rows."""
        before, self.rest = self.rest, self._found(told)
        if self.rest == before:
            return
        if self.rest is None:
            self._say("Training may go on.")
        elif before is None or before[0] != self.rest[0]:
            word, why = self.rest
            self._say(f"{word[:1].upper()}{word[1:]}: {why}.")

    def _found(self, told: dict[str, Any]) -> Rest | None:
        now = self._now()
        pause = pausing.in_force(told.get(pausing.ROW), now)
        if pause is not None:
            return "paused", pause.reason(now)
        if not self._ignore_hours:
            open = hours.open_at(now, self._hours)
            if not open.open:
                return "outside hours", f"{open.why} (machine.hours)"
        return next((rest for reason in self._others if (rest := reason()) is not None), None)
