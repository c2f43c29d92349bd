"""Takes the machine's lines and shows them, from a thread of its own: the supervisor never waits for a terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TextIO, cast

from nightschool.errors import NightschoolError
from nightschool.ledger.database import untouched
from nightschool.view import terminal as terminals
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.view.model import View

READ_SECONDS = 1.0
DRAW_SECONDS = 0.5
ANEW_SECONDS = 10.0
"""After so long the same is drawn once more, over what another program may have written on the terminal."""
STOP_SECONDS = 0.02
"""Between two tries to stop the process, where it holds a lock of the ledger just then."""
KEPT = 200
FAREWELL = 8
"""Lines of the log that stay on the terminal when the view is gone."""
AT_REST = "Stopped by Ctrl-Z: a trainer goes on with what it has, and nothing else is done until `fg` or `bg`."
PATIENCE = 3.0
MOST_LINES = 10_000


@contextmanager
def shown(layout: Layout, plain: bool, farewell: int = FAREWELL) -> Iterator[Live | Lines]:
    """What standard output can show: the view, or lines. However the body ends, the terminal is given back."""
    view = Live(layout, farewell=farewell, at_rest=AT_REST) if not plain and terminals.suits(sys.stdout) else Lines()
    try:
        with stoppable(view) if isinstance(view, Live) else nullcontext():
            yield view
    finally:
        view.close()


@contextmanager
def stoppable(view: Live) -> Iterator[None]:
    """While entered, Ctrl-Z gives the terminal back before it stops the process, and the view returns with it.

    It is not stopped while it changes or reads the ledger: a trainer could write nothing, and would end.
    The kernel decides whether there is anything to return to: where no shell could go on with it, Ctrl-Z stops nothing.
    """

    def on_signal(*_: object) -> None:
        if view.leaves_first():
            return
        with untouched() as free:
            if not free and view.signals_again():
                return
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)  # returns when somebody lets the process go on
            signal.signal(signal.SIGTSTP, on_signal)
        view.goes_on()

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTSTP, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


class Lines:
    """Prints lines as they come. Where nobody reads them, the oldest are dropped and that is said.

    Args:
        stream: standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._condition = threading.Condition()
        self._closed = False
        self._gone = False
        self._thread = threading.Thread(target=self._work, name="lines", daemon=True)

    def line(self, text: str) -> None:
        """Take a line; returns at once."""
        with self._condition:
            if not self._thread.is_alive() and not self._closed:
                self._thread.start()
            self._waiting.append(text)
            if len(self._waiting) > MOST_LINES:
                self._waiting.popleft()
                self._dropped += 1
            self._condition.notify()

    def close(self) -> None:
        """Print what is left; where nobody reads, give up after a few seconds."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        left = -1
        while self._thread.is_alive() and len(self._waiting) != left:
            left = len(self._waiting)
            self._thread.join(PATIENCE)

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closed:
                    self._condition.wait()
                if not self._waiting:
                    return
                text = self._waiting.popleft()
                if self._dropped:
                    text = f"({self._dropped:,} lines were not shown; they are in training_output.log)\n{text}"
                    self._dropped = 0
            if not self._gone:
                self._print(f"{text}\n")

    def _print(self, text: str) -> None:
        try:
            try:
                fd = self._stream.fileno()
            except (OSError, ValueError, AttributeError):
                self._stream.write(text)
                self._stream.flush()
                return
            # Not through the stream: its lock, held here while nobody reads, would keep the process from ending.
            data = text.encode(terminals.encoding_of(self._stream), "backslashreplace")
            while data:
                data = data[os.write(fd, data) :]
        except (OSError, ValueError):
            self._gone = True


class Live:
    """The view on the terminal's other screen, until `close`; then the last lines of the log on the normal one.

    Args:
        layout: the workspace.
        stream: standard output.
        farewell: lines of the log that stay when it ends.
        at_rest: a line for those who stop the process.
        opened: makes the terminal.
    """

    def __init__(
        self,
        layout: Layout,
        stream: TextIO | None = None,
        farewell: int = FAREWELL,
        at_rest: str = "",
        opened: Callable[[int, str], terminals.Terminal] = terminals.Terminal,
    ) -> None:
        self._layout = layout
        self._stream = stream or sys.stdout
        self._farewell = farewell
        self._at_rest = at_rest
        self._opened = opened
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._end = threading.Event()
        self._stir = threading.Event()
        self._to_stop = False
        self._left = False
        self._signals = False
        self._goes_on = threading.Event()
        self._terminal: terminals.Terminal | None = None
        self._entered = False
        self._after: Lines | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._guarded, name="view", daemon=True)

    def line(self, text: str) -> None:
        """Take a line of the log; returns at once. The first one begins the view."""
        with self._lock:
            if self._after is not None:
                self._after.line(text)
                return
            self._lines.append(text)
        if not self._thread.is_alive() and not self._end.is_set():
            self.start()

    def start(self) -> None:
        """Begin the view."""
        if self._thread.ident is None:
            encoding = terminals.encoding_of(self._stream)
            self._terminal = self._opened(self._stream.fileno(), encoding)
            self._thread.start()

    def leaves_first(self) -> bool:
        """Whether the view has the terminal still: it leaves it, and signals SIGTSTP again, before the process stops.

        Called where a signal is handled, between any two instructions: it takes no lock that could be held there.
        """
        if self._left or self._end.is_set() or not self._thread.is_alive():
            return False
        self._to_stop = True
        self._stir.set()
        return True

    def signals_again(self) -> bool:
        """Whether the view, which has left the terminal, signals SIGTSTP once more in a moment. Takes no lock."""
        if not self._left or self._end.is_set() or not self._thread.is_alive():
            return False
        self._signals = True
        return True

    def goes_on(self) -> None:
        """The process was stopped and goes on."""
        self._goes_on.set()

    def close(self) -> None:
        """Give the terminal back as it was. Where it takes nothing, give up after a few seconds."""
        self._end.set()
        self._stir.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)
        if self._terminal is not None:
            # Also where the thread still waits for the ledger.
            self._leave(self._terminal)
            self._terminal.drain(PATIENCE / 3)
            self._terminal.shut()
        if self._after is not None:
            self._after.close()

    def _rest(self, terminal: terminals.Terminal) -> None:
        """Leave the terminal, let the process be stopped, and return when it goes on."""
        self._leave(terminal, self._at_rest)
        terminal.drain(PATIENCE / 3)
        self._goes_on.clear()
        self._left = self._signals = True
        while not self._goes_on.is_set() and not self._end.is_set():
            if self._signals:
                self._signals = False
                os.kill(os.getpid(), signal.SIGTSTP)
            self._goes_on.wait(STOP_SECONDS)
        self._left = self._to_stop = False

    def _leave(self, terminal: terminals.Terminal, more: str = "") -> None:
        """Back to the normal screen, once, with the last lines."""
        with self._lock:
            entered, self._entered = self._entered, False
            last = list(self._lines)[-self._farewell :] if self._farewell else []
            last += [more] if more else []
        if entered:
            terminal.write(terminals.RESTORE + "".join(f"{line}\n" for line in last))
            terminal.flush()

    def _guarded(self) -> None:
        """The view must never take the machine along: whatever it meets, plain lines follow."""
        terminal = self._terminal
        assert terminal is not None
        try:
            self._work(terminal)
        except Exception as error:
            self._leave(terminal)
            terminal.drain(PATIENCE / 3)
            with self._lock:
                self._after = Lines(self._stream)
            self._after.line(f"The view has ended ({type(error).__name__}: {error}); lines follow.")

    def _work(self, terminal: terminals.Terminal) -> None:
        from rich.console import Console, ConsoleDimensions, Group
        from rich.screen import Screen
        from rich.text import Text

        from nightschool.view.drawing import ASCII, UNICODE, draw

        glyphs = UNICODE if terminals.is_unicode(terminal.encoding) else ASCII
        console = Console(
            file=cast("TextIO", terminal), force_terminal=True, highlight=False, markup=False, emoji=False
        )
        reading = _Reading(self._layout)
        shown: object = None
        drawn_at = 0.0
        try:
            while not self._end.is_set():
                self._stir.clear()
                if self._to_stop:
                    self._to_stop = False
                    self._rest(terminal)
                    continue
                if not terminal.in_front():
                    # Let go on by `bg`: the terminal is another's, until `fg`.
                    self._stir.wait(DRAW_SECONDS)
                    continue
                with self._lock:
                    entered, self._entered = self._entered, True
                if not entered:
                    shown = None
                    terminal.write(terminals.ENTER)
                if terminal.busy and not terminal.drain(DRAW_SECONDS):
                    continue
                with self._lock:
                    lines = tuple(self._lines)
                view = reading.view(lines)
                width, height = console.size = ConsoleDimensions(*terminal.size())
                page = [Text(reading.trouble)] if view is None else draw(view, width, height, glyphs)
                now = time.monotonic()
                if (page, width, height) != shown or now - drawn_at >= ANEW_SECONDS:
                    shown, drawn_at = (page, width, height), now
                    # Every cell is written, and nothing cleared first: that is what does not flicker.
                    terminal.write(terminals.HOME)
                    console.print(Screen(Group(*page)), end="")
                    terminal.flush()
                self._stir.wait(DRAW_SECONDS)
        finally:
            terminal.drain(PATIENCE / 3)
            self._leave(terminal)


class _Reading:
    """The newest view, read at most once a second; with what kept it from being read where there was something."""

    def __init__(self, layout: Layout) -> None:
        from nightschool.hardware import Probe
        from nightschool.view.model import Reader

        self._layout = layout
        self._reader = Reader(layout)
        self._probe = Probe(layout)
        self._read_at: float | None = None
        self._view: View | None = None
        self.trouble = "reading …"

    def view(self, lines: tuple[str, ...]) -> View | None:
        """The view with these lines of the log; None where none could be read yet."""
        now = time.monotonic()
        if self._read_at is None or now - self._read_at >= READ_SECONDS:
            self._read_at = now
            try:
                at = datetime.now().astimezone()
                self._view = self._reader.read(at, self._probe.look())
            except (NightschoolError, OSError) as error:
                self.trouble = str(error)
                if self._view is not None:
                    self._view = replace(self._view, trouble=self.trouble)
        return None if self._view is None else replace(self._view, lines=lines)
