"""What is looked at once a second for all who watch, and what is told of it: read in one go, in the ledger's thread."""

from __future__ import annotations

import bisect
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from nightschool.dashboard.history import History
from nightschool.dashboard.looks import events_of, now_of
from nightschool.dashboard.shapes import Curve, Now
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

MOST_STEPS = 500
MOST_EVENTS = 200
QUEUE = 50
"""Files at the head of the queue whose order is watched; further changes of it show in the numbers."""
ALL = ("curve", "queue", "files", "saved")
_PLACE = re.compile(r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})", re.ASCII)


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
        found = _PLACE.fullmatch(text)
        return None if found is None else cls(*(int(part) for part in found.groups()))


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
            # Steps that were taken back and done again by the next look: their number tells nothing of it.
            "curve": ledger.steps.revision(),
            "queue": (counts, tuple(head), now.status.get("current_file")),
            "files": counts,
            "saved": (tuple(kept), _changed_at(layout)),
        },
    )


def told(ledger: Ledger, history: History, before: Beat, now: Beat) -> list[Message]:
    """What is new since the look before, in the order in which it is told; `now` comes last."""
    changed = [what for what in now.prints if now.prints[what] != before.prints[what]]
    return [*_missed(ledger, history, before.place, now.place, changed), Message("now", now.now)]


def missed(ledger: Ledger, history: History, after: Place, now: Beat, *, away: bool) -> list[Message]:
    """What someone has missed who was told all up to a place. Nobody knows what else changed while they were `away`."""
    others = ALL[1:] if away or after != now.place else ()
    return [*_missed(ledger, history, after, now.place, others), Message("now", now.now)]


def _missed(ledger: Ledger, history: History, after: Place, now: Place, changed: Sequence[str]) -> list[Message]:
    if after.generation != now.generation or after.event > now.event or now.event - after.event > MOST_EVENTS:
        # Another past, another ledger, or too much to tell: all is asked for again.
        return [Message("changed", Changed(what=list(ALL)))]
    found: list[Message] = []
    if now.step != after.step and "curve" not in changed:
        curve = history.since(ledger, now.generation, after.step, MOST_STEPS) if now.step > after.step else None
        if curve is None:
            changed = ["curve", *changed]
        else:
            found.append(Message("steps", _up_to(curve, now.step)))
    if now.event > after.event:
        found.append(Message("events", events_of(ledger, after.event, MOST_EVENTS)))
    if changed:
        found.append(Message("changed", Changed(what=list(changed))))
    return found


def _up_to(curve: Curve, step: int) -> Curve:
    """A curve without the steps that were written since the look: they are told after it, once."""
    many = bisect.bisect_right(curve.step, step)
    columns = {name: value[:many] for name, value in msgspec.structs.asdict(curve).items() if isinstance(value, list)}
    return msgspec.structs.replace(curve, last=min(curve.last, step), steps_done=min(curve.steps_done, step), **columns)


def _changed_at(layout: Layout) -> tuple[int, int]:
    """When a snapshot came or went, and when saved states were last read whole."""
    return _time_of(layout.snapshots), _time_of(layout.verified)


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
