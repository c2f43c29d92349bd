"""Which day's snapshot is due. Pure: the wall clock and what was done come in, the date and the reason come out.

A snapshot stands for a date, not for a moment: for the last date on which the clock has passed `at`. What is done is a
set of dates, and only membership counts, never an order: so it does not matter whether 03:00 comes twice, not at all,
or while the machine is off, nor whether somebody sets the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

MOST_DONE = 500
"""Dates that are remembered, by when they were noted and not by the calendar."""
MOST_PASSED = 60
"""Days without a snapshot that one snapshot after them settles."""
DAY = timedelta(days=1)

PASSED = "no snapshot was taken on that day, and a later one stands"
FIRST = "nightschool ran here for the first time"
NOTHING = "nothing had been learned yet"


@dataclass(frozen=True)
class Due:
    """A snapshot that is to be taken: the day it stands for, and why, as a clause."""

    date: date
    why: str


def stands_for(now: datetime, at: time) -> date:
    """The day that a snapshot taken now would stand for: today from `at` on, before that yesterday."""
    today = now.date()
    return today if now.time().replace(tzinfo=None) >= at else today - DAY


def due(now: datetime, at: str, done: Mapping[date, str]) -> Due | None:
    """The snapshot to take, or None.

    Args:
        now: the wall clock where the machine stands.
        at: HH:MM, or "" for never.
        done: the dates that are settled, each with how.
    """
    if not at:
        return None
    day = stands_for(now, time.fromisoformat(at))
    if day in done:
        return None
    late = now.replace(tzinfo=None) - datetime.combine(day, time.fromisoformat(at))
    why = f"it is past {at}" if late < timedelta(hours=1) else f"none was taken at {at}, and this one stands for it"
    return Due(day, why)


def comes(now: datetime, at: str, done: Mapping[date, str] | None) -> datetime | None:
    """When the next snapshot is due, on the wall clock of `now`; in the past where it is due already.

    Args:
        now: the wall clock where the machine stands, with its zone.
        at: HH:MM, or "" for never: then it is None.
        done: the dates that are settled; None before the machine has run for the first time.
    """
    if not at:
        return None
    wanted = due(now, at, first(now, at) if done is None else done)
    day = wanted.date if wanted else stands_for(now, time.fromisoformat(at)) + DAY
    return datetime.combine(day, time.fromisoformat(at), tzinfo=now.tzinfo)


def first(now: datetime, at: str) -> dict[date, str]:
    """What is settled when a workspace runs for the first time: nothing is due before the next `at`."""
    return {stands_for(now, time.fromisoformat(at)): FIRST} if at else {}


def noted(done: Mapping[date, str], day: date, how: str) -> dict[date, str]:
    """`done` with one more date, and with the days before it that nobody took a snapshot on.

    Those are settled by it: should the clock be set back to one of them, it is not made up for. Only so many dates are
    remembered; the ones that were noted first are dropped.
    """
    found = dict(done)
    before = [known for known in found if known < day]
    last = max(before) if before else day - DAY
    for back in range(min((day - last).days - 1, MOST_PASSED), 0, -1):
        found.setdefault(day - back * DAY, PASSED)
    found.pop(day, None)
    found[day] = how
    return dict(list(found.items())[-MOST_DONE:])


def to_row(done: Mapping[date, str]) -> list[list[str]]:
    """The form in which the ledger keeps it."""
    return [[day.isoformat(), how] for day, how in done.items()]


def from_row(row: Sequence[Sequence[str]] | None) -> dict[date, str]:
    """What `to_row` made; empty where there was nothing yet."""
    return {date.fromisoformat(day): how for day, how in row or []}
