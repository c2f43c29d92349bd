"""Starting stand-ins, and waiting for what they leave behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool.supervisor.run import Commands
from nightschool.workspace import Layout

HERE = Path(__file__).parent
PATIENCE = 120.0
TOML = '[model]\nname = "none"\n[inbox]\nsettle_seconds = 0.05\nrescan_seconds = 0.1\n'


def wait_until(what: Callable[[], object], why: str = "") -> None:
    """Poll until `what()` is true; the limit only keeps a broken test from hanging."""
    end = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > end:
            pytest.fail(f"waited in vain: {why or what}")
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie nobody collects counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def child_command(layout: Layout, role: str, behaviour: str = "good") -> list[str]:
    return [sys.executable, str(HERE / "fake_child.py"), role, behaviour, "--workspace", str(layout.root)]


def commands(layout: Layout, trainer: str = "good", intake: str = "good") -> Commands:
    return Commands(child_command(layout, "trainer", trainer), child_command(layout, "intake", intake))


def events(layout: Layout, name: str) -> list[int]:
    """The pids that left the event `ROLE.what`."""
    path = layout.root / name
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def log_text(layout: Layout) -> str:
    return layout.log_file.read_text() if layout.log_file.exists() else ""


class Machine:
    """A supervisor in a process of its own, for signals and kills."""

    def __init__(self, layout: Layout, trainer: str = "good", intake: str = "good", until_idle: bool = False) -> None:
        self.layout = layout
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fake_machine.py"), str(layout.root), trainer, intake, str(int(until_idle))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Under nohup the tests ignore SIGHUP, and hand that on; a supervisor started so keeps it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; exit code and output."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output
