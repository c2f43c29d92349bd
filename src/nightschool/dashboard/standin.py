"""Stand-in until the real one: only what the stream needs."""

from __future__ import annotations

from datetime import UTC, datetime

from nightschool import __version__
from nightschool.dashboard.shapes import Curve, Event, Events, Now
from nightschool.ledger import Ledger
from nightschool.record import read_generation
from nightschool.status import status_of
from nightschool.workspace import Layout


def now_of(layout: Layout, ledger: Ledger) -> Now:
    """What the machine is doing."""
    latest = ledger.events.latest(1)
    return Now(
        at=datetime.now(UTC).isoformat(),
        utc_offset=0,
        version=__version__,
        status=status_of(layout, ledger).to_dict(),
        file_step=0,
        file_steps=0,
        file_seconds=None,
        generation=read_generation(layout),
        event=latest[-1].id if latest else 0,
        empty=False,
    )


def events_after(ledger: Ledger, after: int, limit: int) -> Events:
    """Events."""
    found = ledger.events.since(after, limit)
    return Events(
        events=[Event(id=one.id, at=one.at, kind=one.kind, text=one.text, fields=one.fields) for one in found],
        next=None,
    )


def steps_between(ledger: Ledger, first: int, last: int) -> Curve:
    """Steps."""
    rows = ledger.steps.range(first, last)
    nothing = [None for _ in rows]
    return Curve(
        first=first, last=last, span=1, generation=0, steps_done=last, step=[row.step for row in rows],
        tokens=[row.tokens for row in rows], hours=[0.0 for _ in rows], loss=[row.loss for row in rows],
        loss_min=[row.loss for row in rows], loss_max=[row.loss for row in rows], smooth=list(nothing),
        bad=[0 for _ in rows], learning_rate=[row.learning_rate for row in rows], grad_norm=list(nothing),
        grad_norm_max=list(nothing), tokens_per_second=list(nothing),
    )  # fmt: skip
