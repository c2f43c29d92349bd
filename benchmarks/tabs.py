"""So many open tabs, without a browser: what the page asks for when it is opened, and the stream that it listens to.

    python -m benchmarks.tabs URL N

Takes `open` and `close`, a line each, and says `opened` (when each tab has got its page, all files that this names,
what the overview asks for, and the beginning of its stream) and `closed`. Each tab is as if in a browser of its own:
nothing is kept between them. An open tab reads its stream, asks again for what is said to have changed, and looks
closer at a part of the curve every ten seconds. At a low priority: browsers are elsewhere, or are not training.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from urllib.parse import urlsplit

LOOKS = (
    "/api/curve?points=1200",
    "/api/marks",
    "/api/queue?limit=4",
    "/api/files?state=learned&limit=12",
    "/api/health",
    "/api/events",
)
AGAIN = {"curve": LOOKS[0], "queue": LOOKS[2], "files": LOOKS[3], "events": LOOKS[5]}
NAMED = re.compile(r'(?:src|href)="(/static/[^"]+)"')
CLOSER_SECONDS = 10.0
AT_ONCE = 8
"""Tabs that are being opened at the same moment: the page turns away more than so many requests at once."""


class Tab:
    """One of them."""

    def __init__(self, url: str, number: int, door: asyncio.Semaphore) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self._chance = random.Random(number)
        self._door = door
        self.opened = asyncio.Event()

    async def live(self) -> None:
        """Open, and stay open."""
        async with self._door:
            page = await self._get("/")
            for path in dict.fromkeys(NAMED.findall(page.decode())):
                await self._get(path)
            curve, *_ = [await self._get(path) for path in LOOKS]
        await asyncio.gather(self._listen(), self._look_closer(json.loads(curve)["last"]))

    async def _listen(self) -> None:
        reader, writer = await self._ask("/api/live")
        try:
            while line := await reader.readline():
                self.opened.set()
                if line.startswith(b"event: changed"):
                    told = json.loads((await reader.readline()).partition(b":")[2])
                    for what in told["what"]:
                        if what in AGAIN:
                            await self._get(AGAIN[what])
            raise ConnectionError("the stream has ended")
        finally:
            writer.close()

    async def _look_closer(self, last: int) -> None:
        while True:
            await asyncio.sleep(CLOSER_SECONDS * self._chance.uniform(0.5, 1.5))
            width = max(20, int(last * self._chance.uniform(0.01, 0.5)))
            first = self._chance.randint(0, max(0, last - width))
            await self._get(f"/api/curve?first={first}&last={first + width}&points=1200")

    async def _ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAccept-Encoding: gzip, br\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        status = await reader.readline()
        if b" 200 " not in status:
            raise ConnectionError(f"{path} was answered with {status!r}")
        while (await reader.readline()).strip():
            pass
        return reader, writer

    async def _get(self, path: str) -> bytes:
        reader, writer = await self._ask(path)
        try:
            return await reader.read()
        finally:
            writer.close()


async def _serve(url: str, number: int) -> None:
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):  # open
        door = asyncio.Semaphore(AT_ONCE)
        tabs = [Tab(url, at, door) for at in range(number)]
        tasks = [asyncio.create_task(tab.live()) for tab in tabs]
        everyone = asyncio.gather(*(tab.opened.wait() for tab in tabs))
        failed, _ = await asyncio.wait([everyone, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in failed:
            task.result()  # a tab that ended by itself is a failure
        print("opened", flush=True)
        closing = asyncio.ensure_future(loop.run_in_executor(None, sys.stdin.readline))
        done, _ = await asyncio.wait([closing, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done - {closing}:
            task.result()
        print("closed", flush=True)


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
