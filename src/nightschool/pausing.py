"""Pauses that the user asks for: how long they last, and what the ledger says of them. Pure: the clock is passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nightschool.errors import SettingsError
from nightschool.hours import in_words

ROW = "paused"
"""The machine row: {"until": UTC ISO 8601, or None for an open end}; False, or not there, while there is no pause."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
LONGEST = timedelta(days=365)


@dataclass(frozen=True)
class Pause:
    """A pause that is in force. `until` is None where it ends with `nightschool resume` alone."""

    until: datetime | None

    def reason(self, now: datetime) -> str:
        """How it ends, in words; `now` is an aware local time."""
        if self.until is None:
            return "`nightschool resume` goes on"
        return f"until {in_words(self.until.astimezone(now.tzinfo), now)}; `nightschool resume` goes on earlier"


def seconds_of(text: str) -> float:
    """Read `2h`, `30m`, `1h30m`, `90s` or `2d`; seconds.

    Raises:
        SettingsError: it is no such time, nothing, or longer than a year.
    """
    found = _TIME.fullmatch(text.strip().lower().replace(" ", ""))
    parts = found.groups() if found else ()
    seconds = sum(float(part) * _UNITS[unit] for part, unit in zip(parts, "dhms", strict=False) if part)
    if seconds <= 0:
        raise SettingsError(f"`--for {text}` is no time: write it as 2h, 30m, 1h30m, 90s or 2d.")
    if seconds > LONGEST.total_seconds():
        raise SettingsError(f"`--for {text}` is more than a year: pause without an end, and resume when it is time.")
    return seconds


def row_for(seconds: float | None, now: datetime) -> dict[str, Any]:
    """The row for a pause that begins at `now` (aware) and lasts so long; with an open end if None."""
    until = None if seconds is None else now.astimezone(UTC) + timedelta(seconds=seconds)
    return {"until": until.isoformat(timespec="seconds") if until else None}


def in_force(row: Any, now: datetime) -> Pause | None:
    """The pause that the row tells of, if it is not over at `now` (aware)."""
    if not row:
        return None
    text = row.get("until") if isinstance(row, dict) else None  # True, in workspaces of an earlier version
    until = datetime.fromisoformat(text) if text else None
    return None if until is not None and now >= until else Pause(until)
