"""The smooth line through the losses. Pure arithmetic.

An exponential mean, weighted by steps, that is divided by the weight it has so far: it begins at the first loss, not at
0. What it is at a step follows from the half-life and from what came before, not from how steps are put together in
points, beyond what a point hides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

PARTS = 50
"""Half-lives in what is seen at once, about."""
WARM = 30
"""So many half-lives back, a loss weighs a billionth: what lies before is not read."""
_MOST = 1e290
"""Nonsense beyond it is taken for it, so that sums stay finite."""


def half_life(steps: int) -> int:
    """The half-life, in steps, for a view over so many: a power of two near a fiftieth.

    So it stays what it is while training adds steps, and in small changes of the zoom.
    """
    return 1 << max(0, round(math.log2(max(steps, 1) / PARTS)))


def smooth(points: Iterable[tuple[int, int, float]], half_life: int) -> list[float | None]:
    """The mean at each point; None before the first finite loss.

    Args:
        points: last step, number of finite losses, and their sum, in the order of steps.
        half_life: in steps; missing ones count.
    """
    keep = 2.0 ** (-1 / half_life)
    total = weight = 0.0
    before: int | None = None
    found: list[float | None] = []
    for last, count, loss_sum in points:
        if before is not None:
            fade = keep ** (last - before)
            total, weight = total * fade, weight * fade
        before = last
        if count:
            # As if each of the point's steps had its mean.
            share = (1 - keep**count) / (1 - keep)
            total += min(max(loss_sum / count, -_MOST), _MOST) * share
            weight += share
        found.append(total / weight if weight else None)
    return found
