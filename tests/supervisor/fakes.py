"""Starting stand-ins, and waiting for what they leave behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import errors
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.supervisor import run as supervisor
from nightschool.supervisor.run import Commands
from nightschool.supervisor.signals import StopSignals
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


def drop(layout: Layout, *names: str) -> None:
    for name in names:
        (layout.inbox / name).write_text('{"text": "a"}\n')


def state(layout: Layout) -> dict[str, str]:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get("state", {})


def states(layout: Layout) -> dict[str, int]:
    with Ledger.open(layout.ledger) as ledger:
        return {state: n for state, n in ledger.files.counts().items() if n}


class Background:
    """A run in a thread, ended by the test."""

    def __init__(self, layout: Layout, settings: Settings, trainer: str = "good", intake: str = "good") -> None:
        self.signals = StopSignals()
        self.result: list[object] = []

        def target() -> None:
            try:
                self.result.append(
                    supervisor.run(
                        layout,
                        settings,
                        False,
                        commands=commands(layout, trainer, intake),
                        signals=self.signals,
                        tick_seconds=0.02,
                    )
                )
            except errors.NightschoolError as error:
                self.result.append(error)

        self.thread = threading.Thread(target=target)
        self.thread.start()

    def stop(self) -> object:
        self.signals.stop = True
        return self.end()

    def end(self) -> object:
        wait_until(lambda: self.result, "the end of the run")
        self.thread.join()
        return self.result[0]


Start = Callable[..., Background]


def tell(layout: Layout, **values: object) -> None:
    with Ledger.open(layout.ledger) as ledger:
        for key, value in values.items():
            ledger.machine.set(key, value)


def word_is(layout: Layout, word: str) -> Callable[[], bool]:
    return lambda: state(layout).get("word") == word
