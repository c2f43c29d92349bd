"""What the machine row "paused" says: whether a pause is in force, and until when. Pure: the clock is passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

LONGEST = timedelta(days=3653)
_PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True)
class Pause:
    """A pause in force. `until` is an aware time, or None: until `resume`."""

    until: datetime | None


def row(now: datetime, seconds: float | None) -> dict[str, Any]:
    """What is written for a pause of so many seconds from `now` on; None: until `resume`."""
    until = None if seconds is None else (now.astimezone(UTC) + timedelta(seconds=seconds)).isoformat()
    return {"until": until}


def in_force(value: Any, now: datetime) -> Pause | None:
    """The pause that the row tells of, if it is not over at `now`. Earlier versions wrote True."""
    if not value:
        return None
    text = value.get("until") if isinstance(value, dict) else None
    if text is None:
        return Pause(None)
    until = datetime.fromisoformat(text)
    return Pause(until) if now.astimezone(UTC) < until else None


def seconds_of(text: str) -> float:
    """Seconds of `2h`, `30m`, `1h30m`, `90s`, `2d`.

    Raises:
        ValueError: it is no such time, or none at all; the message says how to write one.
    """
    found = _PARTS.fullmatch(text.strip().lower().replace(" ", ""))
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total <= LONGEST.total_seconds():
        raise ValueError(f"{text!r} is no length of time. Write 2h, 30m, 1h30m, 90s or 2d; ten years at most.")
    return float(total)
