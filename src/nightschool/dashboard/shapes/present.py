"""Shapes of the API: what the machine does, and what happened."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct


class Now(Struct, kw_only=True):
    """What the machine is doing at `at`; all fields of `nightschool status --json`, and how far the file is.

    `utc_offset` is what local time is ahead of UTC, in seconds. `file` is the number of the file in training (of
    several that are trained together, the first), `file_step` of its `file_steps` steps are done, and `file_seconds`
    are left of it. `generation` counts the cuts: where it changes, the curve is another one. `event` is the number of
    the newest event.
    """

    at: str
    utc_offset: int
    version: str
    status: dict[str, Any]
    file_step: int
    file_steps: int
    file_seconds: float | None
    generation: int
    event: int
    empty: bool
    file: int | None = None


class Event(Struct, kw_only=True):
    """Something that happened; the kinds are listed in docs/watching.md."""

    id: int
    at: str
    kind: str
    text: str
    fields: dict[str, Any]


class Events(Struct, kw_only=True):
    """Events in order. `next`: ask with `after` set to it for more; null where these are all."""

    events: list[Event]
    next: int | None


class EventsQuery(Struct, kw_only=True):
    """At most `limit` events after the one with number `after`; without it, the newest ones."""

    after: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 200
