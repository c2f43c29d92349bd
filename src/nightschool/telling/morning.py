"""The night's summary: one for each local date. Pure.

Which date's summary is due is decided as for snapshots (`snapshots.due`): a set of settled dates, in which only
membership counts, so that clocks that are set, hours that come twice or never, and machines that were off neither
repeat a summary nor lose it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

from nightschool.snapshots import due
from nightschool.telling.message import Draft, files, listed
from nightschool.telling.policy import Memory, Night
from nightschool.words import duration


@dataclass(frozen=True)
class Figures:
    """Where the run stands.

    Attributes:
        word, reason: what the machine is doing.
        step: steps done.
        loss: mean of the last steps, None where there is none that is finite.
        tokens: tokens of the steps since the last summary.
        waiting: files that wait.
        seconds_left: time to learn them; None where it is not known.
    """

    word: str
    reason: str
    step: int
    loss: float | None
    tokens: int
    waiting: int
    seconds_left: float | None


def first(memory: Memory, now: datetime, at: str) -> None:
    """What is settled when telling begins: nothing is due before the next `at`."""
    memory.settled = due.to_row(due.first(now, at))


def is_due(memory: Memory, now: datetime, at: str) -> date | None:
    """The date whose summary is to be sent, or None."""
    found = due.due(now, at, due.from_row(memory.settled))
    return None if found is None else found.date


def settle(memory: Memory, day: date, figures: Figures, on: Collection[str]) -> Draft | None:
    """Settle this date, and begin the next night. Returns the summary; None where none is wanted."""
    draft = summary(memory, day, figures) if "morning" in on else None
    memory.settled = due.to_row(due.noted(due.from_row(memory.settled), day, "told"))
    memory.night = Night(step=figures.step, loss=figures.loss)
    return draft


def summary(memory: Memory, day: date, figures: Figures) -> Draft:
    """The summary in words, and for programs."""
    night = memory.night
    before = figures.step if night.step is None else night.step
    steps = figures.step - before
    lines = [_learned(night), _steps(before, figures)]
    if figures.loss is not None and steps > 0:
        was = "" if night.loss is None else f", {night.loss:.4g} before"
        lines.append(f"Loss: {figures.loss:.4g}{was}.")
    if night.rejected.count:
        lines.append(f"Rejected: {listed(night.rejected.lines, night.rejected.count)}")
    lines.append(f"Snapshots: {', '.join(night.snapshots.lines) or 'none'}.")
    if night.restarts:
        lines.append(f"Restarts after accidents: {night.restarts}.")
    lines.append(_trouble(memory))
    lines.append(_waiting(figures))
    lines.append(f"Now: {figures.word}{f' ({figures.reason})' if figures.reason else ''}.")
    fields = {
        "date": day.isoformat(),
        "learned": night.learned.count,
        "files": night.learned.lines,
        "rejected": night.rejected.count,
        "rejected_files": night.rejected.lines,
        "step": figures.step,
        "steps": steps,
        "tokens": figures.tokens,
        "loss": figures.loss,
        "loss_before": night.loss,
        "snapshots": night.snapshots.lines,
        "restarts": night.restarts,
        "trouble": night.trouble.lines,
        "trouble_open": [trouble.text for trouble in memory.troubles.values()],
        "waiting": figures.waiting,
        "seconds_left": figures.seconds_left,
        "state": figures.word,
        "reason": figures.reason,
    }
    what = f"{files(night.learned.count)} learned" if night.learned.count else "nothing learned"
    return Draft("morning", f"{day}: {what}", "\n".join(lines), fields)


def _learned(night: Night) -> str:
    if not night.learned.count:
        return "No file was learned."
    return f"Learned {files(night.learned.count)}: {listed(night.learned.lines, night.learned.count)}"


def _steps(before: int, figures: Figures) -> str:
    if figures.step < before:
        return f"The run stands at step {figures.step:,}; the last time it was {before:,}, so its past was changed."
    return f"Steps: {figures.step - before:,}, with {figures.tokens:,} tokens; the run stands at step {figures.step:,}."


def _trouble(memory: Memory) -> str:
    night, still = memory.night, [trouble.text for trouble in memory.troubles.values()]
    parts = []
    if night.trouble.count:
        parts.append(f"Trouble: {listed(night.trouble.lines, night.trouble.count)}")
    if still:
        parts.append(f"Not over yet: {listed(still, len(still))}")
    return "\n".join(parts) or "Trouble: none."


def _waiting(figures: Figures) -> str:
    if not figures.waiting:
        return "Nothing waits."
    left = "" if figures.seconds_left is None else f", about {duration(figures.seconds_left)} of training"
    return f"{files(figures.waiting)} wait{'s' if figures.waiting == 1 else ''}{left}."
