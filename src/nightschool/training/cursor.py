"""How far the curve was reported, and up to where that is still the run's history. Pure: no files, no trackers.

A step is reported when its row is in the ledger, and never again: after a crash the run does the steps behind its last
checkpoint once more, but by the first law they are the same steps. Only where the history itself has changed (a
rollback, a file forgotten or set aside, another order) is something of what was reported no longer true. The cursor
therefore remembers the history that it has reported, as a chain of digests, and `common` says how much of it stands.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightschool.ledger import EntryRow, HoldoutRow, StepRow


@dataclass(frozen=True, slots=True)
class Span:
    """The steps `first` to `last` of the run, both included (counted from 1), that one entry trains.

    `digest` stands for this entry and all before it: data, settings and where each begins.
    """

    position: int
    first: int
    last: int
    file_ids: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Cursor:
    """What one tracker has been told.

    Attributes:
        name: of the run, for people.
        run: number of the run in the tracker, from 1; a tracker that can take nothing back gets a new one.
        id: what the tracker itself calls the run; None until it does.
        configured: whether the run's settings were told.
        step: the last step reported.
        settled: of the entries that end up to this step, the loss on held-out rows after training was told, or never
            will be.
        marks: (first step, digest) of the entries that the reported steps are of.
    """

    name: str
    run: int = 1
    id: str | None = None
    configured: bool = False
    step: int = 0
    settled: int = 0
    marks: tuple[tuple[int, str], ...] = ()

    @property
    def title(self) -> str:
        """The name that tells the run from the tracker's others."""
        return self.name if self.run == 1 else f"{self.name}-{self.run}"

    def reported(self, step: int, span: Span) -> Cursor:
        """The cursor after `step`, which is of the entry `span`."""
        marks = self.marks if self.knows(span) else (*self.marks, (span.first, span.digest))
        return replace(self, step=step, marks=marks)

    def knows(self, span: Span) -> bool:
        """Whether a step of this entry was reported."""
        return self.marks[-1:] == ((span.first, span.digest),)

    def back_to(self, step: int) -> Cursor:
        """The cursor as it was when `step` was the last that was reported."""
        marks = tuple(mark for mark in self.marks if mark[0] <= step)
        # What ends right there may have ended later before, and is then measured anew.
        return replace(self, step=step, marks=marks, settled=max(min(self.settled, step - 1), 0))

    def anew(self) -> Cursor:
        """The cursor of the tracker's next run, which has been told nothing."""
        return Cursor(self.name, self.run + 1)

    def to_json(self) -> str:
        """As text for a file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cursor:
        """What `to_json` wrote. Raises ValueError where it is something else."""
        try:
            found = json.loads(text)
            marks = tuple((int(first), str(digest)) for first, digest in found.pop("marks"))
            return cls(marks=marks, **found)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no cursor: {error}") from None


def spans(rows: Sequence[EntryRow]) -> list[Span]:
    """Where in the run each entry is. Entries without a step are left out."""
    found: list[Span] = []
    done, digest = 0, ""
    for row in rows:
        if row.stop == row.start:
            continue
        link = [digest, done, [part[1:] for part in row.parts], row.recipe, row.start]
        digest = hashlib.sha256(json.dumps(link).encode()).hexdigest()[:16]
        found.append(Span(row.position, done + 1, done + row.stop - row.start, row.file_ids, digest))
        done = found[-1].last
    return found


def common(cursor: Cursor, now: Sequence[Span]) -> int:
    """Up to which of the reported steps the history is still the one that was reported."""
    same = 0
    for mark, span in zip(cursor.marks, now, strict=False):
        if mark != (span.first, span.digest):
            break
        same += 1
    # Where the next entry began, then or now, the one before it ended.
    ends = [mark[0] - 1 for mark in cursor.marks[same : same + 1]]
    ends.append(now[same - 1].last if same else 0)
    return min(cursor.step, *ends)


def span_of(step: int, now: Sequence[Span]) -> Span | None:
    """The entry that a step is of, or None where it is of none."""
    at = bisect_left(now, step, key=attrgetter("last"))
    return now[at] if at < len(now) and step >= now[at].first else None


def curve(row: StepRow) -> dict[str, Any]:
    """What is told of a step. One that was not done here (taken over, or told by a checkpoint) may lack some of it."""
    found = {"train/loss": row.loss, "train/learning_rate": row.learning_rate, "train/grad_norm": row.grad_norm}
    if row.seconds > 0:
        return {**found, "train/tokens_per_second": row.tokens / row.seconds}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def mean(rows: Sequence[HoldoutRow], what: str) -> float | None:
    """The mean of `loss_before` or `loss_after` over an entry's label tokens; None where none was taken."""
    known = [(getattr(row, what), row.label_tokens) for row in rows if getattr(row, what) is not None]
    tokens = sum(weight for _, weight in known)
    return math.fsum(loss * weight for loss, weight in known) / tokens if tokens else None
