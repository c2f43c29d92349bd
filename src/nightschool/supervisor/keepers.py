"""The keepers of the trainer and of the intake worker: what each measures its progress by, and what holds it up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from nightschool import durable
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.supervisor import policies
from nightschool.supervisor.children import Child
from nightschool.supervisor.keeper import Keeper
from nightschool.workspace import Layout

Clock = Callable[[], float]

log = logging.getLogger("nightschool.supervisor")


def trainer(layout: Layout, ledger: Ledger, command: Sequence[str], grace: float, clock: Clock) -> Keeper:
    """The trainer gets further with each step."""

    def steps() -> int:
        last = ledger.steps.last()
        return last.step if last else 0

    child = Child("trainer", command, layout.trainer_output, grace, clock, cwd=layout.root)
    return _keeper(child, ledger, layout.trainer_lock, steps, clock)


def intake(layout: Layout, ledger: Ledger, command: Sequence[str], grace: float, clock: Clock) -> Keeper:
    """The intake worker gets further with each thing that it does to a file."""

    def handled() -> int:
        return policies.work_of(ledger.files.counts(), 0).handled

    child = Child("intake worker", command, layout.intake_output, grace, clock, cwd=layout.root)
    return _keeper(child, ledger, layout.intake_lock, handled, clock)


def _keeper(child: Child, ledger: Ledger, lock: Path, measure: Callable[[], int], clock: Clock) -> Keeper:
    def blocked() -> str | None:
        try:
            pid = durable.holder(lock)
        except NightschoolError as error:
            return str(error)  # who cannot look does not start a second one
        return None if pid is None else f"an earlier {child.name} (process {pid}) is still ending; if it hangs, kill it"

    def progress() -> int:
        # A ledger that cannot be read just now says nothing about the child.
        with suppress(NightschoolError):
            return measure()
        return 0

    def on_file(pid: int) -> bool:
        with suppress(NightschoolError):
            told = ledger.machine.get("trainer") or {}
            return told.get("pid") == pid and told.get("phase") == "training"
        return False

    def note(verdict: policies.Verdict, name: str) -> None:
        # Where the disk is full the log has it.
        with suppress(NightschoolError):
            text = f"The {name}: {verdict.why}."
            ledger.events.add("accident", text, child=name, then=verdict.what, delay=verdict.delay)

    return Keeper(child, log.info, clock, progress, blocked, on_file, note)
