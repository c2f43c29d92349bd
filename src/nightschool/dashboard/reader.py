"""The page's one connection to the ledger, used by one thread: however many tabs are open, reads take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nightschool.dashboard.history import History
from nightschool.dashboard.marks import Marked
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

T = TypeVar("T")


class Memory:
    """What was read of the ledger that is open, so that it need not be read again."""

    def __init__(self) -> None:
        self.history = History()
        self.marked = Marked()


class Reader:
    """Reads the ledger in a thread of its own. Every read fetches what it needs in short pages and lets go.

    The connection is opened anew where the file is another one than before: a restored or rebuilt ledger.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._ledger: Ledger | None = None
        self._file: tuple[int, int] | None = None
        self.memory = Memory()
        """For what `read` calls, in its thread; another one where the ledger was opened anew."""

    async def read(self, look: Callable[[Ledger], T]) -> T:
        """What `look` returns. Raises NightschoolError where the ledger cannot be read."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._look, look)

    def close(self) -> None:
        """Let go of the ledger."""
        self._thread.submit(self._forget).result()
        self._thread.shutdown()

    def _look(self, look: Callable[[Ledger], T]) -> T:
        ledger = self._open()
        try:
            return look(ledger)
        except NightschoolError:
            self._forget()
            raise

    def _open(self) -> Ledger:
        try:
            status = self._layout.ledger.stat()
            file = (status.st_dev, status.st_ino)
        except OSError:
            file = None
        if self._ledger is None or file != self._file:
            self._forget()
            self._ledger = Ledger.open(self._layout.ledger)
            self._file = file
        return self._ledger

    def _forget(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()
        # Another file may count its revisions and events to the same numbers.
        self.memory = Memory()
