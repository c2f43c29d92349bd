"""What the tests of the four views share: one server for all of a module, a new world for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browser.rooms import World, full
from tests.dashboard.browser.rooms_support import NARROW, WIDE, Colours, Visit, app_of, serving, visiting

FORMS: tuple[tuple[tuple[int, int], Colours], ...] = (
    (WIDE, "dark"),
    (WIDE, "light"),
    (NARROW, "dark"),
    (NARROW, "light"),
)
"""How the views are looked at."""


@dataclass
class Rooms:
    """A served world. `world` may be put in place of another one at any time."""

    browser: Browser
    address: str = ""
    world: World = field(default_factory=full)
    _open: ExitStack = field(default_factory=ExitStack)
    visits: list[Visit] = field(default_factory=list)

    def go(self, path: str, size: tuple[int, int] = WIDE, colours: Colours = "dark") -> Page:
        """Open a page of it in a browser that was never here."""
        visit = self._open.enter_context(visiting(self.browser, self.address, size, colours))
        self.visits.append(visit)
        return visit.go(path)

    def begin(self) -> None:
        """A new world, and no page open."""
        self.world = full()

    def end(self) -> None:
        """Close the pages; each must have been clean."""
        self.visits.clear()
        self._open.close()
        self._open = ExitStack()


def opened(browser: Browser) -> Iterator[Rooms]:
    """For a fixture of a module."""
    expect.set_options(timeout=60_000)  # the tests' own computer may be busy; nothing here is timed
    rooms = Rooms(browser)
    with serving(app_of(lambda: rooms.world)) as address:
        rooms.address = address
        yield rooms


def said(page: Page) -> str:
    """What the page said last."""
    return page.locator("#said").inner_text()
