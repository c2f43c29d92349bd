"""Ctrl-C and SIGTERM: handlers that only set flags."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignals:
    """While entered, signals ask for a stop instead of ending the process.

    `stop` is set by the first SIGINT, SIGTERM or SIGHUP (the terminal was closed). `at_once` is set by a Ctrl-C that
    follows any of them. Further SIGTERMs change nothing: service managers and `nightschool stop` may send several.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.stop = False
        self.at_once = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in self.WATCHED:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started with nohup
            self._previous[number] = signal.signal(number, self.on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def on_signal(self, number: int, frame: FrameType | None = None) -> None:
        """Take note of a signal."""
        del frame
        if self.stop and number == signal.SIGINT:
            self.at_once = True
        self.stop = True
