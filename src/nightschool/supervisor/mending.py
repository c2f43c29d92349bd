"""What the machine does about a trainer that gets nowhere: end one that hangs, and set the file aside that stops it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from nightschool.errors import BusyError, NightschoolError, StorageError, TrainingError
from nightschool.ledger import Ledger
from nightschool.snapshots import acts
from nightschool.supervisor import policies
from nightschool.supervisor.keeper import Keeper
from nightschool.words import escape
from nightschool.workspace import Layout

BUSY_DELAY = 5.0
END_SECONDS = 30.0

log = logging.getLogger("nightschool.supervisor")


class Mending:
    """Looks after one trainer.

    Args:
        layout, ledger: the workspace.
        trainer: its keeper.
        hang_minutes: how long a step may take; 0 for ever.
        clock: monotonic seconds.
    """

    def __init__(
        self, layout: Layout, ledger: Ledger, trainer: Keeper, hang_minutes: float, clock: Callable[[], float]
    ) -> None:
        self.layout = layout
        self.ledger = ledger
        self.trainer = trainer
        self.limit = hang_minutes * 60
        self.clock = clock
        self._seen: object = None
        self._since = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._again_at = 0.0
        self._refused = 0
        self._at: list[int] | None = None
        self._blamed = 0
        self._learned = 0

    @property
    def busy(self) -> bool:
        """Whether a file is being set aside, or is to be: the trainer must not start before."""
        return self._thread is not None or self.trainer.blame is not None

    def tick(self, told: dict[str, Any]) -> None:
        """Look, and do the next thing; returns at once. `told`: what the trainer says of itself.

        Raises:
            StorageError: the ledger cannot be read; call again later.
        """
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            self._collect()
        if self.trainer.blame is not None and self.clock() >= self._again_at:
            self._blame(self.trainer.blame)
        self._watch(told)

    def end(self) -> None:
        """Wait a little for what is at work; cut off, the next start finishes it, or it was never begun."""
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def _watch(self, told: dict[str, Any]) -> None:
        child = self.trainer.child
        ours = told if told.get("pid") == child.pid else {}
        seen = (child.pid, ours.get("phase"), ours.get("step"), ours.get("file"))
        if seen != self._seen:
            self._seen, self._since = seen, self.clock()
        if not child.alive or child.asked:
            return
        why = policies.hangs(self.clock() - self._since, ours.get("phase"), self.limit)
        if why is not None:
            self.trainer.end(why)

    def _blame(self, why: str) -> None:
        learned = self.ledger.files.counts()["learned"]
        if learned > self._learned:
            self._blamed = 0
        self._learned = learned
        if self._at is None:
            self._at = self._files()
        elif not any(list(entry.file_ids) == self._at for entry in self.ledger.entries.all()):
            # Between two tries somebody went back or forgot it: what the trainer meets next is another place. Or the
            # disk refused behind the switch of the cut, and the next start does the rest.
            self._settled(all(self.ledger.files.get(file).state == "set_aside" for file in self._at))
            return
        files = self._at
        if not files or not policies.is_the_file(self._blamed):
            self._settled()
            if files:
                why += (
                    f". {self._blamed} files were set aside for such a thing already, one after the other, so it is "
                    "hardly the files: look at the machine and its libraries"
                )
            self.trainer.give_up(why, TrainingError.exit_code)
            return
        self._thread = threading.Thread(target=self._do, args=(files, why), name="set aside", daemon=True)
        self._thread.start()

    def _settled(self, blamed: bool = False) -> None:
        """Nothing is to be set aside any more."""
        self._blamed += blamed
        self.trainer.blame, self._at, self._refused = None, None, 0

    def _files(self) -> list[int]:
        """What the trainer said it was at when it began with it. To be asked once: a cut gives the place to others."""
        position = (self.ledger.machine.get("trainer") or {}).get("entry")
        try:
            return [] if position is None else list(self.ledger.entries.get(position).file_ids)
        except KeyError:
            return []

    def _do(self, files: list[int], why: str) -> None:
        try:
            plan = acts.set_aside(self.layout, files, why.rstrip("."), log.info)
            log.warning(
                "%s. The run goes on from step %d.", escape(plan.cut.what[:1].upper() + plan.cut.what[1:]), plan.then
            )
        except BaseException as error:  # told by the supervisor's own thread
            self._error = error

    def _collect(self) -> None:
        error, self._error = self._error, None
        if error is None:
            self._settled(blamed=True)
        elif isinstance(error, BusyError):
            self._again_at = self.clock() + BUSY_DELAY
        elif isinstance(error, StorageError):
            self._refused += 1
            delay = policies.backoff(self._refused, policies.STORAGE_DELAY, policies.LONGEST_STORAGE_DELAY)
            self._again_at = self.clock() + delay
            self.trainer.wait(f"the file it was at cannot be set aside yet: {error}", first=self._refused == 1)
        elif isinstance(error, NightschoolError):
            self._settled()
            self.trainer.give_up(f"the file it was at could not be set aside: {error}", error.exit_code)
        else:
            raise error
