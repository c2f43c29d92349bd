"""The loss across all files, drawn in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

SMOOTHING = 0.9


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Exponential moving average with the bias of its beginning taken out."""
    result: list[float] = []
    mean = 0.0
    for number, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append(mean / (1 - weight**number))
    return result


def loss_curve(
    losses: Sequence[float], boundaries: Sequence[int], killed_at: int | None, width: int, height: int, colour: bool
) -> str:
    """A plot of the loss of each step, from step 1 on.

    Args:
        losses: mean loss of steps 1, 2, ….
        boundaries: steps after which a new file begins.
        killed_at: the step in progress when the machine was killed.
        width, height: in characters.
        colour: whether to use terminal colours.
    """
    import plotext

    plotext.clear_figure()
    plotext.theme("clear" if not colour else "pro")
    plotext.plotsize(width, height)
    steps, curve = list(range(1, len(losses) + 1)), smoothed(losses)
    # Room above the curve, so that the legend hides nothing of it.
    plotext.ylim(min(curve), max(curve) + 0.2 * (max(curve) - min(curve)))
    plotext.plot(steps, curve, marker="braille", label="loss, smoothed", color="blue+")
    for boundary in boundaries:
        plotext.vline(boundary + 0.5, color="gray")
    if killed_at is not None:
        plotext.scatter([killed_at], [curve[min(killed_at, len(curve)) - 1]], marker="X", label="kill -9", color="red+")
    plotext.xlabel("step")
    plotext.ylabel("loss, nats per token")
    plotext.xlim(1, len(losses))
    marks = sorted({1, len(losses), *boundaries})
    plotext.xticks(marks, [str(mark) for mark in marks])
    text = plotext.build()
    return text if colour else plotext.uncolorize(text)
