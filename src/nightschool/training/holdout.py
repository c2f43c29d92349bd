"""What each file taught: the loss on rows of it that are never trained on, before its first step and after its last.

A measurement changes nothing of the run (law 1), is bounded in rows by what intake held out and in time by a setting,
and runs beside a save that is in flight. One that is interrupted is made at the next start, on the same state.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nightschool.errors import NightschoolError
from nightschool.intake.prepared import PreparedReader
from nightschool.ledger import HoldoutRow, Ledger
from nightschool.training import memory
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.curriculum import Entry
    from nightschool.training.loop import Loop

log = logging.getLogger("nightschool.trainer")


class Holdout:
    """Measures around entries.

    Args:
        loop: the model.
        ledger: where the losses are recorded.
        open_rows: gives the reader of a file's held-out rows, by the file's id; None where it has none.
        seconds: for one measurement, at most; 0 makes none. May be set anew at any time.
        stopping: whether the trainer was told to stop: a measurement is given up for that.
        clock: monotonic seconds.
    """

    def __init__(
        self, loop: Loop, ledger: Ledger, open_rows: Callable[[int], PreparedReader | None], *, seconds: float,
        stopping: Callable[[], bool], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._ledger = ledger
        self._open = open_rows
        self.seconds = seconds
        self._stopping = stopping
        self._clock = clock

    def before(self, position: int, entry: Entry) -> bool:
        """Measure before an entry's first step. False: told to stop on the way, so the step must not be taken."""
        if self.seconds == 0:
            return True
        end = self._clock() + self.seconds
        found = []
        for file_id in entry.file_ids:
            measured = self._measure(file_id, None, end)
            if measured is None:
                return False
            rows, tokens, loss = measured
            if rows:
                found.append(HoldoutRow(position, file_id, rows, tokens, loss, None))
        if found:
            self._ledger.holdouts.record(found)
        return True

    def after(self, position: int, entry: Entry) -> None:
        """Measure after an entry's last step, on the rows that were measured before, if that was not done yet."""
        known = {row.file_id: row for row in self._ledger.holdouts.at(position) if row.loss_after is None}
        found = []
        for row in (known[file_id] for file_id in entry.file_ids if file_id in known):
            # As many rows as before, without a limit in time: that limit made them so few.
            try:
                measured = self._measure(row.file_id, row.rows, math.inf)
            except NightschoolError:
                # A file that is learned is not prepared again for this alone, and nothing else needs its rows.
                name = self._ledger.files.get(row.file_id).name
                log.warning("What %s taught is not measured: its held-out rows cannot be read any more.", escape(name))
                continue
            if measured is None:
                return
            if measured[0]:  # it did not fit otherwise, which has been said
                found.append(
                    HoldoutRow(position, row.file_id, row.rows, row.label_tokens, row.loss_before, measured[2])
                )
        if not found:
            return
        with self._ledger.transaction():
            self._ledger.holdouts.record(found)
            for row in found:
                text = self._in_words(row)
                self._ledger.events.add("holdout", text, file=row.file_id, before=row.loss_before, after=row.loss_after)
                log.info("%s", escape(text))

    def _measure(self, file_id: int, rows: int | None, end: float) -> tuple[int, int, float | None] | None:
        """(rows, label tokens, mean loss) over the first held-out rows of a file; None when told to stop."""
        reader = self._open(file_id)
        if reader is None:
            return 0, 0, None
        with reader:
            done, tokens, total = 0, 0, 0.0
            wanted = len(reader) if rows is None else min(rows, len(reader))
            while done < wanted and self._clock() < end:
                if self._stopping():
                    return None
                cell = [reader.sequence(at)[:3] for at in range(done, min(done + self._loop.cell, wanted))]
                try:
                    total += self._loop.evaluate(cell)
                except (RuntimeError, MemoryError) as error:
                    if not memory.is_out(error):
                        raise
                    log.warning("What a file teaches is not measured: out of memory. Training goes on.")
                    return 0, 0, None
                tokens += sum(int(train.sum()) for _, train, _ in cell)
                done += len(cell)
        return done, tokens, total / tokens if tokens and math.isfinite(total) else None

    def _in_words(self, row: HoldoutRow) -> str:
        before, after = ("not finite" if x is None else f"{x:.3f}" for x in (row.loss_before, row.loss_after))
        rows = "1 row" if row.rows == 1 else f"{row.rows} rows"
        name = self._ledger.files.get(row.file_id).name
        return f"{name}: loss on {rows} held out of training: {before} before, {after} after."
