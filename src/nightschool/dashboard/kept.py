"""What takes a while to find out: made in a thread, once for all who ask, and kept for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Kept(Generic[T]):
    """One value, made again when it is older than some seconds.

    Args:
        seconds: how long it counts.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._made: tuple[float, object, T] | None = None
        self._making: tuple[object, asyncio.Task[T]] | None = None

    async def get(self, make: Callable[[], T], *, key: object = None, patience: float | None = None) -> T:
        """The value; `make` runs in a thread where there is none that is new enough and was made for this key.

        A disk that does not answer holds up one thread, however many ask. Raises what `make` raises, which is not kept,
        and TimeoutError after `patience` seconds; `make` goes on then, for whoever asks next.
        """
        if self._made is not None and self._made[1] == key and self._clock() - self._made[0] < self._seconds:
            return self._made[2]
        making = self._going_on(key)
        if making is None:
            making = asyncio.create_task(self._make(make, key))
            # Where everybody has gone meanwhile, nobody else would take note of its failure.
            making.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._making = (key, making)
        return await asyncio.wait_for(asyncio.shield(making), patience)

    def _going_on(self, key: object) -> asyncio.Task[T] | None:
        if self._making is None:
            return None
        known, making = self._making
        here = making.get_loop() is asyncio.get_running_loop()
        return making if known == key and here and not making.done() else None

    async def _make(self, make: Callable[[], T], key: object) -> T:
        found = await asyncio.to_thread(make)
        self._made = (self._clock(), key, found)
        return found


_kept: WeakKeyDictionary[Any, dict[str, Kept[Any]]] = WeakKeyDictionary()


def kept(owner: object, name: str, seconds: float) -> Kept[Any]:
    """The kept value of that name that belongs to `owner`, and goes with it."""
    return _kept.setdefault(owner, {}).setdefault(name, Kept(seconds))
