"""Threads that do what the page is asked for: one thing after another, so that the event loop never waits.

They are daemons: what they do may be cut short at any time, as by a power cut, so the page's end waits for none.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from nightschool.dashboard.endpoints import TooMuch

T = TypeVar("T")
MOST_WAITING = 20


class Hands:
    """One thread, begun when there is something to do first.

    Args:
        name: of the thread.
        most: things that may be under way or wait; more are refused. None: no limit.
    """

    def __init__(self, name: str, most: int | None = MOST_WAITING) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._thread: threading.Thread | None = None

    async def do(self, act: Callable[[], T]) -> T:
        """What `act` returns, or raises, once it was its turn. One that is given up before its turn is not done."""
        return await asyncio.wrap_future(self.submit(act))

    def submit(self, act: Callable[[], T]) -> Future[T]:
        """Have it done.

        Raises:
            TooMuch: so much waits that a person would not want to add to it.
        """
        done: Future[T] = Future()
        with self._lock:
            if self._most is not None and self._unfinished >= self._most:
                raise TooMuch(f"{self._unfinished} things wait to be done already. Try again in a moment.", 429)
            self._unfinished += 1
            done.add_done_callback(self._over)  # also of one that is given up: it waits no more
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        self._waiting.put((done, act))
        return done

    def close(self) -> None:
        """Take no more than was given already; returns at once."""
        self._waiting.put(None)

    def _work(self) -> None:
        while (one := self._waiting.get()) is not None:
            done, act = one
            if done.set_running_or_notify_cancel():
                _carry_out(done, act)
            del one, done, act  # an exception's frames would be kept until the next act

    def _over(self, _: Future[Any]) -> None:
        with self._lock:
            self._unfinished -= 1


def _carry_out(done: Future[T], act: Callable[[], T]) -> None:
    try:
        result = act()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(result)
