"""The view on a real pseudo-terminal: it never holds up who writes to it, and gives the terminal back as it was."""

from __future__ import annotations

import os
import pty
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ
from typing import Any, TextIO

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.view import live, model, terminal
from nightschool.workspace import Layout

PATIENCE = 60.0
LONG = "x" * 200


@dataclass
class Pty:
    """The two ends of a pseudo-terminal."""

    near: int
    stream: TextIO
    seen: bytes = b""

    def size(self, columns: int, lines: int) -> None:
        ioctl(self.near, TIOCSWINSZ, pack("HHHH", lines, columns, 0, 0))

    def read_until(self, what: bytes) -> bytes:
        """Read until it was seen; the limit only keeps a broken test from hanging."""
        os.set_blocking(self.near, False)
        end = time.monotonic() + PATIENCE
        while what not in self.seen:
            assert time.monotonic() < end, self.seen[-2000:]
            try:
                self.seen += os.read(self.near, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
        return self.seen


@pytest.fixture
def screen() -> Iterator[Pty]:
    near, far = pty.openpty()
    with os.fdopen(far, "w", encoding="utf-8") as stream:
        found = Pty(near, stream)
        found.size(80, 24)
        yield found
    os.close(near)


def test_the_view_comes_with_the_first_line_and_leaves_the_last_ones_behind(layout: Layout, screen: Pty) -> None:
    view = live.Live(layout, screen.stream)
    view.line("2026-11-24 22:00:01  Hello.")
    shown = screen.read_until(b"22:00:01  ")
    assert shown.startswith(terminal.ENTER.encode())
    assert b"stopped" in shown
    view.line("2026-11-24 22:00:02  nightschool has stopped.")
    view.close()
    after = screen.read_until(b"has stopped.\r\n").rpartition(terminal.RESTORE.encode())[2]
    assert b"Hello." in after
    assert b"\x1b" not in after


def test_it_follows_the_size_of_the_terminal(layout: Layout, screen: Pty) -> None:
    view = live.Live(layout, screen.stream)
    view.line("2026-11-24 22:00:01  Hello.")
    screen.read_until("─".encode() * 80)
    screen.size(120, 30)
    screen.read_until("─".encode() * 120)
    view.close()


def fill(view: live.Live | live.Lines, enough: int = 3000) -> None:
    for number in range(enough):
        view.line(f"{number} {LONG}")


def in_time(what: Callable[[], Any]) -> bool:
    """Whether it returns; the time only bounds the test."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    thread.join(20.0)
    return not thread.is_alive()


def stuck(near: int, stream: TextIO) -> None:
    """Fill the terminal until it takes no more."""
    fd = os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        while True:
            os.write(fd, b"z" * 512)
    except BlockingIOError:
        os.close(fd)


@pytest.mark.parametrize("kind", ["view", "lines"])
def test_a_terminal_that_nobody_reads_holds_nobody_up(
    layout: Layout, screen: Pty, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    stuck(screen.near, screen.stream)
    view = live.Live(layout, screen.stream) if kind == "view" else live.Lines(screen.stream)
    assert in_time(lambda: fill(view))
    assert in_time(view.close)


def test_control_who_writes_to_it_directly_is_held_up(screen: Pty) -> None:
    stuck(screen.near, screen.stream)
    thread = threading.Thread(target=lambda: os.write(screen.stream.fileno(), b"x" * 10_000), daemon=True)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    while thread.is_alive():
        os.read(screen.near, 1 << 16)
        thread.join(0.01)


def test_lines_that_nobody_reads_are_dropped_and_that_is_said(screen: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_LINES", 10)
    stuck(screen.near, screen.stream)
    lines = live.Lines(screen.stream)
    fill(lines, 100)
    screen.read_until(b"lines were not shown")
    screen.read_until(b"99 xxx")
    lines.close()


def test_a_mistake_in_the_view_ends_it_and_lines_follow(
    layout: Layout, screen: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of no use")

    monkeypatch.setattr(model.Reader, "read", broken)
    view = live.Live(layout, screen.stream)
    view.line("first line")
    screen.read_until(b"The view has ended (ZeroDivisionError: of no use)")
    view.line("a later line")
    shown = screen.read_until(b"a later line")
    assert shown.index(terminal.RESTORE.encode()) < shown.index(b"first line") < shown.index(b"a later line")
    view.close()


def test_a_ledger_that_cannot_be_read_is_said_and_tried_again(
    layout: Layout, screen: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, trouble = model.Reader.read, [True]

    def sometimes(self: model.Reader, *rest: Any) -> Any:
        if trouble[0]:
            raise StorageError("The ledger is locked.")
        return read(self, *rest)

    monkeypatch.setattr(model.Reader, "read", sometimes)
    view = live.Live(layout, screen.stream)
    view.line("a line")
    screen.read_until(b"The ledger is locked.")
    trouble[0] = False
    screen.read_until(b"a line")
    view.close()


def test_an_exception_in_the_machine_gives_the_terminal_back(
    layout: Layout, screen: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", screen.stream)
    monkeypatch.setattr(terminal, "suits", lambda *_: True)

    def machine() -> None:
        with live.shown(layout, plain=False) as view:
            view.line("a line")
            screen.read_until(b"a line")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        machine()
    screen.read_until(terminal.RESTORE.encode())


@pytest.mark.parametrize("name", ["dumb", "unknown", ""])
def test_where_a_view_does_not_suit_there_are_lines(
    layout: Layout, screen: Pty, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())
    assert terminal.suits(screen.stream, {"TERM": "xterm"})
    assert not terminal.suits(screen.stream, {"TERM": name} if name else {})
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
    assert not terminal.suits(screen.stream, {"TERM": "xterm"}), "in the background"
    with Path(os.devnull).open("w") as nowhere:
        assert not terminal.suits(nowhere, {"TERM": "xterm"})
    monkeypatch.setattr(terminal, "suits", lambda *_: True)
    with live.shown(layout, plain=True) as view:
        assert isinstance(view, live.Lines)


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_no_color_is_respected(
    layout: Layout, screen: Pty, variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setenv("TERM", "xterm-256color")
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("state", {"word": "failed", "reason": "no model", "since": None})
    view = live.Live(layout, screen.stream)
    view.line("a line")
    shown = screen.read_until(b"a line")
    view.close()
    assert (b"31mfailed" in shown) == coloured
