"""The chart as a test sees it: plotly's own figure, and what is done to it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

CHART = "const chart = document.getElementById('chart'), named = (name) => chart.data.find((one) => one.name === name);"


def until(page: Page, holds: str, given: object = None) -> None:
    """Wait until that holds of the `chart`, its traces by name (`named`), and what is `given`."""
    page.wait_for_function(f"(given) => {{ {CHART} return chart.data && {holds}; }}", arg=given)


def drawn(page: Page) -> Page:
    """The page, once all of its chart is drawn."""
    until(page, "performance.getEntriesByName('chart').length && chart.layout.yaxis6")
    return page


def window(page: Page) -> tuple[float, float]:
    """The ends of what is seen of the chart."""
    first, last = page.evaluate("() => document.getElementById('chart').layout.xaxis.range")
    return first, last


def trace(page: Page, name: str) -> Any:
    """A trace of the chart, by name; None where it is not drawn."""
    return page.evaluate(f"(given) => {{ {CHART} return named(given) ?? null; }}", name)


def drag(page: Page, begin: float, end: float) -> None:
    """Drag over the curve, from one part of its width to another."""
    box = page.locator("#chart").bounding_box()
    assert box is not None
    y = box["y"] + 130
    page.mouse.move(box["x"] + box["width"] * begin, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, y, steps=6)
    page.mouse.up()
