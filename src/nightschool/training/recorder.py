"""Step rows on their way into the ledger, written by a thread so that training never waits for a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nightschool.errors import StorageError
from nightschool.ledger import NOW
from nightschool.ordering import ORDERS
from nightschool.snapshots.asking import ASKED

if TYPE_CHECKING:
    from nightschool.ledger import Ledger, StepRow

INTERVAL_SECONDS = 1.0


class Recorder:
    """Collects step rows and writes them about once a second, or at once when `flush` asks.

    `status` gives what the machine row "trainer" shall say; it is written with the rows. What others want of the
    trainer is looked at about once a second: `told` are the machine rows for it, `urgent` is whether a file that is to
    be learned at once is ready.
    """

    def __init__(self, ledger: Ledger, status: Callable[[], dict[str, Any]]) -> None:
        self.told: dict[str, Any] = {}
        self.urgent = False
        self._ledger = ledger
        self._status = status
        self._rows: list[StepRow] = []
        self._condition = threading.Condition()
        self._added = 0
        self._written = 0
        self._urgent = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    @property
    def asked(self) -> str | None:
        """The word with which somebody asked for a checkpoint last: see `snapshots.asking`."""
        return self.told.get(ASKED)

    def look(self) -> None:
        """Look at once at what others want. Raises StorageError where the ledger cannot be read."""
        self.told = self._ledger.machine.several((ASKED, ORDERS))
        head = self._ledger.files.next_to_train()
        self.urgent = head is not None and head.priority == NOW and head.state in ("ready", "skipped")

    def add(self, row: StepRow) -> None:
        """Take a row; returns at once.

        Raises:
            StorageError: an earlier row could not be written. No training that is not recorded.
        """
        with self._condition:
            self._raise()
            self._rows.append(row)
            self._added += 1

    def flush(self) -> None:
        """Return when every row added so far is durable. Raises StorageError if one could not be written."""
        with self._condition:
            target = self._added
            self._urgent = True
            self._condition.notify_all()
            while self._written < target and self._error is None:
                self._condition.wait()
            self._raise()

    def tell(self) -> None:
        """Write the trainer's status soon, also without a new row."""
        with self._condition:
            self._urgent = True
            self._condition.notify_all()

    def close(self) -> None:
        """Write what is left and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._condition:
                if not (self._urgent or self._closed):
                    self._condition.wait(INTERVAL_SECONDS)
                urgent, closing = self._urgent, self._closed
                rows, self._rows = self._rows, []
                self._urgent = False
            try:
                if rows or urgent:
                    with self._ledger.transaction():
                        if rows:
                            self._ledger.steps.record(rows)
                        self._ledger.machine.set("trainer", self._status())
                        self.look()
                elif not closing:
                    # Nothing is lost if it cannot be read just now.
                    with suppress(StorageError):
                        self.look()
            except BaseException as error:  # handed to whoever adds or flushes next
                with self._condition:
                    self._error = error
                    self._condition.notify_all()
                return
            with self._condition:
                self._written += len(rows)
                self._condition.notify_all()
                if closing and not self._rows:
                    return
