"""The intake worker: takes what arrived, prepares what is archived a few files ahead of the trainer, and waits.

One step does one thing: `step` says what it did, so that the loop, and tests, can drive it without a clock.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import basemodel, durable, gathering, inforce
from nightschool.errors import DataError, NightschoolError, StorageError
from nightschool.intake import accept, rejected
from nightschool.intake.recipe import is_current
from nightschool.ledger.files import NOW, FileRow
from nightschool.ledger.ledger import Ledger
from nightschool.settings import Settings
from nightschool.words import escape, in_bytes
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.intake.tools import Tools

log = logging.getLogger(__name__)

AHEAD = 3
"""Files that are kept ready for the trainer."""

TRIES = 3
"""How often preparing a file may end the process before the file is rejected; and, counted apart, the whole machine."""

ATTEMPTS = "intake_attempts"
"""The machine row that counts them: {"running": the file being prepared, "files": {its number: [tries, restarts]}}.
A file whose taking takes long stands there too."""

SLOW_SECONDS = 5.0
"""A file that is being taken for so long is written down as running. Of most files it would double the work."""

TOLD = "intake"
"""The machine row for what others estimate with: settings that decide how many steps a file takes, and sizes."""


def count_restart(ledger: Ledger) -> None:
    """To be called when the whole machine starts, before any worker does.

    If it ended while a file was prepared, that end goes from the file's `tries`, which only ends that the supervisor
    survived are counted in, to its `restarts`. A power cut during the preparation of a good file costs it one of
    those; a file that takes the whole service down each time is rejected after TRIES of them.
    """
    with ledger.transaction():
        told = ledger.machine.get(ATTEMPTS) or {}
        running = told.get("running")
        if running is None:
            return
        tries, restarts = told["files"].get(str(running), (1, 0))
        files = {**told["files"], str(running): [max(0, tries - 1), restarts + 1]}
        ledger.machine.set(ATTEMPTS, {"running": None, "files": files})


def count_hang(ledger: Ledger) -> None:
    """To be called when a worker is ended because it hangs: one of its file's `tries` is gone.

    Preparing a file counts as a try when it begins. Taking it does not: who is stopped while a large file is copied
    over a slow network has met nothing that is the file's doing.
    """
    with ledger.transaction(), suppress(KeyError):
        told = ledger.machine.get(ATTEMPTS) or {}
        running = told.get("running")
        if running is None or ledger.files.get(running).state != "arrived":
            return
        tries, restarts = told["files"].get(str(running), (0, 0))
        files = {**told["files"], str(running): [tries + 1, restarts]}
        ledger.machine.set(ATTEMPTS, {"running": None, "files": files})


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
        following: inforce.Follower | None = None,
    ) -> None:
        self._layout = layout
        self._ledger = ledger
        self._settings = settings
        self._following = following or inforce.Follower(layout)
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
            # All in it can be made again, so people may have removed it.
            self._layout.prepared.mkdir(parents=True, exist_ok=True)
            durable.sweep(self._layout.prepared)
            self._recovered = True
            self._tell_settings()
        self._follow_settings()
        try:
            if not self._looked:
                self._send_back_outdated()
                self._clean()
                self._looked = True
            return self._urgent() or self._take() or self._prepare_next() or self._prepare_again()
        except Exception as error:
            # What was left half done is finished before anything else is begun.
            self._recovered = False
            if isinstance(error, OSError):
                raise StorageError(f"The disk refuses ({error}). Nothing is lost.", error.errno) from error
            raise

    def _urgent(self) -> str | None:
        """Prepare the file for which training is to be interrupted, before others are even taken in."""
        head = self._ledger.files.next_to_train()
        return self._prepare_next() if head and head.priority == NOW and head.state == "archived" else None

    def _take(self) -> str | None:
        row = self._ledger.files.next_to_take()
        if row is None:
            return None
        before = self._attempts(row)
        if before[0] >= TRIES:
            reason = f"taking it out of the inbox hung {before[0]} times; when it can be read there, drop it again"
            if accept.refuse(self._layout, self._ledger, row, reason):
                self._count(row, None)
                return "rejected"
        with self._told_if_slow(row, before):
            return accept.take(self._layout, self._ledger, row, self._today())

    @contextmanager
    def _told_if_slow(self, row: FileRow, attempts: tuple[int, int]) -> Iterator[None]:
        """Have the file stand in the ledger as running where the block takes long, and no more behind it."""
        lock, done, told = threading.Lock(), False, False

        def tell() -> None:
            nonlocal told
            with lock, suppress(NightschoolError):
                if not done:
                    self._count(row, attempts, running=True)
                    told = True

        timer = threading.Timer(SLOW_SECONDS, tell)
        timer.daemon = True
        timer.start()
        left: tuple[int, int] | None = attempts if any(attempts) else None
        try:
            yield
            left = None
        finally:
            timer.cancel()
            with lock:  # not waited for otherwise: there may be a hundred thousand files
                done = True
            if told or any(attempts):
                self._count(row, left)

    def _prepare_next(self) -> str | None:
        files = self._ledger.files
        # Nothing may be trained before the head of the queue: it is prepared however many are ready behind it.
        head = files.next_to_train()
        if head is None:
            return None
        row = head if head.state == "archived" else None
        if row is None and self._room_ahead():
            row = files.next_to_prepare()
        elif row is None:
            # Nor may the head while it is not known which small files begin with it.
            waiting = files.queue(limit=gathering.MOST_FILES + 1)
            row = gathering.awaited(waiting, self._settings.inbox.gather_rows)
        if row is None or row.state != "archived":
            return None
        tries, restarts = self._attempts(row)
        if max(tries, restarts) >= TRIES:
            reason = f"preparing it ended the intake process {tries} times"
            if restarts >= TRIES:
                reason = (
                    f"the whole machine ended {restarts} times while this file was prepared; perhaps memory ran out "
                    "(see `dmesg`). If it was the power, drop it again"
                )
            log.error("%s was rejected: %s", escape(row.name), reason)
            rejected.reject(self._layout, self._ledger, row, reason)
            self._count(row, None)
            return "rejected"
        outcome = self._prepare(row, None)
        if row.prepared is not None and not self._ledger.amounts.is_needed(row.prepared):
            # It was prepared before, under settings that nothing refers to any more.
            folder = self._layout.prepared / row.prepared
            size = size_below(folder)
            durable.remove_tree(folder)
            self._add_size(-size)
        return outcome

    def _follow_settings(self) -> None:
        """Take over settings that were accepted since the last step; what waits is looked at anew, as at a start."""
        settings = self._following.look()
        if settings is None:
            return
        self._settings, self._tools, self._looked = settings, None, False
        self._refused_again.clear()
        self._tell_settings()

    def _room_ahead(self) -> bool:
        """Whether more should be kept ready. Small files begin together, so only many of them are as much as one."""
        small, large = self._ledger.amounts.ready(self._settings.inbox.gather_rows, gathering.MOST_BYTES)
        return large < AHEAD and small < AHEAD * gathering.MOST_FILES

    def _prepare(self, row: FileRow, recipe: dict[str, Any] | None) -> str:
        from nightschool.intake import prepare

        # First, because it takes seconds: an end in them is not the file's doing, and must not count against it.
        tools = self._loaded()
        before = self._attempts(row)
        there = {folder.name for folder in self._layout.prepared.glob("*")}
        self._count(row, (before[0] + 1, before[1]), running=True)
        try:
            outcome = prepare.prepare(self._layout, self._ledger, tools, row, recipe, self._between)
        except Exception as error:
            # Only a process that dies, or an error nobody foresaw, counts against the file.
            if isinstance(error, Stopped | OSError | NightschoolError):
                self._count(row, before if any(before) else None)
            raise
        made = self._ledger.files.get(row.id).prepared
        with self._ledger.transaction():
            self._count(row, None)
            if made is not None and made not in there:
                self._add_size(size_below(self._layout.prepared / made))
        return outcome

    def _attempts(self, row: FileRow) -> tuple[int, int]:
        """How often preparing the file ended this process, and how often the whole machine."""
        tries, restarts = ((self._ledger.machine.get(ATTEMPTS) or {}).get("files") or {}).get(str(row.id), (0, 0))
        return int(tries), int(restarts)

    def _count(self, row: FileRow, attempts: tuple[int, int] | None, running: bool = False) -> None:
        """Put down a file's attempts; None forgets them."""
        with self._ledger.transaction():
            files = dict((self._ledger.machine.get(ATTEMPTS) or {}).get("files") or {})
            files.pop(str(row.id), None)
            if attempts is not None:
                files[str(row.id)] = list(attempts)
            if files or running:
                self._ledger.machine.set(ATTEMPTS, {"running": row.id if running else None, "files": files})
            else:
                self._ledger.machine.delete(ATTEMPTS)

    def _tell_settings(self) -> None:
        """Write down what others need to know of the settings to say how long the queue takes."""
        training = self._settings.training
        told = {**(self._ledger.machine.get(TOLD) or {}), "train_batch_size": training.train_batch_size}
        told |= {"epochs": training.epochs, "gather_rows": self._settings.inbox.gather_rows}
        self._ledger.machine.set(TOLD, told)

    def _clean(self) -> None:
        """Remove prepared data that no file refers to any more, and add up the rest."""
        needed = self._ledger.amounts.prepared_names()
        removed = freed = kept = 0
        for folder in sorted(self._layout.prepared.iterdir()):
            size = size_below(folder)
            if folder.name in needed or folder.name.startswith("."):
                kept += size
                continue
            durable.remove_tree(folder)
            removed, freed = removed + 1, freed + size
        if removed:
            log.info("Removed prepared data that is out of date: %d folders, %s", removed, in_bytes(freed))
        with self._ledger.transaction():
            self._ledger.machine.set(TOLD, {**(self._ledger.machine.get(TOLD) or {}), "prepared_bytes": kept})

    def _add_size(self, size: int) -> None:
        with self._ledger.transaction():
            told = self._ledger.machine.get(TOLD) or {}
            size = max(0, int(told.get("prepared_bytes", 0)) + size)
            self._ledger.machine.set(TOLD, {**told, "prepared_bytes": size})

    def _loaded(self) -> Tools:
        from nightschool.intake import tools

        if self._tools is None:
            # Imported where they are needed; that is slow once, and belongs to no file.
            import numpy  # noqa: F401
            import pyarrow  # noqa: F401

            with basemodel.waited_for(begun=self._ledger.entries.last() is not None):
                self._tools = tools.Tools(self._settings, self._layout.fingerprint_cache)
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
            if is_current(made, self._loaded().recipe(prepare.day_of(row), row.options)):
                continue
            with self._ledger.transaction():
                if files.get(row.id).state != "ready":
                    continue  # the trainer was faster; what it began with stays
                files.set_state(row.id, "archived")
            log.info("%s is prepared again: settings changed since it was prepared", escape(row.name))

    def _between(self) -> None:
        if self._stopping():
            raise Stopped

    def _prepare_again(self) -> str | None:
        """Prepare again what the trainer needs and someone removed."""
        files = self._ledger.files
        for state in ("training", "skipped", "trained", "ready"):
            for row in files.each(state):
                if row.prepared is None or (self._layout.prepared / row.prepared / durable.MANIFEST).exists():
                    continue
                if row.id in self._refused_again:
                    continue
                log.warning("the prepared data of %s is gone, and is made again", escape(row.name))
                try:
                    return self._prepare(row, self._frozen_recipe(row))
                except DataError as error:
                    self._refused_again.add(row.id)
                    self._ledger.events.add("data-changed", str(error), file=row.id)
                    log.error("%s", escape(error))
        return None

    def _frozen_recipe(self, row: FileRow) -> dict[str, Any] | None:
        """The data recipe in the file's entry; None where it has none, and today's settings apply."""
        entries = self._ledger.entries.of_file(row.id)
        return json.loads(entries[0].recipe)["data"] if entries else None


def size_below(folder: Path) -> int:
    """Bytes in the files below a folder; 0 where it is not there, or while it vanishes."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def lower_priority() -> None:
    """Leave the processor to the trainer: one thread, and only what others do not need."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.nice(5)
