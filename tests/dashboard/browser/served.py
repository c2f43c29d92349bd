"""The page over a made-up run, served to a browser by a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import uvicorn
from madeup import Run, endpoints, now
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from nightschool.dashboard import app, pages
from nightschool.workspace import Layout


class Site:
    """A served page; `say` sends to all streams, as /api/live does."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.streams: set[asyncio.Queue[bytes | None]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.url = ""

    def say(self, kind: str, data: Any) -> None:
        """Send an event."""
        assert self.loop is not None
        text = f"event: {kind}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode()
        self.loop.call_soon_threadsafe(lambda: [stream.put_nowait(text) for stream in self.streams])

    async def live(self, request: Request) -> StreamingResponse:
        """The stream: first what is true now, then what is said."""
        self.loop = asyncio.get_running_loop()
        mine: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def told() -> AsyncIterator[bytes]:
            self.streams.add(mine)
            try:
                yield b"retry: 500\nevent: now\ndata: " + msgspec.json.encode(now(self.run)) + b"\n\n"
                while (text := await mine.get()) is not None:
                    yield text
            finally:
                self.streams.discard(mine)

        return StreamingResponse(told(), media_type="text/event-stream")

    def hang_up(self) -> None:
        """End all streams, as a server that goes does."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(lambda: [stream.put_nowait(None) for stream in self.streams])
