"""Log lines that strangers can cause, so many of them that they would hide all others: told seldom, and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable

SECONDS = 60.0


class Seldom:
    """Says a kind of thing at most once a minute, and how many more there were.

    Args:
        log: where to.
        clock: monotonic seconds.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}

    def say(self, kind: str, text: str, error: BaseException | None = None) -> None:
        """Say `text`, unless something of this `kind`, one of a few words, was said within the minute."""
        now = self._clock()
        said_at, more = self._kinds.get(kind, (None, 0))
        if said_at is not None and now - said_at < SECONDS:
            self._kinds[kind] = (said_at, more + 1)
            return
        self._kinds[kind] = (now, 0)
        self._log.warning("%s%s", text, f" (and {more:,} times more before)" if more else "", exc_info=error)
