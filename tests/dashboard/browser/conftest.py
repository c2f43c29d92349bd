"""A browser for the tests of the page, and what each of them must leave behind: no error, and nothing asked elsewhere."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.dashboard.browser import madeup
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
        text = "NO CHROMIUM: THE PAGE IS NOT TESTED IN A BROWSER. Install it (`make test` tries), or set NIGHTSCHOOL_CHROMIUM."
        warnings.warn(text, stacklevel=1)
        pytest.skip(text)
    # Not for the whole session: as long as it runs, nobody else in this thread can run an event loop.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Open]:
    """Opens pages. At the end none of them may have had an error or asked another computer, unless it is `troubled`."""
    errors: list[str] = []
    elsewhere: list[str] = []
    contexts = []

    def watch(page: Page, troubled: bool) -> None:
        def asked(url: str) -> None:
            if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                elsewhere.append(url)

        page.on("request", lambda request: asked(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        if not troubled:
            page.on("console", lambda said: said.type in ("error", "warning") and errors.append(said.text))
            page.on("response", lambda answer: answer.status >= 400 and errors.append(f"{answer.status} {answer.url}"))

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
def serve(tmp_path: Path) -> Iterator[Callable[[madeup.Run], Site]]:
    """Serves the page over runs until the test ends."""
    import contextlib

    with contextlib.ExitStack() as stack:
        yield lambda run: stack.enter_context(Site(run).served())


@pytest.fixture
def site(weeks: madeup.Run, serve: Callable[[madeup.Run], Site]) -> Site:
    """The page over six weeks of a run."""
    return serve(weeks.copy())
