"""Keeps the second place up to date, on a thread of its own: nothing else waits for a disk that is slow, or hangs.

A mount whose other end is gone answers nothing, not even with an error, and nobody can end a thread that asks it. So it
is watched from outside; one that hangs is said once, and neither snapshots nor the end of a run wait for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nightschool.errors import BusyError, NightschoolError, StorageError
from nightschool.ledger import Ledger
from nightschool.settings import SnapshotSettings
from nightschool.snapshots import pruning, second
from nightschool.snapshots.retention import Rules
from nightschool.supervisor.policies import backoff
from nightschool.words import duration, in_bytes
from nightschool.workspace import Layout

FIRST_DELAY = 60.0
LONGEST_DELAY = 3600.0
HANG_SECONDS = 600.0
"""Without a single byte read or written. Flushing what was written to a slow disk may well take minutes."""
END_SECONDS = 30.0

log = logging.getLogger("nightschool.snapshots")


@dataclass
class _Work:
    """What the thread does and finds; `moved` changes as it gets on."""

    place: Path
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    native_id: int = 0
    files: int = 0
    copied: second.Summary | None = None
    seconds: float = 0.0
    error: BaseException | None = None

    def moved(self) -> tuple[int, str]:
        """What tells whether it gets on: the files it came to, and the bytes that the kernel counts for the thread."""
        try:
            return self.files, Path(f"/proc/self/task/{self.native_id}/io").read_text(encoding="ascii")
        except OSError:
            return self.files, ""


class Copying:
    """The second place of one workspace.

    Args:
        layout, ledger: the workspace.
        clock: monotonic seconds.
        now: the wall clock, with a zone.
    """

    def __init__(
        self, layout: Layout, ledger: Ledger, clock: Callable[[], float], now: Callable[[], datetime]
    ) -> None:  # fmt: skip
        self.layout = layout
        self.ledger = ledger
        self.clock = clock
        self.now = now
        self._work: _Work | None = None
        self._moved: tuple[int, str] | None = None
        self._moved_at = 0.0
        self._hangs = False
        self._not_before = 0.0
        self._tries = 0
        self._said: object = None

    @property
    def busy(self) -> bool:
        """Whether it is at work, and gets on."""
        return self._work is not None and not self._hangs

    def look(self) -> None:
        """See what became of the copy at work. Raises StorageError where the ledger cannot be written."""
        work = self._work
        if work is None:
            return
        assert work.thread is not None
        if not work.thread.is_alive():
            self._work, self._hangs = None, False
            self._collect(work)
            return
        moved = work.moved()
        if moved != self._moved:
            self._moved, self._moved_at, self._hangs = moved, self.clock(), False
        elif not self._hangs and self.clock() - self._moved_at >= HANG_SECONDS:
            text = (
                f"{work.place} (snapshots.copy_to) has neither taken nor given anything for {duration(HANG_SECONDS)}: "
                "its mount seems to hang. Copying goes on when it answers; nothing waits for it."
            )
            self.ledger.events.add("copy-failed", text)
            log.warning("The second place is not up to date: %s", text)
            self._hangs = True

    def begin_if_wanted(self, settings: SnapshotSettings) -> None:
        """Bring the place up to date where a snapshot is not in it yet. Raises StorageError: the ledger is away."""
        place = Path(settings.copy_to) if settings.copy_to else None
        if self._work is not None and self._hangs and place != self._work.place:
            # Its owner has named another place, or none. Should this one ever answer, it ends there.
            self._work.stop.set()
            self._work, self._hangs = None, False
        if self._work is None and place and self.clock() >= self._not_before and second.wanted(self.ledger):
            work = self._work = _Work(place)
            self._moved, self._moved_at = None, self.clock()
            rules = pruning.rules_of(settings)
            work.thread = threading.Thread(target=self._do, args=(work, rules), name="second place", daemon=True)
            work.thread.start()

    def end(self, at_once: bool = False) -> None:
        """Let it stop at the next file, and wait a little for that; a mount that hangs is not waited for."""
        if self._work is not None and self._work.thread is not None:
            self._work.stop.set()
            self._work.thread.join(0 if at_once or self._hangs else END_SECONDS)
            if not self._work.thread.is_alive():
                with suppress(StorageError):
                    self._collect(self._work)
                self._work = None

    def _do(self, work: _Work, rules: Rules) -> None:
        def stopping() -> bool:
            work.files += 1
            return work.stop.is_set()

        began = time.monotonic()
        work.native_id = threading.get_native_id()
        try:
            # Hashing is for whenever nobody else needs the processor.
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, work.native_id, 10)
            # Without the lock of the way back: this may take long, and nobody shall wait for it to go back.
            with Ledger.open(self.layout.ledger) as ledger:
                work.copied = second.copy(self.layout, ledger, work.place, rules, self.now().date(), stopping)
            work.seconds = time.monotonic() - began
        except second.Stopped:
            pass
        except BaseException as error:  # told by the supervisor's own thread
            work.error = error

    def _collect(self, work: _Work) -> None:
        if work.error is not None:
            self._failed(work.error)
        if work.copied is None:
            return
        done = work.copied
        self._tries, self._said = 0, None
        if done.snapshots or done.files:
            log.info(
                "Copied %s to %s: %s written, %s there already, %s.", _listed(done), work.place, in_bytes(done.bytes),
                in_bytes(done.linked), duration(work.seconds),
            )  # fmt: skip
        for verdict in done.removed:
            log.info("Removed the copy of %s: %s.", verdict.snapshot.name, verdict.why)
        for problem in done.problems:
            log.warning("%s", problem)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, NightschoolError):
            log.error("The work on the second place met what is a mistake in nightschool.", exc_info=error)
        self._tries += 1
        self._not_before = self.clock() + backoff(self._tries, FIRST_DELAY, LONGEST_DELAY)
        if isinstance(error, BusyError):
            return
        kind = (type(error), getattr(error, "errno", None))
        if kind == self._said:
            return
        log.warning("The second place is not up to date: %s This is tried again by itself; training goes on.", error)
        self.ledger.events.add("copy-failed", str(error))
        self._said = kind  # last: where the ledger refuses, the owner has not been told


def _listed(done: second.Summary) -> str:
    files = f"{done.files:,} archived file{'' if done.files == 1 else 's'}" if done.files else ""
    return " and ".join(part for part in (", ".join(done.snapshots), files) if part)
