"""The rehearsal as the doctor tells it, and when tonight's queue will be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from nightschool import forecast, hours, trainingjobs
from nightschool.checkup.finding import Finding
from nightschool.errors import NightschoolError
from nightschool.forecast import Rates, Work
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.words import duration, in_bytes
from nightschool.workspace import Layout

FULL = 0.92
"""Share of a GPU's memory from which on there is little left for what else may come."""
NOT_MADE = Finding(
    "rehearsal", "note", "not made",
    "`nightschool doctor --rehearse` makes a step of full size, a save and a load; it takes a minute or a few.",
)  # fmt: skip


def rehearse(layout: Layout) -> tuple[Mapping[str, Any] | None, str]:
    """Rehearse in a child process that has torch; the fields of its Rehearsal, or None and what it said."""
    try:
        return trainingjobs.run(layout, "rehearse"), ""
    except NightschoolError as error:
        return None, str(error)


def findings(result: Mapping[str, Any] | None, said: str) -> Iterator[Finding]:
    """What the rehearsal found, and what it means for the night."""
    if result is None:
        yield Finding("rehearsal", "bad", said, "" if "`" in said else "Training would stop there, too.")
        return
    yield Finding(
        "rehearsal", "good",
        f"from {result['began_with']} on {result['device']}: a step of {result['batch']} x {result['max_length']:,} "
        f"tokens in {result['seconds_step']:.2g} s ({result['tokens_per_second']:,.0f} tokens/s); saved in "
        f"{result['seconds_save']:.2g} s ({in_bytes(result['checkpoint_bytes'])}), taken up again in "
        f"{result['seconds_load']:.2g} s, and equal to the last bit",
    )  # fmt: skip
    peak, total = result["memory_peak"], result["memory_total"]
    found = f"at most {in_bytes(peak)}" + (f" of {in_bytes(total)}" if total else "")
    if result["micro_batch_size"] < result["micro_batch_asked"]:
        yield Finding(
            "memory", "note", f"{found}, and only with {result['micro_batch_size']} sequences at a time",
            f"Set training.micro_batch_size = {result['micro_batch_size']}: it is found by itself, at a cost in time.",
        )  # fmt: skip
    elif total and peak > FULL * total:
        yield Finding("memory", "note", found, "Little is left: lower training.micro_batch_size, or data.max_length.")
    else:
        yield Finding("memory", "good", found)


def queue_done(layout: Layout, settings: Settings, result: Mapping[str, Any] | None, now: datetime) -> Finding:
    """When what waits will be learned.

    Args:
        layout, settings: the workspace.
        result: of the rehearsal, whose speed is taken where no steps were measured yet.
        now: the wall clock here, with its zone.
    """
    try:
        with Ledger.open(layout.ledger) as ledger:
            told = ledger.machine.all()
            rates = with_speed(forecast.read_rates(ledger, told), settings, result)
            work = forecast.together(forecast.work_begun(ledger, rates, told), forecast.work_waiting(ledger, rates))
    except NightschoolError as error:
        return Finding("tonight", "bad", f"the queue cannot be looked at: {error}")
    found = done_near(work, now, settings.machine.hours)
    lying = _lying(layout)
    if not lying:
        return found
    files = f"{lying:,} {'file' if lying == 1 else 'files'} in inbox/ {'is' if lying == 1 else 'are'} not read yet"
    told = files if work.steps == 0 else f"{found.found}, and {files}"
    return Finding(
        "tonight", "note", told, found.advice or "What they take is known once `nightschool run` has read them."
    )


def _lying(layout: Layout) -> int:
    """Files in the inbox that nobody has taken in; hidden ones are not meant to be."""
    parts = (path.relative_to(layout.inbox).parts for path in layout.inbox.rglob("*") if path.is_file())
    return sum(1 for names in parts if not any(name.startswith(".") for name in names))


def with_speed(rates: Rates, settings: Settings, result: Mapping[str, Any] | None) -> Rates:
    """`rates`, with what the rehearsal measured where nothing else did."""
    if rates.batch is None:
        rates = replace(rates, batch=settings.training.train_batch_size)
    if result is None or rates.speed is not None:
        return rates
    return replace(rates, speed=result["tokens_per_second"], step_seconds=rates.step_seconds or result["seconds_step"])


def done_near(work: Work, now: datetime, open: str) -> Finding:
    """The same for work that is known; `open` is machine.hours."""
    if work.steps == 0:
        return Finding("tonight", "good", "nothing waits: drop files into inbox/")
    if work.seconds is None:
        return Finding(
            "tonight", "note", "how long the queue takes is not known yet",
            "It is after the first steps; or now, with --rehearse, once the first file is prepared.",
        )  # fmt: skip
    steps = f"{work.steps:,} {'step' if work.steps == 1 else 'steps'}, " if work.steps else ""
    about = f"{steps}about {duration(work.seconds)}"
    within = f" within {open}" if open else ""
    end = hours.finish(now, work.seconds, hours.parse(open))
    if end is None:
        return Finding(
            "tonight", "note", f"{about}: no end can be told{within}", "Give it more hours, or less to learn."
        )
    return Finding("tonight", "good", f"{about}: done near {hours.in_words(end, now)}{within}")
