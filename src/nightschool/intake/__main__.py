"""`python -m nightschool.intake --workspace DIR --lifeline FD`: the intake worker as a process.

Ends when its supervisor does (the lifeline, a pipe, is closed), or on SIGTERM, with exit code 0. Ctrl-C at a terminal
reaches the supervisor, which ends its children itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import time
from pathlib import Path

from nightschool import durable, inforce, logs
from nightschool.errors import NightschoolError, StorageError
from nightschool.intake.worker import Stopped, Worker, lower_priority
from nightschool.ledger.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.workspace import Layout

POLL_SECONDS = 0.1
STORAGE_WAIT_SECONDS = 5.0

log = logging.getLogger("nightschool.intake")


class Lifeline:
    """Says whether the worker is to stop: SIGTERM came, or whoever held the other end of the pipe is gone."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.stop = False

    def stopping(self) -> bool:
        """Whether to stop now."""
        self.wait(0)
        return self.stop

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is time to stop."""
        watched = [] if self._descriptor is None else [self._descriptor]
        end = time.monotonic() + seconds
        while not self.stop:
            left = end - time.monotonic()
            # In short pieces: a signal's handler sets `stop`, but does not end the wait.
            readable, _, _ = select.select(watched, [], [], max(0.0, min(left, POLL_SECONDS)))
            # Nothing is ever written into the pipe: that it can be read means that it was closed.
            if readable and not os.read(readable[0], 1):
                self.stop = True
            if left <= 0:
                return


def main(arguments: list[str] | None = None) -> int:
    """Run the worker; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nightschool.intake", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="the workspace folder")
    parser.add_argument("--lifeline", type=int, help="descriptor of a pipe; its end is the worker's")
    options = parser.parse_args(arguments)
    layout = Layout(options.workspace.resolve())
    lifeline = Lifeline(options.lifeline)
    # Before any Hugging Face library is imported: nothing is fetched, whatever a tokenizer's own code would like.
    os.environ["HF_HUB_OFFLINE"] = "1"

    def stop(*_: object) -> None:
        lifeline.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        layout.require()
        supervised = options.lifeline is not None
        following = inforce.Follower(layout)  # first: what is accepted from here on is not missed
        settings = inforce.read(layout) if supervised else load_settings(layout.settings_file)
        logs.setup(layout, settings, "intake")
        lower_priority()
        with durable.Lock(layout.intake_lock, "intake"), Ledger.open(layout.ledger) as ledger:
            worker = Worker(layout, ledger, settings, stopping=lifeline.stopping, following=following)
            loop(worker, lifeline)
    except NightschoolError as error:
        log.error("%s", error)
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def loop(worker: Worker, lifeline: Lifeline) -> None:
    """Work until it is time to stop. A disk that refuses is waited for."""
    told = ""
    while not lifeline.stopping():
        try:
            did = worker.step()
            told = ""
        except Stopped:
            return
        except StorageError as error:
            if str(error) != told:
                log.error("%s The files wait.", error)
                told = str(error)
            lifeline.wait(STORAGE_WAIT_SECONDS)
            continue
        if did is None or did == "later":
            lifeline.wait(POLL_SECONDS)


if __name__ == "__main__":
    logs.leave(main())
