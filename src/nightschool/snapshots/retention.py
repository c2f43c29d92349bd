"""Which snapshots are kept. Pure: it says why each is kept or goes, and touches nothing.

Three rules that do not know of each other, each over the calendar: the last snapshot of each of the newest so many
days, ISO weeks and months that have one. A snapshot goes when no rule wants it. Never removed are those that people
named, the origin, damaged ones (somebody should look), those dated in the future, and the only whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date

from nightschool.snapshots.states import Snapshot


@dataclass(frozen=True)
class Rules:
    """How many days, weeks and months keep their last snapshot."""

    daily: int
    weekly: int
    monthly: int


@dataclass(frozen=True)
class Verdict:
    """What becomes of a snapshot, and why: clauses without a full stop."""

    snapshot: Snapshot
    keep: bool
    reasons: tuple[str, ...]

    @property
    def why(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)


def decide(every: Sequence[Snapshot], rules: Rules, today: date, whole: Collection[str]) -> list[Verdict]:
    """What becomes of each snapshot, in the order given.

    Args:
        every: all snapshots of one place.
        rules: how many to keep.
        today: the date where the machine stands.
        whole: names of those that nothing is wrong with.
    """
    reasons: dict[str, list[str]] = {one.name: [] for one in every}
    daily: list[Snapshot] = []
    for one in every:
        if one.kind == "origin":
            reasons[one.name].append("the run began with it")
        elif one.kind == "named":
            reasons[one.name].append("it was taken by hand")
        elif one.name not in whole:
            reasons[one.name].append("it is damaged: look at it, and remove it by hand")
        elif one.date > today:
            reasons[one.name].append("it is dated in the future, so it says nothing about the others")
        else:
            daily.append(one)
    # By the day each stands for; of two that stand for one day, the one that is further on.
    daily.sort(key=lambda one: (one.date, one.generation, one.step, one.name), reverse=True)
    buckets: tuple[tuple[int, str, Callable[[date], object]], ...] = (
        (rules.daily, "the last of its day", lambda day: day),
        (rules.weekly, "the last of its week", lambda day: day.isocalendar()[:2]),
        (rules.monthly, "the last of its month", lambda day: (day.year, day.month)),
    )
    for count, text, bucket_of in buckets:
        seen: set[object] = set()
        for one in daily:
            bucket = bucket_of(one.date)
            if bucket in seen:
                continue
            if len(seen) == count:
                break
            seen.add(bucket)
            reasons[one.name].append(f"{text} ({len(seen)} of {count})")
    _keep_one(every, reasons, whole)
    gone = f"older than the newest {rules.daily} days, {rules.weekly} weeks and {rules.monthly} months keep"
    return [Verdict(one, bool(reasons[one.name]), tuple(reasons[one.name]) or (gone,)) for one in every]


def _keep_one(every: Sequence[Snapshot], reasons: dict[str, list[str]], whole: Collection[str]) -> None:
    good = [one for one in every if one.name in whole]
    if good and not any(reasons[one.name] for one in good):
        newest = max(good, key=lambda one: (one.generation, one.step, one.date, one.name))
        reasons[newest.name].append("it is the only whole one")
