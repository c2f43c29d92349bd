"""The four views in a browser, over the machine that was never run."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, Route
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.app import guarded
from tests.dashboard.browser.rooms import World
from tests.dashboard.browser.rooms_answers import answers, live, now

WIDE, NARROW = (1280, 800), (360, 740)
Colours = Literal["light", "dark"]


class _First:
    """Reads what a page's first look needs."""

    def __init__(self, get: Callable[[], World]) -> None:
        self._get = get

    async def read(self, look: object) -> dict[str, Any]:
        return {"now": now(self._get())}


def app_of(get: Callable[[], World], root: str = "/home/ada/my-model") -> ASGIApp:
    """The page over a world: all of the real one, but for what the endpoints and the stream tell."""
    services: Any = SimpleNamespace(layout=SimpleNamespace(root=root), live=None, reader=_First(get))
    page = guarded(services, answers(get), Rules(), None)

    async def stream(request: Request) -> StreamingResponse:
        async def until_gone() -> AsyncIterator[bytes]:
            async for part in live(get):
                if await request.is_disconnected():
                    return
                yield part

        return StreamingResponse(until_gone(), media_type="text/event-stream")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/api/live":
            await (await stream(Request(scope, receive)))(scope, receive, send)
        else:
            await page(scope, receive, send)

    return app


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address at which the application answers."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    // What the frame does above the view is the frame's to test.
    const main = document.getElementById("main");
    if (entry.hadRecentInput || !entry.sources.some((one) => one.node !== main && main?.contains(one.node))) continue;
    window.shifted += entry.value;
  }
}).observe({type: "layout-shift", buffered: true});
"""


class Visit:
    """A page that is looked at, and all that it should not have done."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.address = address
        self.page: Page = context.new_page()
        self.page.add_init_script(SHIFTS)
        self.errors: list[str] = []
        self.forgiven: list[str] = []
        self.strangers: list[str] = []
        self.may_move = False  # where the test asks for something that pushes what is below it down
        self.page.on(
            "console", lambda told: self.errors.append(told.text) if told.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        context.route(lambda url: not url.startswith((address, "data:", "blob:")), self._stranger)

    def _stranger(self, route: Route) -> None:
        self.strangers.append(route.request.url)
        route.abort()

    def go(self, path: str) -> Page:
        """Open a page of it."""
        self.page.goto(self.address + path)
        return self.page

    def forgive(self, word: str) -> None:
        """Of an answer that the test asked for, the console may say that it was none; it may say so a moment later."""
        self.forgiven.append(word)

    def _forgiven(self, error: str) -> bool:
        return "Failed to load resource" in error and any(word in error for word in self.forgiven)

    def require_clean(self) -> None:
        """No error, nothing asked of another machine, no markup obeyed, nothing moved, nothing too wide."""
        assert [error for error in self.errors if not self._forgiven(error)] == []
        assert self.strangers == []
        assert self.page.evaluate("window.stolen") is None
        assert self.may_move or self.page.evaluate("window.shifted") < 0.01
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@contextmanager
def visiting(
    browser: Browser, address: str, size: tuple[int, int] = WIDE, colours: Colours = "dark"
) -> Iterator[Visit]:
    """A visit with a profile of its own; it must have been clean, unless the test failed before."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=colours, locale="en-US", timezone_id="UTC"
    )
    context.set_default_timeout(60_000)
    try:
        visit = Visit(context, address)
        yield visit
        visit.require_clean()
    finally:
        context.close()


def again(page: Page) -> None:
    """Press “Try again”, unless the page has asked again by itself meanwhile, as the stream opened."""
    page.evaluate("""() => {
      const all = [...document.querySelectorAll("main button")];
      all.find((one) => one.textContent === "Try again")?.click();
    }""")
