"""Ctrl-Z in the view, under a real shell with job control on a pseudo-terminal: the shell gets a terminal in order."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest

from nightschool.view import live, terminal
from nightschool.workspace import Layout

PATIENCE = 60.0
CTRL_Z, CTRL_C = b"\x1a", b"\x03"
ENTER, RESTORE = terminal.ENTER.encode(), terminal.RESTORE.encode()
SHELL = shutil.which("bash") or ""

PROGRAM = """
import sys, time
from pathlib import Path
from nightschool.supervisor.signals import StopSignals
from nightschool.view.live import shown
from nightschool.workspace import Layout

with StopSignals() as signals, shown(Layout(Path(sys.argv[1])), False) as view:
    number = 0
    while not signals.stop:
        number += 1
        view.line(f"2026-11-24 22:00:01  line {number}.")
        time.sleep(0.05)
print("the", "end", flush=True)
"""

OPENS = """    from nightschool.ledger import Ledger
    ledger = Ledger.open(Layout(Path(sys.argv[1])).ledger)
"""


class Shell:
    """A process on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.pid, self.near = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm", "PS1": "$ "}
            os.read(0, 1)  # until the terminal has a size
            os.execvp(command[0], command)
        ioctl(self.near, TIOCSWINSZ, pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self.near, False)
        self.seen = b""
        self.send(b"\n")

    def send(self, what: bytes) -> None:
        os.write(self.near, what)

    def until(self, what: bytes) -> bytes:
        """All that came up to the end of `what`, since it was asked last; the limit only ends a broken test."""
        end = time.monotonic() + PATIENCE
        while what not in self.seen:
            assert time.monotonic() < end, (what, self.seen[-2000:])
            try:
                self.seen += os.read(self.near, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
        found, _, self.seen = self.seen.partition(what)
        return found + what

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(os.tcgetpgrp(self.near), signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.near)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def shell() -> Iterator[Shell]:
    if not SHELL:
        pytest.skip("there is no bash")
    found = Shell(SHELL, "--norc", "--noprofile", "-i")
    found.until(b"$ ")
    yield found
    found.end()


def start(shell: Shell, program: Path, layout: Layout) -> None:
    shell.send(f"{sys.executable} {program} {layout.root}\n".encode())
    shell.until(ENTER)


def test_ctrl_z_gives_the_terminal_back_and_fg_brings_the_view_again(
    shell: Shell, program: Path, layout: Layout
) -> None:
    start(shell, program, layout)
    for _ in range(2):
        shell.until(b"line ")
        shell.send(CTRL_Z)
        before = shell.until(b"Stopped  ")
        assert before.count(RESTORE) == 1
        left = before.partition(RESTORE)[2]
        assert live.AT_REST.encode() in left
        assert b"\x1b[?1049h" not in left, "nothing is drawn over what the shell shows"
        shell.send(b"echo in $((40 + 2)) order\n")
        assert b"\x1b[?" not in shell.until(b"in 42 order\r\n").replace(b"\x1b[?2004h", b"").replace(
            b"\x1b[?2004l", b""
        )
        shell.send(b"fg\n")
        shell.until(ENTER)
    shell.until(b"line ")
    shell.send(CTRL_C)
    assert RESTORE in shell.until(b"the end\r\n")


def test_in_the_background_nothing_is_drawn(shell: Shell, program: Path, layout: Layout) -> None:
    start(shell, program, layout)
    shell.until(b"line ")
    shell.send(CTRL_Z)
    shell.until(b"Stopped  ")
    shell.send(b"bg\n")
    shell.until(b" &\r\n")
    shell.send(f"sleep {3 * live.DRAW_SECONDS}; echo in $((40 + 2)) order\n".encode())
    seen = shell.until(b"in 42 order\r\n")
    assert b"\x1b[?1049h" not in seen
    assert b"\x1b[H" not in seen
    shell.send(b"fg\n")
    shell.until(ENTER)
    shell.send(CTRL_C)
    shell.until(b"the end\r\n")


CHANGES = """with ledger.transaction():
            time.sleep(0.2)
        time.sleep(0.01)"""
READS = """if number == 1:
            import threading
            many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 300000) "
            def read():
                while True:
                    time.sleep(0.02)
                    ledger._database.rows(many + "SELECT count(*) FROM n, (SELECT count(*) FROM files)")
            threading.Thread(target=read, daemon=True).start()
        time.sleep(0.05)"""
COPIES = """if number == 1:
            import tempfile, threading
            from nightschool.ledger import database
            database.COPY_PAGES, database.COPY_PAUSE = 1000, 0.02
            ledger._database.write_many(
                "INSERT INTO events (at, kind, text, fields) VALUES ('', 'x', ?, '{}')", [("x" * 4000,)] * 5000
            )
            def copy():
                while True:
                    time.sleep(0.02)
                    with tempfile.TemporaryDirectory() as folder:
                        ledger.backup_to(Path(folder) / "copy.db")
            threading.Thread(target=copy, daemon=True).start()
        time.sleep(0.05)"""


@pytest.mark.parametrize("work", [CHANGES, READS, COPIES], ids=["changes", "reads", "copies"])
def test_a_process_that_is_stopped_keeps_nobody_from_writing_to_the_ledger(
    shell: Shell, program: Path, layout: Layout, work: str
) -> None:
    """A trainer goes on meanwhile, and would end for want of a ledger that it can write to.

    A reader keeps others from writing too: they cannot commit.
    """
    text = PROGRAM.replace("time.sleep(0.05)", work).replace("    number = 0\n", OPENS + "    number = 0\n")
    program.write_text(text)
    start(shell, program, layout)
    for _ in range(3):
        shell.until(b"line ")
        shell.send(CTRL_Z)
        shell.until(b"Stopped  ")
        with closing(sqlite3.connect(layout.ledger, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("ROLLBACK")
        shell.send(b"fg\n")
        shell.until(ENTER)
    shell.send(CTRL_C)
    shell.until(b"the end\r\n")


def test_without_a_shell_that_could_go_on_with_it_ctrl_z_stops_nothing(program: Path, layout: Layout) -> None:
    """As over `ssh -t`: nobody could ever let the process go on."""
    alone = Shell(sys.executable, str(program), str(layout.root))
    try:
        alone.until(ENTER)
        alone.send(CTRL_Z)
        alone.until(RESTORE)
        alone.until(ENTER)
        alone.until(b"line ")
        alone.send(CTRL_C)
        alone.until(b"the end\r\n")
    finally:
        alone.end()


def test_control_a_process_that_does_not_listen_leaves_the_terminal_as_it_is(
    shell: Shell, program: Path, layout: Layout
) -> None:
    program.write_text(
        "import signal\n"
        + PROGRAM.replace("    number = 0\n", "    signal.signal(signal.SIGTSTP, signal.SIG_DFL)\n    number = 0\n")
    )
    start(shell, program, layout)
    shell.until(b"line ")
    shell.send(CTRL_Z)
    assert RESTORE not in shell.until(b"Stopped  ")
