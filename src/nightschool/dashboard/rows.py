"""Steps and buckets as arrays: one row each, with the same columns, so that both are put together by one code. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from nightschool.ledger.buckets import LONGEST, BucketRow, Figures

Rows = npt.NDArray[Any]
"""Of the type ROW, in the order of steps."""
Column = npt.NDArray[Any]

ROW = np.dtype([
    ("first", "i8"), ("last", "i8"), ("count", "i4"), ("bad", "i4"), ("loss_min", "f8"), ("loss_max", "f8"),
    ("loss_sum", "f8"), ("tokens", "i8"), ("micros", "i8"), ("norm_count", "i4"), ("norm_max", "f8"),
    ("norm_sum", "f8"), ("learning_rate", "f8"),
])  # fmt: skip
"""What `ledger.buckets.BucketRow` has; None is NaN."""
_REDUCED = {
    "count": np.add, "bad": np.add, "loss_min": np.fmin, "loss_max": np.fmax, "loss_sum": np.add, "tokens": np.add,
    "micros": np.add, "norm_count": np.add, "norm_max": np.fmax, "norm_sum": np.add,
}  # fmt: skip
_of_bucket = attrgetter(*(ROW.names or ()))


def none() -> Rows:
    """No rows."""
    return np.zeros(0, ROW)


def of_buckets(buckets: Sequence[BucketRow]) -> Rows:
    """A row for each bucket."""
    return np.array([_of_bucket(one) for one in buckets], ROW)


def of_steps(steps: Sequence[Figures]) -> Rows:
    """A row for each step."""
    rows = np.zeros(len(steps), ROW)
    if not steps:
        return rows
    numbers, losses, tokens, seconds, norms, rates = zip(*steps, strict=True)
    rows["first"] = rows["last"] = numbers
    rows["tokens"] = tokens
    times = np.array(seconds, "f8")
    # What `buckets.micros_of` gives for each of them.
    rows["micros"] = np.rint(np.clip(np.where(np.isfinite(times), times, 0.0), 0.0, LONGEST) * 1e6)
    rows["learning_rate"] = np.array(rates, "f8")
    loss, norm = np.array(losses, "f8"), np.array(norms, "f8")
    finite, known = np.isfinite(loss), np.isfinite(norm)
    rows["count"], rows["bad"], rows["norm_count"] = finite, ~finite, known
    rows["loss_min"] = rows["loss_max"] = np.where(finite, loss, np.nan)
    rows["loss_sum"], rows["norm_sum"] = np.where(finite, loss, 0.0), np.where(known, norm, 0.0)
    rows["norm_max"] = np.where(known, norm, np.nan)
    return rows


def together(rows: Rows, span: int) -> Rows:
    """Rows over at most `span` steps each, those of `n * span` up to `(n + 1) * span` in one.

    `span` is a multiple of what the rows are over.
    """
    if not len(rows):
        return rows
    starts = np.flatnonzero(np.diff(rows["first"] // span, prepend=-1))
    ends = np.append(starts[1:], len(rows)) - 1
    found = np.zeros(len(starts), ROW)
    with np.errstate(all="ignore"):  # losses that are nonsense may add up to infinity, which is shown as not known
        for name, reduce in _REDUCED.items():
            found[name] = reduce.reduceat(rows[name], starts)
    found["first"] = rows["first"][starts]
    found["last"], found["learning_rate"] = rows["last"][ends], rows["learning_rate"][ends]
    return found


def with_gaps(rows: Rows, span: int, lost: Sequence[tuple[int, int]]) -> Rows:
    """With a row of no steps where none of the `span` steps of a row is there, and some were lost (first, last).

    Steps that never were are no gap: what another program had logged every tenth step of, say.
    """
    cells = rows["first"] // span
    holes = np.flatnonzero(np.diff(cells) > 1)
    places, ends = [], []
    for at in holes.tolist():
        first, stop = int(cells[at] + 1) * span, int(cells[at + 1]) * span
        if any(begin < stop and end >= first for begin, end in lost):
            places.append(at + 1)
            ends.append(first + span - 1)
    if not places:
        return rows
    blank = np.zeros(len(places), ROW)
    for name in ("loss_min", "loss_max", "norm_max", "learning_rate"):
        blank[name] = np.nan
    blank["first"] = blank["last"] = ends
    return np.insert(rows, places, blank)


class Growing:
    """Rows that are added at the end, again and again."""

    def __init__(self) -> None:
        self._all = none()
        self._size = 0

    @property
    def rows(self) -> Rows:
        """All of them; only valid until more are added."""
        return self._all[: self._size]

    def put(self, rows: Rows) -> None:
        """Add rows at the end, in the place of those from the first one's step on."""
        if not len(rows):
            return
        keep = int(np.searchsorted(self.rows["first"], rows["first"][0]))
        if keep + len(rows) > len(self._all):
            larger = np.zeros(max(2 * len(self._all), keep + len(rows)), ROW)
            larger[:keep] = self._all[:keep]
            self._all = larger
        self._all[keep : keep + len(rows)] = rows
        self._size = keep + len(rows)


def numbers(values: Column, digits: int = 7) -> list[float | None]:
    """As the API gives them: rounded to so many digits, and None for what is not finite."""
    with np.errstate(all="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        rounded = np.round(values * scale) / scale
    usable = np.isfinite(rounded) & np.isfinite(scale)
    exact = np.where(usable, rounded, values)
    return [value if good else None for value, good in zip(exact.tolist(), np.isfinite(values).tolist(), strict=True)]
