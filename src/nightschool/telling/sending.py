"""A thread for each target: it sends what is offered, in order, and tries again for as long as it is wanted.

Whoever offers never waits. A server that hangs holds up nothing but its own target.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from nightschool.telling.message import Message
from nightschool.telling.targets import SendError, Target
from nightschool.words import duration

FIRST_DELAY = 10.0
LONGEST_DELAY = 3600.0

log = logging.getLogger("nightschool.telling")


class Sender:
    """Sends to one target.

    Args:
        target: where to.
        first, longest: seconds between two tries, doubled from the first to the longest.
    """

    def __init__(
        self,
        target: Target,
        first: float = FIRST_DELAY,
        longest: float = LONGEST_DELAY,
    ) -> None:
        self.target = target
        self._first = first
        self._longest = longest
        self._waiting: dict[str, Message] = {}
        self._arrived: list[str] = []
        self._failures = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left that may arrive within the next moments."""
        with self._changed:
            return not self._waiting or self._failures > 0

    def offer(self, message: Message) -> None:
        """Have it sent; one that waits already, or of whose arrival nobody knows yet, is not taken twice."""
        with self._changed:
            if message.id in self._arrived:
                return
            self._waiting.setdefault(message.id, message)
            self._changed.notify_all()
            if self._thread is None:
                name = f"telling {self.target.key}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()

    def forget(self, id: str) -> None:
        """Try it no more."""
        with self._changed:
            self._waiting.pop(id, None)

    def arrived(self) -> list[str]:
        """The messages that have arrived since this was asked last."""
        with self._changed:
            found, self._arrived = self._arrived, []
            return found

    def end(self) -> None:
        """Begin nothing more; returns at once."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if self._ended:
                    return
                message = next(iter(self._waiting.values()))
            why = self._try(message)
            with self._changed:
                if why is None:
                    self._waiting.pop(message.id, None)
                    self._arrived.append(message.id)
                    before, self._failures = self._failures, 0
                else:
                    before, self._failures = self._failures, self._failures + 1
                self._changed.notify_all()
            if why is None and before:
                log.info("Messages to %s arrive again.", self.target.name)
            if why is not None:
                delay = min(self._first * 2.0 ** min(self._failures - 1, 30), self._longest)
                if not before:
                    log.warning(
                        "Messages to %s do not arrive. %s It is tried again in %s, then less often, for a day; "
                        "training goes on.", self.target.name, why, duration(delay),
                    )  # fmt: skip
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, delay)

    def _try(self, message: Message) -> str | None:
        try:
            self.target.send(message)
        except SendError as error:
            return str(error)
        except Exception as error:
            # Not its text: the address may be in it.
            return f"It failed with {type(error).__name__}, which is a mistake in nightschool."
        return None


def wait_for(senders: Iterable[Sender], seconds: float) -> None:
    """Give what was offered this long to arrive. Targets that fail already are not waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(sender.done for sender in senders):
        time.sleep(0.02)
