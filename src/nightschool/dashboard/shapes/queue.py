"""Shapes of the API: what waits, and what can be done about it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nightschool.dashboard.shapes.basics import Id


class Waiting(Struct, kw_only=True):
    """A file that waits or is in training; `state` is that of the file, or `again` for one to train after a cut."""

    id: int
    name: str
    state: str
    priority: str
    bytes: int | None
    rows: int | None
    steps: int | None
    seconds: float | None
    estimated: bool


class Queue(Struct, kw_only=True):
    """The first files of the queue, and what all of it comes to."""

    files: list[Waiting]
    waiting: int
    steps: int | None
    seconds: float | None
    estimated: bool


class QueueQuery(Struct, kw_only=True):
    """The first `limit` files."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class Move(Struct, kw_only=True):
    """Move a waiting file: to the head, to the end, or before `other`."""

    file: Id
    where: Literal["first", "last", "before"]
    other: Id | None = None


class Prioritise(Struct, kw_only=True):
    """Give waiting files another priority; `now` interrupts the file in training."""

    files: Annotated[list[Id], Meta(min_length=1, max_length=1000)]
    priority: Literal["now", "high", "normal", "low"]


class Chosen(Struct, kw_only=True):
    """Files, by number."""

    files: Annotated[list[Id], Meta(min_length=1, max_length=1000)]


class Pause(Struct, kw_only=True):
    """For so many seconds; until it is resumed, if not given."""

    seconds: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None


class Skip(Struct, kw_only=True):
    """The file in training goes behind all that waits; with `shelve` it is set aside.

    `file` is its number, as `now` has it: where another one is in training meanwhile, nothing is done.
    """

    shelve: bool = False
    file: Id | None = None
