"""What nobody may ask too much of: connections, requests at once, and patience with clients that are slow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from nightschool.dashboard.answers import trouble

LIVE = "/api/live"


@dataclass(frozen=True)
class Limits:
    """The limits of a page.

    Attributes:
        connections: open at once; further ones are closed at once.
        requests: answered at once, live streams not counted; further ones wait for `wait_seconds`, at most.
        streams: live streams at once.
        head_bytes: of a request's first line and headers, read before they are complete.
        head_seconds: a request's head must be there so long after the connection, or the answer before.
        body_seconds, body_bytes: in so many seconds a body must bring so many bytes; the second time that it does not,
            in a row, it is not waited for.
        send_seconds: a client must take in so long what it was sent, but for what fits into buffers of about 64 kB.
        rest_seconds: a connection without a request is kept for so long.
    """

    connections: int = 200
    requests: int = 64
    streams: int = 100
    head_bytes: int = 32_768
    head_seconds: float = 10.0
    body_seconds: float = 5.0
    body_bytes: int = 10_000
    send_seconds: float = 20.0
    rest_seconds: int = 5
    wait_seconds: float = 10.0


class Connection(H11Protocol):
    """A connection that is let go where the other side keeps it waiting. uvicorn itself waits for ever.

    Every limit is a timer of the loop, so that a thousand slow clients cost a thousand timers and no thread.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, unless there are too many."""
        self._head: asyncio.TimerHandle | None = None
        self._body: asyncio.TimerHandle | None = None
        self._send: asyncio.TimerHandle | None = None
        self._received = self._looked = 0
        self._slow = False
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._head = self.loop.call_later(self.limits.head_seconds, self._let_go)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        for timer in (self._head, self._body, self._send):
            if timer is not None:
                timer.cancel()
        self._head = self._body = self._send = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what came."""
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """Look at what came, and whether a request began with it."""
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            return  # the timer for the head goes on: bytes of it that trickle in must not put it off
        self._stop("_head")
        if self.cycle.more_body and self._body is None and not self.transport.is_closing():
            self._looked, self._slow = self._received, False
            self._body = self.loop.call_later(self.limits.body_seconds, self._look_at_body)

    def on_response_complete(self) -> None:
        """An answer is made; what is not taken of it in a while, or a body that nobody reads, is not waited for."""
        self._stop("_body")
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.limits.send_seconds, self._let_go)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The other side does not take what it is sent."""
        super().pause_writing()
        if self._send is None:
            self._send = self.loop.call_later(self.limits.send_seconds, self._let_go)

    def resume_writing(self) -> None:
        """It does again."""
        self._stop("_send")
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked for."""
        if self.transport.get_write_buffer_size() == 0:
            super().timeout_keep_alive_handler()

    def _look_at_body(self) -> None:
        self._body = None
        if self.cycle is None or self.cycle.response_complete or not self.cycle.more_body:
            return
        # Where reading rests, it is the page that does not keep up; or did, until a moment ago: hence twice.
        slow = not self.flow.read_paused and self._received - self._looked < self.limits.body_bytes
        if slow and self._slow:
            self._let_go()
            return
        self._looked, self._slow = self._received, slow
        self._body = self.loop.call_later(self.limits.body_seconds, self._look_at_body)

    def _let_go(self) -> None:
        self.transport.abort()

    def _stop(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


def connection(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol with these limits, as uvicorn takes it: a class."""

    class Limited(Connection):
        pass

    Limited.limits = limits
    return Limited


class AtOnce:
    """Answers so many requests at once; further ones wait their turn, and are refused where that takes long.

    Waiting costs little, and there are no more of them than connections: when fifty tabs come back at once, a script
    that was refused would not be asked for again. A live stream is counted where it is made.

    Args:
        app: what answers.
        most: requests at once.
        seconds: that one waits, at most.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app = app
        self._room = asyncio.Semaphore(most)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] == LIVE:
            return await self._app(scope, receive, send)
        try:
            async with asyncio.timeout(self._seconds):
                await self._room.acquire()
        except TimeoutError:
            text = "The page answers as many requests as it can. Try again in a second."
            return await trouble(503, text, "too much", {"Retry-After": "1"})(scope, receive, send)
        try:
            return await self._app(scope, receive, send)
        finally:
            self._room.release()
