"""The curve from rows: which size its points have, and what is in them. Pure arithmetic.

Points begin at multiples of their span, which is a power of two, so a curve that grows, or is moved, keeps its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightschool.dashboard import smoothing
from nightschool.dashboard.rows import Rows, numbers, together, with_gaps
from nightschool.dashboard.shapes import Curve

HOUR = 3_600_000_000
"""Microseconds."""


@dataclass(frozen=True)
class Window:
    """What is looked at: steps `first` to `last`, in points over `span` steps, smoothed with this half-life."""

    first: int
    last: int
    span: int
    half_life: int

    @property
    def begin(self) -> int:
        """The first step of the first point."""
        return self.first // self.span * self.span

    @property
    def end(self) -> int:
        """The last step of the last point."""
        return (self.last // self.span + 1) * self.span - 1

    @property
    def warm(self) -> int:
        """The step from which on losses matter for the smooth line."""
        return max(0, self.begin - smoothing.WARM * self.half_life)


def window(first: int, last: int, points: int, half_life: int | None = None) -> Window:
    """Steps `first` to `last` in at most `points` points. The half-life follows from their number, unless given."""
    steps = max(1, last - first + 1)
    span = 1
    while _points(steps, span) > points:
        span *= 2
    return Window(first, last, span, half_life or smoothing.half_life(steps))


def _points(steps: int, span: int) -> int:
    """The most points that so many steps can lie in."""
    return steps if span == 1 else (steps - 2) // span + 2


@dataclass(frozen=True)
class Before:
    """What lies before the first row: tokens and microseconds."""

    tokens: int = 0
    micros: int = 0


def curve(
    rows: Rows,
    seen: Window,
    *,
    before: Before,
    earlier: Rows,
    lost: Sequence[tuple[int, int]] = (),
    generation: int,
    steps_done: int,
) -> Curve:
    """The curve over a window.

    Args:
        rows: all steps of the window, and those before it that matter for the smooth line unless they are in `earlier`;
            over steps or buckets that fit into the span.
        seen: the window.
        before: the sums over all steps that come before `rows`.
        earlier: steps before `rows`, which matter for nothing but the smooth line.
        lost: ranges of steps, both ends included, whose rows were lost.
        generation, steps_done: see `Curve`.
    """
    points = with_gaps(together(rows, seen.span), seen.span, lost)
    mean = smoothing.smooth([*_losses(earlier), *_losses(points)], seen.half_life)[len(earlier) :]
    tokens = before.tokens + np.cumsum(points["tokens"])
    micros = before.micros + np.cumsum(points["micros"])
    at = int(np.searchsorted(points["first"], seen.begin))
    shown = points[at:]
    there = shown["count"] + shown["bad"] > 0
    with np.errstate(all="ignore"):
        loss = np.where(shown["count"] > 0, shown["loss_sum"] / shown["count"], np.nan)
        norm = np.where(shown["norm_count"] > 0, shown["norm_sum"] / shown["norm_count"], np.nan)
        speed = np.where(shown["micros"] > 0, shown["tokens"] / (shown["micros"] / 1e6), np.nan)
    smooth = np.where(there, np.array(mean[at:], "f8"), np.nan)
    return Curve(
        first=seen.first,
        last=seen.last,
        span=seen.span,
        generation=generation,
        steps_done=steps_done,
        step=shown["last"].tolist(),
        tokens=tokens[at:].tolist(),
        hours=np.round(micros[at:] / HOUR, 6).tolist(),
        loss=numbers(loss),
        loss_min=numbers(shown["loss_min"]),
        loss_max=numbers(shown["loss_max"]),
        smooth=numbers(smooth),
        bad=shown["bad"].tolist(),
        learning_rate=numbers(shown["learning_rate"]),
        grad_norm=numbers(norm),
        grad_norm_max=numbers(shown["norm_max"]),
        tokens_per_second=numbers(speed, 4),
    )


def _losses(points: Rows) -> list[tuple[Any, Any, Any]]:
    return list(zip(points["last"].tolist(), points["count"].tolist(), points["loss_sum"].tolist(), strict=True))
