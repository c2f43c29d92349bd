"""The job `track`: tells experiment trackers the curve that is in the ledger, in a process of its own.

It only reads what is durable, from where its cursor stands, so a tracker that is slow or away never touches training
and misses nothing. Each tracker has a cursor of its own, in `.nightschool/trackers/`; `cursor` has the rule for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import durable, inforce, logs
from nightschool.errors import NightschoolError, StorageError
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.trackers import TITLES
from nightschool.training import cursor as curves
from nightschool.training import destinations
from nightschool.training.cursor import Cursor, Span
from nightschool.training.stopping import Stop
from nightschool.words import without_passwords
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from nightschool.ledger import StepRow

POLL_SECONDS = 1.0
SAVE_SECONDS = 10.0
"""How often the cursor is written, at most, while nothing but steps is told."""
FIRST_DELAY = 5.0
LONGEST_DELAY = 600.0
LAST_SECONDS = 20.0
"""Time to catch up once the machine has stopped, at most; opening a tracker takes some seconds of it."""
PAGE = 200

log = logging.getLogger("nightschool.tracker")


class Book:
    """The run's history as spans of steps, read again only when it has changed."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.spans: list[Span] = []
        self._revision: int | None = None

    def look(self) -> None:
        """Read it again if it was rewritten."""
        if not self.current():
            self._read()

    def current(self) -> bool:
        """Whether it was not rewritten since it was read."""
        return self.ledger.entries.revision() == self._revision

    def span_of(self, step: int) -> Span | None:
        """What a step is of; None where that is not known, or the history was rewritten since it was looked at."""
        found = curves.span_of(step, self.spans)
        if found is None:
            before = self._revision
            self._read()  # a file began since
            found = curves.span_of(step, self.spans) if self._revision == before else None
        return found

    def _read(self) -> None:
        while True:
            self._revision = self.ledger.entries.revision()
            self.spans = curves.spans(self.ledger.entries.all())
            if self.current():
                return

    def called(self, span: Span) -> str:
        """What people call a span's data."""
        try:
            return self.ledger.called(span.file_ids)
        except KeyError:
            return "a file that is forgotten"


class Reporter:
    """Tells one tracker.

    Args:
        name: the tracker, as in `trackers.report_to`.
        layout: the workspace.
        settings: its settings.
        book: its history.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, layout: Layout, settings: Settings, book: Book, clock: Callable[[], float]) -> None:
        self.name = name
        self.title = TITLES[name]
        self._layout = layout
        self._settings = settings
        self._book = book
        self._ledger = book.ledger
        self._clock = clock
        self._path: Path = layout.cursors / f"{name}.json"
        self._cursor = self._load()
        self._saved_at = clock()
        self._tracker: GeneralTracker | None = None
        self._failures = 0
        self._not_before = 0.0

    @property
    def cursor(self) -> Cursor:
        """How far the tracker has been told."""
        return self._cursor

    def tend(self) -> bool:
        """Tell a page of what is new; whether there may be more. A tracker that refuses is tried again later.

        Raises:
            StorageError: the ledger cannot be read, or the cursor not be written.
        """
        if self._clock() < self._not_before:
            return False
        try:
            more = self._round()
        except NightschoolError:
            raise
        except Exception as error:  # whatever a tracker's library raises
            self._refused(error)
            return False
        if self._failures:
            log.info("%s takes the curve again.", self.title)
            self._failures = 0
        return more

    def close(self) -> bool:
        """Remember how far it was told, and let the tracker finish; whether it was open."""
        if self._tracker is None:
            return False
        try:
            self._save()
        finally:
            tracker, self._tracker = self._tracker, None
            tracker.finish()
        return True

    def _refused(self, error: Exception) -> None:
        if not self._failures:
            why = without_passwords(" ".join(str(error).split())) or "no reason given"
            log.warning(
                "%s does not take the curve: %s (%s). Nothing is lost: it is tried again by itself, and training "
                "goes on.", self.title, why, type(error).__name__,
            )  # fmt: skip
        self._failures += 1
        self._not_before = self._clock() + min(FIRST_DELAY * 2.0 ** min(self._failures - 1, 30), LONGEST_DELAY)
        with contextlib.suppress(Exception):  # it is in trouble already
            self.close()
        self._tracker = None

    def _round(self) -> bool:
        self._book.look()
        same = curves.common(self._cursor, self._book.spans)
        if same < self._cursor.step:
            self._take_back(same)
        rows = self._ledger.steps.range(self._cursor.step + 1, sys.maxsize, PAGE)
        if not self._book.current():
            return True  # these rows may be of another history than the spans
        measured = None if rows else self._measured_last()
        if (rows or measured) and self._tracker is None:
            self._open()
            return True  # the cursor may stand elsewhere now
        for row in rows:
            if not self._tell(row):
                return False
        if measured is not None:
            self._settle(measured)
        if rows and self._clock() - self._saved_at >= SAVE_SECONDS:
            self._save()
        return bool(rows)

    def _take_back(self, step: int) -> None:
        """The history was changed behind `step`: let the tracker forget what it was told of that."""
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            tracker.finish()
        if self.name in destinations.PURGES:
            self._cursor = self._cursor.back_to(step)
            self._save()
            self._open()
        else:
            self._cursor = self._cursor.anew()
            self._save()
            log.info("The history was changed: %s goes on in a new run, %s.", self.title, self._cursor.title)

    def _tell(self, row: StepRow) -> bool:
        span = self._book.span_of(row.step)
        if span is None:
            return False
        self._settle(span.first - 1)
        values = curves.curve(row)
        if not self._cursor.knows(span):  # its first step, or the first that has a row
            values["file/number"] = span.position + 1
            before = curves.mean(self._ledger.holdouts.at(span.position), "loss_before")
            if before is not None:
                values["holdout/before"] = before
            if self.name not in destinations.TEXTLESS:
                values["file/name"] = self._book.called(span)
        self._log(values, row.step)
        self._cursor = self._cursor.reported(row.step, span)
        return True

    def _measured_last(self) -> int | None:
        """The step at which the newest file ends, once all is told of it but what it has taught, and that is there.

        A file that has a successor needs no such look: by then its measurement is over.
        """
        span = curves.span_of(self._cursor.step, self._book.spans)
        if span is None or self._cursor.step != span.last or self._cursor.settled >= span.last:
            return None
        rows = self._ledger.holdouts.at(span.position)
        return span.last if rows and all(row.loss_after is not None for row in rows) else None

    def _settle(self, step: int) -> None:
        """Tell what the files that end up to `step` have taught, at their last steps."""
        ended = [span for span in self._book.spans if self._cursor.settled < span.last <= step]
        for span in ended:
            after = curves.mean(self._ledger.holdouts.at(span.position), "loss_after")
            if after is not None:
                self._log({"holdout/after": after}, span.last)
        if ended:
            self._cursor = replace(self._cursor, settled=ended[-1].last)
            self._save()

    def _log(self, values: dict[str, Any], step: int) -> None:
        assert self._tracker is not None
        self._tracker.log(values, step=step)

    def _open(self) -> None:
        if self.name in destinations.PURGES:
            # An earlier process may have told what a file taught, without having been able to note that.
            span = curves.span_of(self._cursor.step, self._book.spans)
            if span is not None and self._cursor.step == span.last > self._cursor.settled:
                self._cursor = self._cursor.back_to(span.last - 1)
        project = self._settings.trackers.project
        tracker, self._cursor = destinations.open_tracker(self.name, self._layout, project, self._cursor)
        self._tracker = tracker
        self._save()
        if not self._cursor.configured:
            if self.name != "tensorboard":  # which would make a run of its own of them
                tracker.store_init_configuration(configuration(self._settings))
            self._cursor = replace(self._cursor, configured=True)
            self._save()

    def _load(self) -> Cursor:
        try:
            return Cursor.from_json(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return destinations.fresh(self._layout)
        except ValueError:
            log.warning("%s is damaged: %s gets a new run, with the whole curve.", self._path, self.title)
            return destinations.fresh(self._layout)

    def _save(self) -> None:
        durable.make_dirs(self._path.parent)
        durable.write_file(self._path, self._cursor.to_json())
        self._saved_at = self._clock()


def configuration(settings: Settings) -> dict[str, str | int | float]:
    """What a tracker is told about a run once."""
    model, training = settings.model, settings.training
    return {
        "model": model.name, "method": training.method, "optimizer": training.optimizer, "seed": training.seed,
        "train_batch_size": training.train_batch_size, "learning_rate": training.learning_rate,
        "max_length": settings.data.max_length,
    }  # fmt: skip


def follow(reporters: Sequence[Reporter], stop: Stop, clock: Callable[[], float] = time.monotonic) -> None:
    """Tell what is new until told to stop; then catch up for some seconds, and let the trackers finish."""
    told = ""
    end: float | None = None
    while end is None or clock() < end:
        stopping = stop.is_set()
        if stopping and end is None:
            end = clock() + LAST_SECONDS
        more = False
        try:
            for reporter in reporters:
                more = reporter.tend() or more
            told = ""
        except StorageError as error:
            if str(error) != told:
                log.error("%s The trackers wait.", error)
                told = str(error)
        if stopping and not more:
            break
        if not more:
            stop.wait(POLL_SECONDS)
    for reporter in reporters:
        try:
            if reporter.close():
                destinations.leave(reporter.name)
        except Exception as error:  # a tracker's library, or a full disk: the rest is told at the next start
            log.warning("%s did not finish: %s (%s).", reporter.title, error, type(error).__name__)


def work(layout: Layout, lifeline: int | None) -> int:
    """Be the process; returns the exit code."""
    # Neither the trackers nor Accelerate are to take a piece of the GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.nice(19)
    stop = Stop()
    stop.listen(lifeline)
    try:
        layout.require()
        settings = inforce.read(layout)
        logs.setup(layout, settings, "tracker")
        with durable.Lock(layout.tracker_lock, "the tracker"), Ledger.open(layout.ledger) as ledger:
            book = Book(ledger)
            names = dict.fromkeys(settings.trackers.report_to)
            follow([Reporter(name, layout, settings, book, time.monotonic) for name in names], stop)
    except NightschoolError as error:
        log.error("%s", error)
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0
