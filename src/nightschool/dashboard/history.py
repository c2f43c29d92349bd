"""The steps as the page keeps them in memory, so that a curve costs milliseconds and the ledger is read in short pages.

Small buckets are kept whole: 1.5 MB for a million steps. Single steps are kept in portions, the latest used. Both are
read on from where they end; where the ledger's `steps.revision` has changed, rows were removed or replaced, and all is
read anew.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from nightschool.dashboard import rows
from nightschool.dashboard.curve import Before, curve, window
from nightschool.dashboard.rows import Growing, Rows
from nightschool.dashboard.shapes import Curve
from nightschool.dashboard.smoothing import half_life
from nightschool.ledger import Ledger
from nightschool.ledger.buckets import SMALL
from nightschool.ledger.steps import LOST

PAGE = 1000
"""Rows that are read at once: a few milliseconds."""
PORTION = 4096
"""Steps in a portion of single ones."""
PORTIONS = 32
FINE = 16
"""Parts of a half-life in which what lies before a window is taken into account."""
TRIES = 3
"""A history that is rewritten again and again while it is read is given as it is."""


class History:
    """What was read of one ledger's steps. For one thread."""

    def __init__(self) -> None:
        self._revision: int | None = None
        self._small = Growing()
        self._steps: OrderedDict[int, Growing] = OrderedDict()

    def curve(
        self, ledger: Ledger, generation: int, first: int = 0, last: int | None = None, points: int = 1200
    ) -> Curve:
        """The curve from step `first` to `last` (default: the last one done), in at most `points` points."""
        return self._steady(ledger, generation, first, last, points, whole=False)

    def since(self, ledger: Ledger, generation: int, after: int, most: int = 500) -> Curve | None:
        """The steps after `after`, a point each, smoothed as in the curve over all. None where they are more than
        `most`.
        """
        found = self._steady(ledger, generation, after + 1, None, max(most, 1), whole=True)
        return found if found.span == 1 else None

    def _steady(
        self, ledger: Ledger, generation: int, first: int, last: int | None, points: int, *, whole: bool
    ) -> Curve:
        found = self._curve(ledger, generation, first, last, points, whole=whole)
        for _ in range(TRIES - 1):
            if ledger.steps.revision() == self._revision:
                break
            found = self._curve(ledger, generation, first, last, points, whole=whole)
        return found

    def _refresh(self, ledger: Ledger) -> None:
        """Read what is new."""
        revision = ledger.steps.revision()
        if revision != self._revision:
            # What is read from here on may already be of a later revision; then it is read once more next time.
            self._revision, self._small = revision, Growing()
            self._steps.clear()
        while True:
            known = self._small.rows
            # The last one may have grown since.
            first = int(known["first"][-1]) // SMALL * SMALL if len(known) else 0
            page = ledger.steps.buckets(SMALL, first, PAGE)
            self._small.put(rows.of_buckets(page))
            if len(page) < PAGE:
                return

    def _curve(
        self, ledger: Ledger, generation: int, first: int, last: int | None, points: int, *, whole: bool
    ) -> Curve:
        self._refresh(ledger)
        small = self._small.rows
        begin, done = (int(small["first"][0]), int(small["last"][-1])) if len(small) else (0, 0)
        first = max(first, begin)
        last = done if last is None else min(last, done)
        seen = window(first, last, points, half_life(done - begin + 1) if whole else None)
        earlier = rows.none()
        lost: list[tuple[int, int]] = []
        if not len(small) or first > last:
            at, found = 0, rows.none()
        elif seen.span >= SMALL:
            at, end = _between(small, seen.warm // seen.span * seen.span, seen.end)
            found = small[at:end]
        else:
            # Before the window, single steps matter for a short half-life only.
            start = (seen.warm if seen.half_life < SMALL else seen.begin) // SMALL * SMALL
            at, _ = _between(small, start, seen.end)
            # Together, as far as the smooth line does not show it.
            parts = max(SMALL, seen.half_life // FINE)
            earlier = rows.together(small[_between(small, seen.warm, start)[0] : at], parts)
            found = self._single(ledger, start, min(seen.end, done), done)
        if len(found):
            lost = [(low, high) for low, high in ledger.machine.get(LOST) or []]
        before = Before(int(small["tokens"][:at].sum()), int(small["micros"][:at].sum()))
        return curve(
            found, seen, before=before, earlier=earlier, lost=lost, generation=generation, steps_done=done
        )  # fmt: skip

    def _single(self, ledger: Ledger, first: int, last: int, done: int) -> Rows:
        """The steps `first` to `last`, from what is kept or from the ledger; `done` is the highest that is known."""
        parts = []
        for number in range(first // PORTION, last // PORTION + 1):
            part = self._steps.setdefault(number, Growing())
            self._steps.move_to_end(number)
            self._read_on(ledger, part, number * PORTION, min((number + 1) * PORTION - 1, done))
            # A copy, since the portions may be let go while more are read.
            low, high = _between(part.rows, first, last)
            parts.append(part.rows[low:high].copy())
            while len(self._steps) > PORTIONS:
                self._steps.popitem(last=False)
        return np.concatenate(parts) if parts else rows.none()

    @staticmethod
    def _read_on(ledger: Ledger, part: Growing, first: int, last: int) -> None:
        if len(part.rows):
            first = int(part.rows["last"][-1]) + 1
        while first <= last:
            page = ledger.steps.figures(first, last, PAGE)
            part.put(rows.of_steps(page))
            if len(page) < PAGE:
                return
            first = page[-1][0] + 1


def _between(kept: Rows, first: int, last: int) -> tuple[int, int]:
    """Where rows begin that end at step `first` or later, and where those end that begin at `last` at the latest."""
    return int(np.searchsorted(kept["last"], first)), int(np.searchsorted(kept["first"], last, side="right"))
