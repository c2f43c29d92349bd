"""The snapshot of each night: when it is due, the trainer saves, and a thread takes it while training goes on.

Nothing here ever stops training. What goes wrong is said once, with what happens next, and tried again with back-off.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from nightschool.errors import BusyError, NightschoolError, StorageError
from nightschool.ledger import Ledger
from nightschool.settings import SnapshotSettings
from nightschool.snapshots import asking, due, pruning, second, states, take
from nightschool.snapshots.due import Due
from nightschool.snapshots.holding import way_back
from nightschool.snapshots.retention import Verdict
from nightschool.snapshots.states import Snapshot
from nightschool.supervisor.copying import Copying
from nightschool.supervisor.policies import backoff
from nightschool.words import duration
from nightschool.workspace import Layout

DONE = "snapshots_done"
"""The machine row with the dates that are settled."""
LOOK_SECONDS = 1.0
SAVE_PATIENCE = 900.0
"""Seconds after which a trainer that did not answer is not waited for any more: a step may be long."""
FIRST_DELAY = 60.0
LONGEST_DELAY = 3600.0
BUSY_DELAY = 10.0
END_SECONDS = 30.0

log = logging.getLogger("nightschool.snapshots")


def local_now() -> datetime:
    """The wall clock here."""
    return datetime.now().astimezone()


@dataclass
class _Work:
    """What the thread does and finds; read by the supervisor when the thread has ended."""

    due: Due
    thread: threading.Thread | None = None
    taken: Snapshot | None = None
    removed: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0
    error: BaseException | None = None


class Night:
    """Takes the daily snapshots of one workspace, and what belongs to that.

    Args:
        layout, settings, ledger: the workspace.
        clock: monotonic seconds.
        now: the wall clock, with a zone.
    """

    def __init__(
        self, layout: Layout, settings: SnapshotSettings, ledger: Ledger, clock: Callable[[], float],
        now: Callable[[], datetime] = local_now,
    ) -> None:  # fmt: skip
        self.layout = layout
        self.settings = settings
        self.ledger = ledger
        self.clock = clock
        self.now = now
        self._done: dict[date, str] | None = None
        self._work: _Work | None = None
        self._asked: str | None = None
        self._asked_at = 0.0
        self._not_before = 0.0
        self._tries = 0
        self._said: object = None
        self.copying = Copying(layout, ledger, clock, now)

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being taken, a checkpoint for it is waited for, or the second place follows."""
        return self._work is not None or self._asked is not None or self.copying.busy

    def tick(self, told: dict[str, Any], trainer: int | None) -> None:
        """Look, and do the next thing; returns at once.

        Args:
            told: what the trainer says of itself.
            trainer: its process id while it runs.

        Raises:
            StorageError: the ledger cannot be read or written; call again later.
        """
        self.copying.look()
        if self._work is not None:
            assert self._work.thread is not None
            if self._work.thread.is_alive():
                return
            done, self._work = self._work, None
            self._not_before = 0.0  # the copy follows at once: a run that ends when idle does not end between the two
            self._collect(done)
        if self.clock() < self._not_before:
            return
        self._not_before = self.clock() + LOOK_SECONDS
        found = due.due(self.now(), self.settings.at, self._settled())
        if found is None:
            self._asked = None
            self.copying.begin_if_wanted(self.settings)
            return
        if self._taken_already(found.date):
            self._note(found.date, "taken")
        elif trainer is not None and not self._saved(told if told.get("pid") == trainer else {}):
            return
        elif self.ledger.checkpoints.newest() is None:
            self._note(found.date, due.NOTHING)
            log.info("No snapshot for %s: %s.", found.date, due.NOTHING)
        else:
            self._begin(found)
        self._asked = None

    def end(self, at_once: bool = False) -> None:
        """Wait a little for what is at work; what does not come to its end is as if it had never been begun."""
        if self._work is not None and self._work.thread is not None:
            self._work.thread.join(0 if at_once else END_SECONDS)
            if not self._work.thread.is_alive():
                with suppress(StorageError):
                    self._collect(self._work)
                self._work = None
        self.copying.end(at_once)

    def _settled(self) -> dict[date, str]:
        if self._done is None:
            row = self.ledger.machine.get(DONE)
            self._done = due.from_row(row)
            if row is None:
                self._keep(due.first(self.now(), self.settings.at))
        return self._done

    def _keep(self, done: dict[date, str]) -> None:
        self.ledger.machine.set(DONE, due.to_row(done))
        self._done = done

    def _note(self, day: date, how: str) -> None:
        self._keep(due.noted(self._settled(), day, how))

    def _taken_already(self, day: date) -> bool:
        """Whether there is one for this day: the ledger may have been put back to an earlier state."""
        with suppress(NightschoolError):
            return states.read_snapshot(self.layout.snapshots / day.isoformat()).date == day
        return False

    def _saved(self, told: dict[str, Any]) -> bool:
        """Whether the trainer has saved since it was asked to; asks it if it was not."""
        if self._asked is None:
            self._asked, self._asked_at = asking.ask(self.ledger), self.clock()
            self._not_before = 0.0
            return False
        self._not_before = 0.0
        return asking.answered(told, self._asked) or self.clock() - self._asked_at >= SAVE_PATIENCE

    def _begin(self, found: Due) -> None:
        """Take the snapshot that is due."""
        work = self._work = _Work(found)
        work.thread = threading.Thread(target=self._do, args=(work,), name="snapshot", daemon=True)
        work.thread.start()

    def _do(self, work: _Work) -> None:
        began = time.monotonic()
        try:
            # Hashing is for whenever nobody else needs the processor.
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            with Ledger.open(self.layout.ledger) as ledger, way_back(self.layout, "the work on saved states"):
                self._take(work, work.due.date, ledger, began)
        except BaseException as error:  # told by the supervisor's own thread
            work.error = error

    def _take(self, work: _Work, day: date, ledger: Ledger, began: float) -> None:
        work.taken = take.take(self.layout, ledger, name=day.isoformat(), kind="daily", day=day, now=self.now())
        work.seconds = time.monotonic() - began
        second.want(ledger, self.settings.copy_to)
        work.removed = pruning.prune(self.layout, ledger, pruning.rules_of(self.settings), self.now().date())

    def _collect(self, work: _Work) -> None:
        if work.taken is not None:
            self._note(work.taken.date, "taken")
            self._tries, self._said = 0, None
            late = f" ({work.due.why})" if "stands for" in work.due.why else ""
            log.info(
                "Took the snapshot %s of step %d in %.1f s%s.", work.taken.name, work.taken.step, work.seconds, late
            )
        for verdict in work.removed:
            log.info("Removed the snapshot %s: %s.", verdict.snapshot.name, verdict.why)
        if work.error is not None:
            self._failed(work, work.error)

    def _failed(self, work: _Work, error: BaseException) -> None:
        if not isinstance(error, NightschoolError):
            log.error("The work on saved states met what is a mistake in nightschool.", exc_info=error)
        if isinstance(error, BusyError):
            self._not_before = self.clock() + BUSY_DELAY
            return
        what = "Old snapshots could not be removed"
        if work.taken is None:
            what = f"The snapshot for {work.due.date} could not be taken"
        self._tries += 1
        delay = backoff(self._tries, FIRST_DELAY, LONGEST_DELAY)
        self._not_before = self.clock() + delay
        text = f"{what}: {error}"
        # Not the text itself: names of temporary files are in it.
        kind = (what, type(error), getattr(error, "errno", None))
        if kind == self._said:
            return
        after = "after the next snapshot" if work.taken else f"in {duration(delay)}, then less often, until it works"
        log.warning("%s This is tried again %s. Training goes on.", text, after)
        self.ledger.events.add("snapshot-failed", text, date=str(work.due.date))
        self._said = kind  # last: where the ledger refuses, the owner has not been told
