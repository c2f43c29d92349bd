"""Whether the trainer may run now, and if not, the plain word for it and why."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from nightschool import hours, pausing, room
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.supervisor import others
from nightschool.words import escape

Rest = tuple[str, str]
"""The word for the machine's state while the trainer rests, and the reason."""


class Gate:
    """What keeps the trainer from being run; asked about twice a second.

    Args:
        settings: what `nightschool.toml` says; may be replaced while it runs.
        ledger: where commands are rows.
        checkpoints: the folder whose disk the next checkpoint goes to.
        say: takes one line for the log.
        clock: monotonic seconds.
        now: the clock on the wall, an aware time in the local zone.
        ignore_hours: train outside `machine.hours` too.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        checkpoints: Path,
        say: Callable[[str], Any],
        clock: Callable[[], float],
        *,
        now: Callable[[], datetime] = hours.local_now,
        ignore_hours: bool = False,
    ) -> None:
        self.settings = settings
        self.rest: Rest | None = None
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._say = say
        self._clock = clock
        self._now = now
        self._ignore_hours = ignore_hours
        self._yielding = others.Yielding()
        self._yields: str | None = None
        self._look_at: float | None = None

    def look(self, told: dict[str, Any], *, starts: bool = False) -> None:
        """Make up `rest` anew.

        Args:
            told: all machine rows.
            starts: the trainer does not run, and there is work for it.

        Raises:
            StorageError: the ledger cannot be read or written.
        """
        now = self._now()
        before = self.rest
        self.rest = (
            self._paused(told.get("paused"), now) or self._outside(now) or self._gives_way() or self._no_room(starts)
        )
        if self.rest is None and before is not None:
            self._say("Going on: training may run again.")
        elif self.rest is not None and (before is None or before[0] != self.rest[0]):
            self._say(f"{self.rest[0].capitalize()}: {self.rest[1]}.")

    def _paused(self, value: Any, now: datetime) -> Rest | None:
        pause = pausing.in_force(value, now)
        if pause is not None:
            return paused(pause, now)
        if value:
            # It is over: should the clock be set back, it does not begin again. A new one may have come meanwhile.
            with self._ledger.transaction():
                if self._ledger.machine.get("paused") == value:
                    self._ledger.machine.set("paused", False)
        return None

    def _outside(self, now: datetime) -> Rest | None:
        if self._ignore_hours:
            return None
        found = hours.open_at(now, hours.parse(self.settings.machine.hours))
        return None if found.open else ("outside hours", found.why)

    def _gives_way(self) -> Rest | None:
        names, clock = self.settings.machine.yield_to, self._clock()
        if self._look_at is None or clock >= self._look_at:
            self._look_at = clock + others.LOOK_SECONDS
            why = self._yielding.look(others.running(names), clock)
            self._yields = None if why is None else escape(why)
        return None if self._yields is None else ("paused", self._yields)

    def _no_room(self, starts: bool) -> Rest | None:
        if not starts:
            return None
        newest = self._ledger.checkpoints.newest()
        size = newest.bytes_adapter + newest.bytes_optimizer if newest else None
        needed = room.room_needed(size, round(self.settings.machine.min_free_gb * room.GB))
        # A disk that cannot be asked tells more to the trainer, which writes to it.
        with suppress(OSError):
            why = room.too_little(room.free_bytes(self._checkpoints), needed)
            return None if why is None else ("waiting for disk", why)
        return None


def paused(pause: pausing.Pause, now: datetime) -> Rest:
    """The rest that the user asked for."""
    if pause.until is None:
        return "paused", "`nightschool resume` goes on"
    until = hours.in_words(pause.until.astimezone(now.tzinfo), now)
    return "paused", f"until {until}; `nightschool resume` goes on at once"
