"""`nightschool.toml` while the machine runs: a change is taken once it has settled, and never half."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from nightschool import inforce, trackers
from nightschool.errors import SettingsError
from nightschool.ledger import Ledger
from nightschool.ledger.machine import SETTINGS_PROBLEM
from nightschool.settings import Settings
from nightschool.settings.changes import Change, changes, needs_restart
from nightschool.workspace import SETTINGS_NAME, Layout

SETTLE_SECONDS = 1.0
"""How long the file must have rested: editors write in several pieces."""

log = logging.getLogger("nightschool.supervisor")


@dataclass(frozen=True)
class Taken:
    """A change that was taken. `restart`: the trainer has to be started again for it."""

    settings: Settings
    changes: list[Change]
    restart: bool


class SettingsFile:
    """Looks after one workspace's file.

    Args:
        layout, ledger: the workspace.
        settings: what is in force; the file's bytes are kept as such at once.
        clock: monotonic seconds.

    Raises:
        SettingsError: the file is not as it should be: then nothing is started.
        StorageError: the disk refuses the copy.
    """

    def __init__(self, layout: Layout, ledger: Ledger, settings: Settings, clock: Callable[[], float]) -> None:
        self._layout = layout
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._seen = inforce.stamp(layout.settings_file)
        self._since: float | None = None
        self._data = layout.settings_file.read_bytes()
        self._told = True
        """Whether the change to `_data` has been told, and handed to whoever looks."""
        inforce.parse(layout, self._data)  # it may have been written to since it was read
        inforce.accept(layout, self._data)
        if ledger.machine.get(SETTINGS_PROBLEM) is not None:
            ledger.machine.delete(SETTINGS_PROBLEM)

    def look(self) -> Taken | None:
        """Take a change that has settled; None where there is none, or it cannot be taken, which is said once.

        Raises:
            StorageError: the disk refuses; the next look tries it again.
        """
        now = inforce.stamp(self._layout.settings_file)
        if now != self._seen:
            self._seen, self._since = now, self._clock()
        if self._since is None or self._clock() - self._since < SETTLE_SECONDS:
            return None
        try:
            data = self._layout.settings_file.read_bytes()
        except OSError as error:
            # Editors put a new file in the place of the old one: in between there is none. Each look tries it again,
            # since who may read a file is no part of its stamp.
            self._refuse(f"{SETTINGS_NAME} cannot be read: {error.strerror}.")
            return None
        taken = self._take(data)
        self._since = None
        return taken

    def _take(self, data: bytes) -> Taken | None:
        if data == self._data and self._told:
            self._is_good()
            return None
        try:
            new = inforce.parse(self._layout, data)
            trackers.check(new.trackers.report_to)
        except SettingsError as error:
            self._refuse(str(error))
            return None
        found = changes(self._settings, new)
        fixed = [change for change in found if change.kind == "run"]
        if not self._accept(data, bool(fixed)):
            self._refuse(
                f"{', '.join(str(change) for change in fixed)}: that is fixed for a run, which goes on with the old "
                "value. For a new run, `nightschool init NEW --from OLD` makes a workspace with other settings in "
                "which every archived file waits again, in order."
            )
            return None
        # Where the ledger refuses now, the next look goes through all of this once more.
        self._data, self._told = data, False
        self._is_good()
        text = "Settings changed: " + ", ".join(str(change) for change in found)
        if found:
            self._ledger.events.add("settings", f"{text}.", names=[change.name for change in found])
        self._settings, self._told = new, True
        if not found:
            return None
        log.info("%s.", text)
        return Taken(new, found, needs_restart(found))

    def _accept(self, data: bytes, fixed: bool) -> bool:
        """Keep the bytes of the file; False where that would change what is fixed, and the run has begun.

        The trainer may be about to begin the first file. It does so in a transaction too, and looks there whether what
        is fixed is still what it was: so one of both comes first.
        """
        with self._ledger.transaction() if fixed else nullcontext():
            if fixed and self._begun():
                return False
            inforce.accept(self._layout, data)
        return True

    def _begun(self) -> bool:
        root = self._ledger.machine.get("root") or {}
        return bool(root.get("adopted")) or self._ledger.entries.last() is not None

    def _refuse(self, why: str) -> None:
        text = f"{why.rstrip('.')}. Nothing in the file is taken until that is put right: the old settings stay."
        if self._ledger.machine.get(SETTINGS_PROBLEM) == text:
            return
        with self._ledger.transaction():
            self._ledger.machine.set(SETTINGS_PROBLEM, text)
            self._ledger.events.add("settings-refused", text)
        log.warning("%s", text)

    def _is_good(self) -> None:
        if self._ledger.machine.get(SETTINGS_PROBLEM) is not None:
            self._ledger.machine.delete(SETTINGS_PROBLEM)
            log.info("%s is as it should be again.", SETTINGS_NAME)
