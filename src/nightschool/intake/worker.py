"""The intake worker: takes what arrived, prepares what is archived a few files ahead of the trainer, and waits.

One step does one thing: `step` says what it did, so that the loop, and tests, can drive it without a clock.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightschool import durable
from nightschool.errors import DataError, NightschoolError, StorageError
from nightschool.intake import accept, rejected
from nightschool.intake.recipe import is_current
from nightschool.ledger.files import FileRow
from nightschool.ledger.ledger import Ledger
from nightschool.settings import Settings
from nightschool.words import escape
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.intake.prepare import Tools

log = logging.getLogger(__name__)

AHEAD = 3
"""Files that are kept ready for the trainer."""

TRIES = 3
"""How often preparing a file may end the process before the file is rejected."""

ATTEMPT = "intake_attempt"
"""The machine row that counts them. A new supervisor deletes it: only ends that it survived are the file's doing."""


class Stopped(Exception):
    """The worker was asked to stop in the middle of a file; what it did of it is gone."""


class Worker:
    """Takes and prepares files, one step at a time. Holds the tokenizer once the first file needed it."""

    def __init__(
        self,
        layout: Layout,
        ledger: Ledger,
        settings: Settings,
        *,
        stopping: Callable[[], bool] = lambda: False,
        today: Callable[[], str] = lambda: time.strftime("%Y-%m-%d"),
    ) -> None:
        self._layout = layout
        self._ledger = ledger
        self._settings = settings
        self._stopping = stopping
        self._today = today
        self._tools: Tools | None = None
        self._recovered = False
        self._looked = False
        self._refused_again: set[int] = set()

    def step(self) -> str | None:
        """Do the next thing there is to do and name it; None if there is nothing.

        Raises:
            StorageError: the disk refuses; call again later.
            Stopped: `stopping` turned true in the middle of a file.
            NightschoolError: something only the user can put right.
        """
        if not self._recovered:
            accept.recover(self._layout, self._ledger)
            durable.sweep(self._layout.prepared)
            self._recovered = True
        try:
            if not self._looked:
                self._send_back_outdated()
                self._looked = True
            return self._take() or self._prepare_next() or self._prepare_again()
        except Exception as error:
            # What was left half done is finished before anything else is begun.
            self._recovered = False
            if isinstance(error, OSError):
                raise StorageError(f"The disk refuses ({error}). Nothing is lost.", error.errno) from error
            raise

    def _take(self) -> str | None:
        row = self._ledger.files.next_to_take()
        if row is None:
            return None
        return accept.take(self._layout, self._ledger, row, self._today())

    def _prepare_next(self) -> str | None:
        files = self._ledger.files
        # Nothing may be trained before the head of the queue: it is prepared however many are ready behind it.
        head = files.next_to_train()
        if head is None:
            return None
        row = head if head.state == "archived" else None
        if row is None and len(files.listing("ready", limit=AHEAD)) < AHEAD:
            row = files.next_to_prepare()
        if row is None:
            return None
        tries = self._tries(row)
        if tries >= TRIES:
            reason = f"preparing it ended the intake process {tries} times"
            log.error("%s was rejected: %s", escape(row.name), reason)
            rejected.reject(self._layout, self._ledger, row, reason)
            self._ledger.machine.delete(ATTEMPT)
            return "rejected"
        return self._prepare(row, None, tries)

    def _prepare(self, row: FileRow, recipe: dict[str, Any] | None, tries: int) -> str:
        from nightschool.intake import prepare

        self._ledger.machine.set(ATTEMPT, {"file": row.id, "tries": tries + 1})
        try:
            outcome = prepare.prepare(self._layout, self._ledger, self._loaded(), row, recipe, self._between)
        except Exception as error:
            # Only a process that dies, or an error nobody foresaw, counts against the file.
            if isinstance(error, Stopped | OSError | NightschoolError):
                self._ledger.machine.set(ATTEMPT, {"file": row.id, "tries": tries})
            raise
        self._ledger.machine.delete(ATTEMPT)
        return outcome

    def _loaded(self) -> Tools:
        from nightschool.intake import prepare

        if self._tools is None:
            self._tools = prepare.Tools(self._settings, self._layout.fingerprint_cache)
        return self._tools

    def _send_back_outdated(self) -> None:
        """Have files prepared again whose settings, tokenizer or template changed before their training began."""
        files = self._ledger.files
        for row in list(files.each("ready")):
            from nightschool.intake import prepare

            folder = self._layout.prepared / (row.prepared or "")
            if not (folder / durable.MANIFEST).exists():
                continue  # `_prepare_again` sees to it, under today's recipe too
            try:
                made = prepare.read_meta(folder).get("recipe", {})
            except DataError:
                made = {}  # preparing it again looks closer, and mends
            if is_current(made, self._loaded().recipe(prepare.day_of(row))):
                continue
            with self._ledger.transaction():
                if files.get(row.id).state != "ready":
                    continue  # the trainer was faster; what it began with stays
                files.set_state(row.id, "archived")
            log.info("%s is prepared again: settings changed since it was prepared", escape(row.name))

    def _tries(self, row: FileRow) -> int:
        attempt = self._ledger.machine.get(ATTEMPT) or {}
        return int(attempt["tries"]) if attempt.get("file") == row.id else 0

    def _between(self) -> None:
        if self._stopping():
            raise Stopped

    def _prepare_again(self) -> str | None:
        """Prepare again what the trainer needs and someone removed."""
        files = self._ledger.files
        for state in ("training", "trained", "ready"):
            for row in files.each(state):
                if row.prepared is None or (self._layout.prepared / row.prepared / durable.MANIFEST).exists():
                    continue
                if row.id in self._refused_again:
                    continue
                log.warning("the prepared data of %s is gone, and is made again", escape(row.name))
                try:
                    return self._prepare(row, self._frozen_recipe(row), 0)
                except DataError as error:
                    self._refused_again.add(row.id)
                    self._ledger.events.add("data_changed", str(error), file=row.id)
                    log.error("%s", escape(error))
        return None

    def _frozen_recipe(self, row: FileRow) -> dict[str, Any] | None:
        """The data recipe in the file's entry; None where it has none, and today's settings apply."""
        for entry in self._ledger.entries.all():
            if entry.file_id == row.id:
                return json.loads(entry.recipe)["data"]
        return None


def lower_priority() -> None:
    """Leave the processor to the trainer: one thread, and only what others do not need."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.nice(5)
