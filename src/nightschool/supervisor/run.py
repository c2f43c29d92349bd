"""`nightschool run`: one process that stays up, takes files in, and keeps the intake worker and the trainer alive.

It never imports torch. It holds the workspace's lock, and everything it decides follows from the ledger, the inbox and
the policies; the children learn what to do from the ledger, and when to stop from SIGTERM or the end of their lifeline.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nightschool import adding, durable, logs, trackers
from nightschool.errors import BusyError, StorageError
from nightschool.intake import accept
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.supervisor.children import Commands
from nightschool.supervisor.machine import Supervisor
from nightschool.supervisor.signals import StopSignals
from nightschool.workspace import Layout

TICK_SECONDS = 0.2
OLD_SECONDS = 86_400.0

Echo = Callable[[str], Any]


def default_commands(layout: Layout) -> Commands:
    """The real children."""
    # -P: a `datasets.py` in the folder where somebody typed `nightschool run` must not be what the children import.
    python = (sys.executable, "-P", "-m")
    where = ("--workspace", str(layout.root))
    return Commands(
        (*python, "nightschool.training", "train", *where),
        (*python, "nightschool.intake", *where),
        (*python, "nightschool.training", "track", *where),
        (*python, "nightschool.dashboard", *where),
    )


def run(
    layout: Layout,
    settings: Settings,
    until_idle: bool = False,
    echo: Echo | None = None,
    *,
    ignore_hours: bool = False,
    page: tuple[str | None, int | None] = (None, None),
    commands: Commands | None = None,
    signals: StopSignals | None = None,
    clock: Callable[[], float] = time.monotonic,
    tick_seconds: float = TICK_SECONDS,
) -> int:
    """Run the machine until it is told to stop or, with `until_idle`, until nothing is left to do.

    Args:
        layout: the workspace.
        settings: what `nightschool.toml` says.
        until_idle: end, with a checkpoint, when inbox and queue are empty.
        echo: takes each new line of the log, for the terminal.
        ignore_hours: train also outside machine.hours.
        page: address and port of the page where they are not to be those of the settings.
        commands: the children.
        signals: an entered StopSignals; without one, only `until_idle` or an error ends the run.
        clock: monotonic seconds.
        tick_seconds: pause between two rounds.

    Returns:
        The exit code: 0 for a stop as asked, 130 after a second Ctrl-C, else that of the error that stopped the work.

    Raises:
        BusyError: another supervisor holds the workspace; nothing was touched.
        WorkspaceError: a part of the workspace is not there, also when it vanishes during the run.
        SettingsError: an experiment tracker that the settings name is not installed, or the page would be open to
            others without a token.
        StorageError: the ledger is damaged, or the disk refuses from the start.
    """
    trackers.check(settings.trackers.report_to)
    settings.page.at(*page)
    layout.require()
    lock = durable.Lock(layout.supervisor_lock, "another nightschool run")
    with lock, Ledger.open(layout.ledger) as ledger:
        tail = logs.Tail(layout.log_file)
        logs.setup(layout, settings, "supervisor")
        _clear_old(layout.tmp)
        # Before the inbox is looked at: a file that a crash left half-way in must not be taken for a new one. Where an
        # earlier intake worker still ends, or the disk refuses, the next worker finishes what was begun.
        with suppress(BusyError, StorageError), durable.Lock(layout.intake_lock, "the intake worker"):
            accept.recover(layout, ledger)
        supervisor = Supervisor(
            layout, settings, ledger, lock, commands or default_commands(layout), until_idle=until_idle,
            ignore_hours=ignore_hours, echo=_Echo(tail, echo), signals=signals or StopSignals(), clock=clock, page=page,
        )  # fmt: skip
        return supervisor.run(tick_seconds)


class _Echo:
    """New log lines to the terminal; a terminal that has gone away does not matter."""

    def __init__(self, tail: logs.Tail, echo: Echo | None) -> None:
        self._tail = tail
        self._echo = echo

    def __call__(self) -> None:
        if self._echo is None:
            return
        for line in self._tail.lines():
            try:
                self._echo(line)
            except (OSError, ValueError):
                self._echo = None
                return


def _clear_old(tmp: Path) -> None:
    """Remove what a killed `add` left behind; one that is still copying touches its folder today."""
    for folder in tmp.glob(f"{adding.SCRATCH}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(folder)
