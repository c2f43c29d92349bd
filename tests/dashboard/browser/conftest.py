"""A browser for the tests of the page. Each of them must leave no error behind, and have asked nobody else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from tests.dashboard.browser import madeup, rooms_fixtures
from tests.dashboard.browser.rooms_fixtures import Rooms
from tests.dashboard.browser.served import Site

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
DESK, PHONE = (1280, 800), (360, 740)
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


class Open(Protocol):
    """Opens a page of a site in a browser of its own size and colours."""

    def __call__(
        self, url: str, *, phone: bool = False, dark: bool = False, beside: Page | None = None, troubled: bool = False
    ) -> Page: ...


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser; the tests are skipped where there is none, and that is said loudly."""
    found = os.environ.get("NIGHTSCHOOL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        text = (
            "NO CHROMIUM: THE PAGE IS NOT TESTED IN A BROWSER. `make test` installs it; NIGHTSCHOOL_CHROMIUM names one."
        )
        warnings.warn(text, stacklevel=1)
        pytest.skip(text)
    # Not for the whole session: as long as it runs, nobody else in this thread can run an event loop.
    with sync_playwright() as playwright:
        # Long, since a busy computer draws slowly; whoever waits in vain has failed anyway.
        expect.set_options(timeout=60_000)
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Browser, serve: Callable[[madeup.Run], Site]) -> Iterator[Open]:
    """Opens pages. At the end none of them may have had an error or asked another computer, unless it is `troubled`.

    They are closed before what serves them is.
    """
    errors: list[str] = []
    elsewhere: list[str] = []
    contexts = []

    def watch(page: Page, troubled: bool) -> None:
        def asked(request: Request) -> None:
            if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                elsewhere.append(request.url)

        def said(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not troubled:
                errors.append(message.text)

        def answered(response: Response) -> None:
            if response.status >= 400 and not troubled:
                errors.append(f"{response.status} {response.url}")

        page.on("request", asked)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", said)
        page.on("response", answered)

    def open(
        url: str, *, phone: bool = False, dark: bool = False, beside: Page | None = None, troubled: bool = False
    ) -> Page:
        if beside is not None:
            page = beside.context.new_page()
        else:
            width, height = PHONE if phone else DESK
            context = chromium.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                device_scale_factor=2 if phone else 1,
                has_touch=phone,
                is_mobile=phone,
                timezone_id="Europe/Berlin",
                locale="en-GB",
            )
            context.set_default_timeout(60_000)
            contexts.append(context)
            page = context.new_page()
        page.add_init_script(SHIFTS)
        watch(page, troubled)
        page.goto(url)
        return page

    yield open
    for context in contexts:
        context.close()
    assert not errors
    assert not elsewhere


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where pictures of the page go: NIGHTSCHOOL_SHOTS, to look at them."""
    folder = Path(os.environ.get("NIGHTSCHOOL_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def weeks() -> madeup.Run:
    """Six weeks of a run; not to be changed."""
    return madeup.whole()


@pytest.fixture
def serve() -> Iterator[Callable[[madeup.Run], Site]]:
    """Serves the page over runs until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda run: stack.enter_context(Site(run).served())


@pytest.fixture
def site(weeks: madeup.Run, serve: Callable[[madeup.Run], Site]) -> Site:
    """The page over six weeks of a run."""
    return serve(weeks.copy())


def hold(holds: Callable[[], bool], page: Page | None = None) -> None:
    """Wait until it holds, while the page goes on."""
    for _ in range(1200):
        if holds():
            return
        if page is None:
            time.sleep(0.05)
        else:
            page.wait_for_timeout(50)
    raise AssertionError("it never came to hold")


@pytest.fixture(scope="module")
def server(chromium: Browser) -> Iterator[Rooms]:
    """The four other views over a made-up machine, served for all of a module."""
    yield from rooms_fixtures.opened(chromium)


@pytest.fixture
def rooms(server: Rooms, shots: Path, request: pytest.FixtureRequest) -> Iterator[Rooms]:
    """The same with a new world, and no page open. What is looked at in all forms leaves its pictures."""
    server.begin()
    yield server
    if "colours" in request.fixturenames:
        for visit in server.visits:
            name = "-".join(re.findall(r"\w+", request.node.name))
            visit.page.screenshot(path=shots / f"{name}.png", full_page=True)
    server.end()
