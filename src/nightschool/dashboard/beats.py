"""What is looked at once a second for all who watch, and what is told of it: read in one go, in the ledger's thread."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from nightschool.dashboard.shapes import Now
from nightschool.dashboard.standin import events_after, now_of, steps_between
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

MOST_STEPS = 500
MOST_EVENTS = 200
QUEUE = 50
"""Files at the head of the queue whose order is watched; further changes of it show in the numbers."""
ALL = ("curve", "queue", "files", "saved")


class Changed(msgspec.Struct, kw_only=True):
    """What is to be asked for again: of `curve`, `queue`, `files`, `saved`."""

    what: list[str]


@dataclass(frozen=True)
class Message:
    """Something told to whoever watches: a type of the stream, and its data."""

    kind: str
    data: msgspec.Struct


@dataclass(frozen=True, order=True)
class Place:
    """How far someone has been told: the id of the stream's messages, `<generation>.<event>.<step>`."""

    generation: int
    event: int
    step: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.event}.{self.step}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The place that a text names, or None where it names none."""
        try:
            generation, event, step = (int(part) for part in text.split(".") if part.isdecimal() and len(part) <= 18)
        except ValueError:
            return None
        return cls(generation, event, step)


@dataclass(frozen=True)
class Beat:
    """One look. `prints` are compared with those of the next look, to see what changed."""

    place: Place
    now: Now
    prints: dict[str, Hashable]


def look(layout: Layout, ledger: Ledger) -> Beat:
    """Look now. Raises NightschoolError where the ledger cannot be read."""
    now = now_of(layout, ledger)
    last = ledger.steps.last()
    counts = tuple(sorted(ledger.files.counts().items()))
    head = [(row.id, row.state, row.priority, row.batch, row.sort_key) for row in ledger.files.queue(limit=QUEUE)]
    kept = [(row.step, row.generation, row.state) for row in ledger.checkpoints.listing(limit=QUEUE)]
    return Beat(
        Place(now.generation, now.event, last.step if last else 0),
        now,
        {
            "queue": (counts, tuple(head), now.status.get("current_file")),
            "files": counts,
            "saved": (tuple(kept), _changed_at(layout)),
        },
    )


def told(ledger: Ledger, before: Beat, now: Beat) -> list[Message]:
    """What is new since the look before, in the order in which it is told; `now` comes last."""
    changed = [what for what in now.prints if now.prints[what] != before.prints[what]]
    return [*_missed(ledger, before.place, now.place, changed), Message("now", now.now)]


def missed(ledger: Ledger, after: Place, now: Beat, *, away: bool) -> list[Message]:
    """What someone has missed who was told all up to a place. Nobody knows what else changed while they were `away`."""
    others = ALL[1:] if away or after != now.place else ()
    return [*_missed(ledger, after, now.place, others), Message("now", now.now)]


def _missed(ledger: Ledger, after: Place, now: Place, changed: Sequence[str]) -> list[Message]:
    found: list[Message] = []
    if after.generation != now.generation or after.event > now.event or now.event - after.event > MOST_EVENTS:
        # Another past, another ledger, or too much to tell: all is asked for again.
        return [Message("changed", Changed(what=list(ALL)))]
    if now.step < after.step or now.step - after.step > MOST_STEPS:
        changed = ["curve", *changed]
    elif now.step > after.step:
        found.append(Message("steps", steps_between(ledger, after.step + 1, now.step)))
    if now.event > after.event:
        found.append(Message("events", events_after(ledger, after.event, MOST_EVENTS)))
    if changed:
        found.append(Message("changed", Changed(what=list(changed))))
    return found


def _changed_at(layout: Layout) -> int:
    """When a snapshot came or went."""
    try:
        return layout.snapshots.stat().st_mtime_ns
    except OSError:
        return 0
