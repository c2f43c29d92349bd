"""What is to be seen, one value: read from the ledger in a few milliseconds, drawn by `drawing`. No terminal here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from nightschool import forecast
from nightschool.hardware import Hardware
from nightschool.ledger import EntryRow, Ledger
from nightschool.ledger.buckets import SMALL
from nightschool.status import Status, progress_of, status_of
from nightschool.workspace import Layout

TREND = 24
"""Points of the trend of the loss."""
NEXT = 20
"""Waiting files that are told."""
NEXT_SECONDS = 5.0
"""Between two looks at the waiting files."""


@dataclass(frozen=True)
class Waiting:
    """A file that is to come; `again` after a cut. What is not known is None."""

    name: str
    steps: int | None
    seconds: float | None
    estimated: bool
    again: bool = False


@dataclass(frozen=True)
class View:
    """All that is shown.

    Attributes:
        at: local time, aware.
        status: what `nightschool status` tells.
        file_step, file_steps: steps done of the file in training, and its steps in all; 0 and 0 where there is none.
        file_seconds: time to its end; None where it is not known.
        trend: mean losses of even parts of the latest steps, oldest first.
        trend_steps: the steps that the trend is over.
        next: the first files that are to come.
        hardware: memory and room.
        lines: the last lines of the log.
        trouble: why nothing newer could be read, if that is so.
    """

    at: datetime
    status: Status
    file_step: int
    file_steps: int
    file_seconds: float | None
    trend: tuple[float, ...]
    trend_steps: int
    next: tuple[Waiting, ...]
    hardware: Hardware
    lines: tuple[str, ...] = ()
    trouble: str | None = None


class Reader:
    """Reads views; every read is short, and the waiting files are looked at seldom.

    The ledger is opened for each: one that was restored meanwhile is another file.

    Args:
        layout: the workspace.
        clock: monotonic seconds.
    """

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._next: tuple[Waiting, ...] = ()
        self._next_at: float | None = None
        self._next_for: tuple[object, ...] = ()

    def read(self, at: datetime, hardware: Hardware, lines: Sequence[str] = ()) -> View:
        """The view of this moment.

        Raises:
            NightschoolError: the ledger cannot be read, or a file of the workspace.
        """
        with Ledger.open(self._layout.ledger) as ledger:
            status = status_of(self._layout, ledger)
            unfinished = ledger.entries.unfinished(status.step, NEXT + 1)
            trend, over = trend_of(ledger, status.step)
            told = ledger.machine.get("trainer") or {}
            key = (status.queued, status.learned, len(unfinished))
            now = self._clock()
            if self._next_at is None or now - self._next_at >= NEXT_SECONDS or key != self._next_for:
                self._next = next_files(ledger, unfinished[1:])
                self._next_at, self._next_for = now, key
        progress = progress_of(status, unfinished, told)
        return View(
            at=at, status=status, file_step=progress.step, file_steps=progress.steps,
            file_seconds=progress.seconds, trend=trend, trend_steps=over, next=self._next,
            hardware=hardware, lines=tuple(lines),
        )  # fmt: skip


def next_files(ledger: Ledger, again: Sequence[tuple[EntryRow, int]]) -> tuple[Waiting, ...]:
    """The first files that are to come: those that are trained again after a cut, then those that wait."""
    rates = forecast.read_rates(ledger, ledger.machine.all())
    found: list[Waiting] = []
    for entry, steps in again[:NEXT]:
        seconds = None if rates.step_seconds is None else steps * rates.step_seconds
        found.append(Waiting(ledger.called(entry.file_ids), steps, seconds, False, again=True))
    for one in forecast.first_waiting(ledger, rates, NEXT - len(found)):
        found.append(Waiting(one.name, one.steps, one.seconds, one.estimated))
    return tuple(found)


def trend_of(ledger: Ledger, last: int) -> tuple[tuple[float, ...], int]:
    """Mean losses of up to TREND even parts of the latest steps, and how many steps they are over.

    Early on from the steps themselves, later from the buckets that are kept over each 64 of them.
    """
    if last >= TREND * SMALL:
        rows = ledger.steps.buckets(SMALL, last - TREND * SMALL + SMALL, TREND)
        means = [row.loss_mean for row in rows]
        return tuple(mean for mean in means if mean is not None), sum(row.count for row in rows)
    losses = [row.loss for row in ledger.steps.range(0, last, TREND * SMALL) if math.isfinite(row.loss)]
    parts = min(TREND, len(losses))
    edges = [len(losses) * n // parts for n in range(parts + 1)] if parts else []
    means = [math.fsum(losses[a:b]) / (b - a) for a, b in pairwise(edges)]
    return tuple(means), len(losses)
