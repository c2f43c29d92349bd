"""`nightschool status --watch`: the view of a machine that runs elsewhere, or lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from nightschool import logs
from nightschool.errors import StorageError
from nightschool.status import Status, read_status
from nightschool.supervisor.signals import StopSignals
from nightschool.view import terminal as terminals
from nightschool.view.live import FAREWELL, Live, stoppable
from nightschool.workspace import Layout

POLL_SECONDS = 0.2
READ_SECONDS = 1.0
FIGURES_SECONDS = 60.0
"""Between two lines for people where only figures have changed."""


def watch(layout: Layout, as_json: bool, stop: StopSignals | None = None) -> None:
    """Show the machine until a signal asks for the end; when it stops, wait for the next.

    Args:
        layout: the workspace.
        as_json: one object per line as something changes; else the view, or lines where there is no terminal for it.
        stop: signals that were entered.
    """
    with stop or StopSignals() as signals:
        try:
            if as_json:
                _lines(layout, signals, JsonLines())
            elif terminals.suits(sys.stdout):
                _view(layout, signals)
            else:
                _lines(layout, signals, PlainLines())
        except BrokenPipeError:
            # Whoever read them has had enough. Nothing is left to be flushed at the end.
            sys.stdout = None


def _view(layout: Layout, signals: StopSignals) -> None:
    view = Live(layout, farewell=0)
    try:
        tail = logs.Tail(layout.log_file)
        for line in logs.last_lines(layout.log_file, FAREWELL * 5):
            view.line(line)
        view.start()
        with stoppable(view):
            while not signals.stop:
                for line in tail.lines():
                    view.line(line)
                time.sleep(POLL_SECONDS)
    finally:
        view.close()


class JsonLines:
    """Each status that differs from the one before."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None

    def __call__(self, found: Status, now: float) -> str | None:
        """The line for a status read at `now` (monotonic seconds); None where it needs none."""
        del now
        told = found.to_dict()
        if told == self._before:
            return None
        self._before = told
        return json.dumps(told, ensure_ascii=False, allow_nan=False)


class PlainLines:
    """A line when the machine does something else, and now and then while only figures change."""

    def __init__(self) -> None:
        self._before: tuple[object, ...] | None = None
        self._step = -1
        self._at = 0.0

    def __call__(self, found: Status, now: float) -> str | None:
        """The line for a status read at `now` (monotonic seconds); None where it needs none."""
        key = (found.state, found.reason, found.current_file, found.queued, found.learned, found.rejected)
        if key == self._before and (found.step == self._step or now - self._at < FIGURES_SECONDS):
            return None
        self._before, self._step, self._at = key, found.step, now
        parts = [f"{found.state}: {found.reason}" if found.reason else found.state, f"step {found.step:,}"]
        if found.loss is not None:
            parts.append(f"loss {found.loss:.4f}")
        parts.append(f"{found.queued:,} waiting, {found.learned:,} learned")
        return f"{datetime.now():%Y-%m-%d %H:%M:%S}  {', '.join(logs.escape(part) for part in parts)}"


def _lines(layout: Layout, signals: StopSignals, told: Callable[[Status, float], str | None]) -> None:
    read_at = None
    while not signals.stop:
        now = time.monotonic()
        if read_at is None or now - read_at >= READ_SECONDS:
            try:
                line = told(read_status(layout), now)
            except StorageError as error:
                if read_at is None:
                    raise
                print(f"nightschool: {error}", file=sys.stderr)
                line = None
            read_at = now
            if line is not None:
                print(line, flush=True)
        time.sleep(POLL_SECONDS)
