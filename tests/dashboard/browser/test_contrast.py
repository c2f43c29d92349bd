"""Every colour that text has can be read on what is behind it, in both themes. No browser is needed."""

from __future__ import annotations

import re

import pytest

from nightschool.dashboard.pages import STATIC

TEXT = 4.5
"""WCAG 2 AA, for text of any size."""
THINGS = 3.0
"""The same for edges of controls, marks and lines that must be seen."""
READ = [
    *((ink, on) for ink in ("ink", "soft", "blue", "red", "lamp-ink") for on in ("paper", "sheet", "well", "lit")),
    ("ink", "blush"), ("red", "blush"), ("on-blue", "blue"), ("on-red", "red"), ("paper", "ink"),
]  # fmt: skip
SEEN = [(line, on) for line in ("edge", "blue", "red", "lamp-line", "ink") for on in ("paper", "sheet")]


def colours(sheet: str) -> dict[str, tuple[str, str]]:
    """The colours of a style sheet by name, light and dark."""
    colour = r"(#[0-9a-f]{6})(?:[0-9a-f]{2})?"
    found = re.findall(rf"--([a-z-]+): light-dark\({colour}, {colour}\);", sheet)
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def too_faint(sheet: str, theme: int) -> list[str]:
    """Pairs that cannot be told apart well enough."""
    known = colours(sheet)
    wanted = [(pair, TEXT) for pair in READ] + [(pair, THINGS) for pair in SEEN]
    return [
        f"{ink} on {behind}: {ratio:.2f}"
        for (ink, behind), least in wanted
        if (ratio := contrast(known[ink][theme], known[behind][theme])) < least
    ]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_all_text_can_be_read(theme: int) -> None:
    assert too_faint((STATIC / "page.css").read_text(), theme) == []


def test_a_colour_that_is_too_faint_is_found() -> None:
    sheet = (STATIC / "page.css").read_text()
    soft = colours(sheet)["soft"]
    assert any(found.startswith("soft on") for found in too_faint(sheet.replace(soft[0], "#8a8f9a"), 0))


def test_the_ratio_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", sorted(sheet.name for sheet in STATIC.glob("*.css")))
def test_colours_are_named_in_one_place(name: str) -> None:
    text = re.sub(r"--[a-z-]+: light-dark\([^;]*;", "", (STATIC / name).read_text())
    # What has an alpha is a shadow or a veil: no text stands in it.
    assert re.findall(r"#[0-9a-f]{6}\b|#[0-9a-f]{3}\b", text) == []
