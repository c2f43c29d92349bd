"""What the trainer tells about itself while it works: to other processes, and to whoever reads the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightschool.words import duration, escape

if TYPE_CHECKING:
    from nightschool.training.loop import StepResult

SAY_SECONDS = 60.0
EDGE = 10
"""Steps at the beginning and the end of a file whose mean loss is told."""


@dataclass
class Progress:
    """The ledger's machine row "trainer"; times are seconds."""

    phase: str = "loading"
    step: int = 0
    entry: int | None = None
    file: str | None = None
    file_step: int = 0
    file_steps: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    save_answered: str | None = None
    """The word with which a checkpoint was asked for, once it is there: see `snapshots.asking`."""


@dataclass
class Narrator:
    """Keeps `progress` up to date, and says a line about once a minute and at each file's end.

    Args:
        say: takes a line for the log.
        clock: monotonic seconds.
    """

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    progress: Progress = field(default_factory=Progress)
    _began: float = 0.0
    _said: float = 0.0
    _seconds_per_step: float | None = None
    _losses: list[float] = field(default_factory=list)

    def begin(self, file: str, steps: int) -> None:
        """A file is taken up, from its beginning or somewhere in it."""
        self.progress.file, self.progress.file_steps = file, steps
        self._began = self._said = self.clock()
        self._losses = []

    def note(self, result: StepResult, file_step: int) -> None:
        """A step was done; `file_step` counts from 1 within the file."""
        told = self.progress
        told.step, told.file_step = result.step, file_step
        told.loss, told.learning_rate = (result.loss if result.applied else None), result.learning_rate
        told.tokens_per_second = _smoothed(told.tokens_per_second, result.tokens / max(result.seconds, 1e-9))
        self._seconds_per_step = _smoothed(self._seconds_per_step, result.seconds)
        told.seconds_left = self._seconds_per_step * (told.file_steps - file_step)
        if result.applied:
            self._losses.append(result.loss)
        if result.ends_entry and file_step == told.file_steps:
            self._tell_end()
        elif self.clock() - self._said >= SAY_SECONDS:
            self._said = self.clock()
            share = file_step / max(told.file_steps, 1)
            self.say(
                f"{escape(told.file)}: step {file_step:,} of {told.file_steps:,} ({share:.0%}), "
                f"loss {result.loss:.3f}, {told.tokens_per_second:,.0f} tokens/s, "
                f"about {duration(told.seconds_left)} left."
            )

    def _tell_end(self) -> None:
        count, told = len(self._losses), self.progress
        steps = f"{count:,} steps" if count == told.file_steps else f"the last {count:,} of {told.file_steps:,} steps"
        line = f"Finished {escape(told.file)}: {steps} in {duration(self.clock() - self._began)}"
        if count >= 2 * EDGE:
            first, last = (sum(part) / EDGE for part in (self._losses[:EDGE], self._losses[-EDGE:]))
            line += f", loss {first:.3f} over its first {EDGE} steps, {last:.3f} over its last {EDGE}"
        self.say(line + ".")


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else 0.9 * before + 0.1 * now
