"""The page over a made-up run, behind its real guard and on its real routes, served to a browser by a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.app import guarded
from nightschool.dashboard.beats import Message, Place
from nightschool.dashboard.live import encode
from tests.dashboard.browser import madeup


class Site:
    """A served page. `say` tells all streams something, as the machine's own page does."""

    def __init__(self, run: madeup.Run) -> None:
        self.run = run
        self.url = ""
        self.streams = 0
        """How many there are; counted by those that answer."""
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = 0

    def say(self, kind: str, data: Any) -> None:
        """Tell all who watch."""
        self._told += 1
        self._send(encode([Message(kind, data)], Place(2, self._told, self.run.done)))

    def say_now(self) -> None:
        """Tell all who watch what is true now."""
        self.say("now", madeup.now(self.run))

    def train(self, steps: int) -> None:
        """Train so many more steps, and tell them."""
        before = self.run.done
        self.run.grow(before + steps)
        self.say("steps", madeup.curve(self.run, before + 1, self.run.done, points=5000))
        self.say_now()

    @property
    def watched(self) -> int:
        """How many streams there are."""
        return len(self._streams)

    async def read(self, look: object) -> dict[str, Any]:
        """In the place of the ledger's reader: what a page is given on its way."""
        return {"now": madeup.now(self.run)}

    async def stream(self, after: Place | None, *, away: bool = False) -> AsyncIterator[bytes]:
        """In the place of the machine's stream."""
        mine: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.add(mine)
        try:
            yield b"retry: 300\n\n" + encode(
                [Message("now", madeup.now(self.run))], Place(2, self._told, self.run.done)
            )
            while (text := await mine.get()) is not None:
                yield text
        finally:
            self._streams.discard(mine)

    @contextlib.contextmanager
    def served(self, port: int = 0) -> Iterator[Site]:
        """Serve it, at any free port unless one is given."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        layout = SimpleNamespace(root=Path("/home/ada/my-model"))
        services: Any = SimpleNamespace(layout=layout, reader=self, live=self)
        app = guarded(services, madeup.endpoints(lambda: self.run), Rules("127.0.0.1"), None)
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        started = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            running = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started and not running.done():
                await asyncio.sleep(0.01)
            started.set()
            await running

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert started.wait(20)
        try:
            yield self
        finally:
            server.should_exit = True
            self._send(None)
            thread.join(10)
            listening.close()

    def _send(self, text: bytes | None) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(lambda: [stream.put_nowait(text) for stream in self._streams])
