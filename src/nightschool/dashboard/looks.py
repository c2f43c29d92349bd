"""What the machine is doing now, what happened lately, and what waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

import msgspec

from nightschool import __version__, forecast, hours
from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.forecast import Rates, Work
from nightschool.ledger import EventRow, Ledger
from nightschool.record import read_generation
from nightschool.status import progress_of, status_of
from nightschool.workspace import Layout

SHARE = 50.0
"""A look at all that waits takes at most so small a part of the time: one of 0.1 s is made every 5 s."""
LONGEST = 15.0
"""Seconds that such a look counts, at most."""


class WaitingWork:
    """What all waiting files take, remembered: with a hundred thousand of them it takes a tenth of a second to tell.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._work: Work | None = None
        self._made_at = self._took = 0.0

    def __call__(self, ledger: Ledger, rates: Rates) -> Work:
        """As `forecast.work_waiting`; as old as it may be for how long it takes, and with a short queue never old."""
        began = self._clock()
        if self._work is None or began - self._made_at >= min(LONGEST, SHARE * self._took):
            self._work = forecast.work_waiting(ledger, rates)
            self._made_at = self._clock()
            self._took = self._made_at - began
        return self._work


_remembered: WeakKeyDictionary[Ledger, WaitingWork] = WeakKeyDictionary()


def waiting_of(ledger: Ledger) -> WaitingWork:
    """What is remembered of what waits in this ledger."""
    return _remembered.setdefault(ledger, WaitingWork())


def now_of(layout: Layout, ledger: Ledger, at: datetime | None = None) -> shapes.Now:
    """What the machine is doing. A few milliseconds, however long the history and the queue are: asked every second.

    Args:
        layout, ledger: the workspace.
        at: an aware local time; the present if not given.

    Raises:
        NightschoolError: the ledger cannot be read, or the generation beside it.
    """
    at = at or hours.local_now()
    status = status_of(layout, ledger, waiting_of(ledger))
    unfinished = ledger.entries.unfinished(status.step, 1)
    progress = progress_of(status, unfinished, ledger.machine.get("trainer") or {})
    counts = (status.queued, status.learned, status.rejected, status.duplicates, status.set_aside)
    return shapes.Now(
        at=at.astimezone(UTC).isoformat(timespec="milliseconds"),
        utc_offset=round((at.utcoffset() or timedelta()).total_seconds()),
        version=__version__,
        status=status.to_dict(),
        file=unfinished[0][0].file_ids[0] if unfinished else None,
        file_step=progress.step,
        file_steps=progress.steps,
        file_seconds=progress.seconds,
        generation=read_generation(layout),
        event=ledger.events.newest(),
        empty=not status.step and not any(counts) and not ledger.files.newest(limit=1),
    )


def event_of(row: EventRow) -> shapes.Event:
    """An event as the page gets it."""
    return shapes.Event(id=row.id, at=row.at, kind=row.kind, text=row.text, fields=row.fields)


def events_of(ledger: Ledger, after: int | None, limit: int) -> shapes.Events:
    """Up to `limit` events after the one with that number, or the newest ones."""
    if after is None:
        return shapes.Events(events=[event_of(row) for row in ledger.events.latest(limit)], next=None)
    rows = ledger.events.since(after, limit + 1)
    more = len(rows) > limit
    return shapes.Events(events=[event_of(row) for row in rows[:limit]], next=rows[limit - 1].id if more else None)


def queue_of(ledger: Ledger, limit: int) -> shapes.Queue:
    """The first files of the queue, and what all of it comes to."""
    found = forecast.queue_of(ledger, limit, waiting_of(ledger), most_begun=limit)
    return msgspec.convert({**found.to_dict(), "files": [asdict(one) for one in found.files[:limit]]}, shapes.Queue)


async def now(call: Call) -> shapes.Now:
    """GET /api/now."""
    layout = call.services.layout
    return await call.services.reader.read(lambda ledger: now_of(layout, ledger))


async def events(call: Call) -> shapes.Events:
    """GET /api/events."""
    query: shapes.EventsQuery = call.query
    return await call.services.reader.read(lambda ledger: events_of(ledger, query.after, query.limit))


async def queue(call: Call) -> shapes.Queue:
    """GET /api/queue."""
    query: shapes.QueueQuery = call.query
    return await call.services.reader.read(lambda ledger: queue_of(ledger, query.limit))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/api/now", "What the machine is doing now", now, shapes.Now, tag="now"),
    Endpoint(
        "GET", "/api/events", "What happened", events, shapes.Events, query=shapes.EventsQuery, tag="now",
    ),
    Endpoint(
        "GET", "/api/queue", "What waits, and how long it takes", queue, shapes.Queue, query=shapes.QueueQuery,
        tag="queue",
    ),
)  # fmt: skip
