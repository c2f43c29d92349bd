"""A stream of the page that is watched, and whose seconds pass when a test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from nightschool.dashboard import live
from nightschool.dashboard.live import Live
from nightschool.dashboard.reader import Reader
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

Told = tuple[str, Any]


class Watched:
    """A `Live` whose seconds pass when the test says so, and what was told."""

    def __init__(self, layout: Layout) -> None:
        self.reader = Reader(layout)
        self.waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self.live = Live(layout, self.reader, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        assert seconds == live.pace(self.live.watching)
        passed = asyncio.Event()
        self.waiting.put_nowait(passed)
        await passed.wait()

    async def second(self) -> None:
        """Let a second pass, and the look after it be done."""
        (await self.waiting.get()).set()
        nothing = await self.waiting.get()
        self.waiting.put_nowait(nothing)

    async def passed(self) -> None:
        """Let a second pass after which nobody looks."""
        (await self.waiting.get()).set()
        await asyncio.sleep(0)

    async def looked(self) -> None:
        self.waiting.put_nowait(await self.waiting.get())


def parse(said: bytes) -> list[tuple[str, str, Any]]:
    """Id ("" where there is none), type and data of each message."""
    found = []
    for part in said.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in part.splitlines())
        if "event" in lines:
            found.append((lines.get("id", ""), lines["event"], json.loads(lines["data"])))
    return found


async def more(stream: AsyncIterator[bytes]) -> list[tuple[str, str, Any]]:
    """What is told next."""
    return parse(await asyncio.wait_for(anext(stream), 60))


async def begun(stream: AsyncIterator[bytes]) -> list[tuple[str, str, Any]]:
    """What a stream tells first."""
    assert await anext(stream) == live.RETRY
    return await more(stream)


def watching(layout: Layout, scene: Callable[[Watched], Awaitable[None]]) -> None:
    """Play a scene in a loop of its own."""

    async def play() -> None:
        watched = Watched(layout)
        try:
            await asyncio.wait_for(scene(watched), 60)
        finally:
            watched.live.close()
            watched.reader.close()

    asyncio.run(play())


def newest(layout: Layout) -> int:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.events.newest()


def kinds(told: list[tuple[str, str, Any]]) -> list[str]:
    return [kind for _, kind, _ in told]
