"""What happens, told as it happens: one look a second for all who watch, encoded once; none while nobody does."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nightschool.dashboard import answers, beats
from nightschool.dashboard.answers import trouble
from nightschool.dashboard.beats import Beat, Message, Place
from nightschool.dashboard.limits import LIVE
from nightschool.dashboard.reader import Reader
from nightschool.dashboard.shapes import Trouble
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

LOOK_SECONDS = 1.0
SWIFT = 20
"""Streams that are told once a second; twice as many are told every two seconds, so that the cost stays the same."""
QUIET_SECONDS = 10.0
"""`now` is told at least so often, so that who watches sees that it is watched."""
COMMENT_SECONDS = 15
KEPT = 64
"""Looks that are kept for a stream that is slow; one that is further behind is told to ask again."""
RETRY = b"retry: 2000\n\n"

log = logging.getLogger("nightschool.page")


class Live:
    """Looks once a second while anyone watches, and keeps what it told for a minute.

    A stream holds a number, nothing else: one that is not read costs a full buffer of its connection, and no lock.

    Args:
        layout: the workspace.
        reader: reads the ledger.
        pause: waits between two looks.
        jobs: what takes a while and has not ended, for those who come when it was begun already.
    """

    def __init__(
        self,
        layout: Layout,
        reader: Reader,
        *,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jobs: Callable[[], Sequence[msgspec.Struct]] = tuple,
    ) -> None:
        self._layout = layout
        self._reader = reader
        self._pause = pause
        self._jobs = jobs
        self._kept: deque[bytes] = deque(maxlen=KEPT)
        self._told = 0
        """How many were ever told; the last of `_kept` has this number."""
        self._news = asyncio.Event()
        self._beat: Beat | None = None
        self._quiet = 0.0
        self._trouble: Trouble | None = None
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._catching_up: dict[tuple[Place, bool], asyncio.Future[bytes]] = {}
        self._closed = False
        self.streams = 0
        """Answers under way; `watching` are those of them that have begun to tell."""
        self.watching = 0
        self.looks = 0

    def tell(self, kind: str, data: msgspec.Struct) -> None:
        """Tell everyone who watches at once. From any thread; who does not watch is not told."""
        loop = self._loop
        if loop is not None and self.watching and not self._closed:
            with suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(self._add, encode([Message(kind, data)], None))

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._news.set()
        if self._looking is not None:
            self._looking.cancel()

    async def stream(self, after: Place | None, *, away: bool = False) -> AsyncGenerator[bytes, None]:
        """The messages, encoded, for someone who was told all up to `after`; None: who begins now.

        Args:
            after: the place that was told last.
            away: the stream was broken meanwhile, and not begun with a page that had just been made.
        """
        self.watching += 1
        self._loop = asyncio.get_running_loop()
        try:
            yield RETRY
            at = self._told
            if self._trouble is not None:
                # It was told before, and is not told again while it lasts.
                yield encode([Message("trouble", self._trouble)], None)
            if self._looking is None and not self._closed:
                self._looking = asyncio.create_task(self._look_on())
            while self._beat is None and not self._closed:
                at, said = self._since(at)
                if said:
                    yield said
                else:
                    await self._news.wait()
            if self._beat is not None:
                # Both at one moment: what is told from here on follows upon this beat.
                at, beat = self._told, self._beat
                jobs = encode([Message("job", job) for job in self._jobs()], None)
                try:
                    said = await self._caught_up(after, beat, away)
                except NightschoolError as error:
                    # No place is told, and the stream ends: who comes back asks for what was missed once more.
                    yield encode([Message("trouble", Trouble(error=str(error), kind=type(error).__name__))], None)
                    return
                yield said + jobs
            while not self._closed:
                at, said = self._since(at)
                if said:
                    yield said
                else:
                    await self._news.wait()
        finally:
            self.watching -= 1

    def _since(self, at: int) -> tuple[int, bytes]:
        """All that was told after number `at`, and the new number."""
        behind = self._told - at
        if behind <= len(self._kept):
            return self._told, b"".join(self._kept[-number] for number in range(behind, 0, -1))
        messages = [Message("changed", beats.Changed(what=list(beats.ALL)))]
        if self._beat is None:
            return self._told, encode(messages, None)
        return self._told, encode([*messages, Message("now", self._beat.now)], self._beat.place)

    async def _look_on(self) -> None:
        while self.watching and not self._closed:
            await self._look()
            await self._pause(pace(self.watching))
        # Whoever comes next begins with a look of their own, and is told of a trouble that lasts.
        self._looking = self._beat = self._trouble = None

    async def _look(self) -> None:
        before = self._beat

        def reading(ledger: Ledger) -> tuple[Beat, list[Message]]:
            beat = beats.look(self._layout, ledger)
            return beat, [] if before is None else beats.told(ledger, self._reader.memory.history, before, beat)

        self.looks += 1
        try:
            beat, messages = await self._reader.read(reading)
            said = encode(messages, beat.place)
        except NightschoolError as error:
            self._in_trouble(str(error), type(error).__name__)
            return
        except Exception as error:
            # The streams must not stand still for ever, in silence, because of a mistake in here.
            if self._in_trouble("The page cannot tell what the machine does; training_output.log says more.", "failed"):
                log.warning("The page failed to look at the machine.", exc_info=error)
            return
        self._beat = beat
        self._catching_up.clear()
        self._quiet += pace(self.watching)
        if before is None:
            # Nothing to tell: who watches is told from where they were.
            self._wake()
        elif len(messages) > 1 or self._trouble or self._quiet >= QUIET_SECONDS or _differs(before, beat):
            self._add(said)
            self._quiet = 0.0
        self._trouble = None

    def _in_trouble(self, text: str, kind: str) -> bool:
        """Tell it, once: it may go on for hours. Returns whether it is new."""
        if self._trouble is not None and text == self._trouble.error:
            return False
        self._trouble = Trouble(error=text, kind=kind)
        self._add(encode([Message("trouble", self._trouble)], None))
        return True

    async def _caught_up(self, after: Place | None, beat: Beat, away: bool) -> bytes:
        if after is None or (after == beat.place and not away):
            return encode([Message("now", beat.now)], beat.place)
        # After a restart of the page all tabs come back at once, from the same place.
        found = self._catching_up.get((after, away))
        if found is None:
            found = asyncio.ensure_future(self._catch_up(after, beat, away))
            self._catching_up[after, away] = found
        return await asyncio.shield(found)

    async def _catch_up(self, after: Place, beat: Beat, away: bool) -> bytes:
        def reading(ledger: Ledger) -> list[Message]:
            return beats.missed(ledger, self._reader.memory.history, after, beat, away=away)

        return encode(await self._reader.read(reading), beat.place)

    def _add(self, said: bytes) -> None:
        self._kept.append(said)
        self._told += 1
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def pace(watching: int) -> float:
    """Seconds between two looks while so many streams are open."""
    return LOOK_SECONDS * max(1, math.ceil(watching / SWIFT))


def encode(messages: Sequence[Message], place: Place | None) -> bytes:
    """Messages as the stream has them. Only the last has the id: who loses the stream among them gets all again."""
    parts = []
    for number, message in enumerate(messages, 1):
        id = f"id: {place}\n" if place is not None and number == len(messages) else ""
        # JSON as it is encoded here is one line.
        parts.append(f"{id}event: {message.kind}\ndata: ".encode() + answers.encode(message.data) + b"\n\n")
    return b"".join(parts)


def route(live: Live, most: int) -> Route:
    """GET /api/live, for so many at once."""

    async def answer(request: Request) -> Response:
        if live.streams >= most:
            text = "As many tabs as can watch do so already. Close one of them."
            return trouble(503, text, "too much", {"Retry-After": "10"})
        again = request.headers.get("last-event-id")
        after = Place.read(again if again is not None else request.query_params.get("after", ""))
        # A place that says nothing is as good as none, and whoever came back with it has missed nobody knows what.
        if after is None and again is not None:
            after = Place(-1, 0, 0)
        return _Streaming(live, after, away=again is not None)

    return Route(LIVE, answer, methods=["GET"])


class _Streaming(EventSourceResponse):
    """A stream, counted from before its first byte until whatever ends it."""

    def __init__(self, live: Live, after: Place | None, *, away: bool) -> None:
        super().__init__(live.stream(after, away=away), ping=COMMENT_SECONDS, sep="\n")
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._live.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.streams -= 1


def _differs(before: Beat, beat: Beat) -> bool:
    return msgspec.structs.replace(before.now, at="") != msgspec.structs.replace(beat.now, at="")
