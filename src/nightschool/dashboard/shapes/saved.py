"""Shapes of the API: saved states, going back to one, and forgetting."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nightschool.dashboard.shapes.basics import Id, Text


class Checkpoint(Struct, kw_only=True):
    """A checkpoint. `own_bytes` is what removing it would free, `shared_bytes` what snapshots have of it too.

    `there`: whether its folder is on the disk. `seconds`: how long the save took; training stood still for `stalled`.
    """

    step: int
    generation: int
    state: str
    reason: str | None
    written_at: str
    there: bool
    own_bytes: int | None
    shared_bytes: int | None
    seconds: float
    stalled: float
    verified_at: str | None


class Snapshot(Struct, kw_only=True):
    """A snapshot. `keep` and `why` are what retention will do with it; `problem` is what is wrong with it."""

    name: str
    kind: str
    step: int
    generation: int
    taken_at: str
    file: str | None
    own_bytes: int
    shared_bytes: int
    problem: str | None
    keep: bool
    why: str
    verified_at: str | None


class Saved(Struct, kw_only=True):
    """All states that can be gone back to, newest first. `undo`: whether the last change of the past can be undone."""

    checkpoints: list[Checkpoint]
    snapshots: list[Snapshot]
    undo: bool
    next_snapshot: str | None
    second_place: str | None


class Rollback(Struct, kw_only=True):
    """Where to: a step, a snapshot's name, `latest` or `undo`; `later`: what becomes of what was learned after it."""

    to: Annotated[str, Meta(min_length=1, max_length=200)]
    later: Literal["again", "queue", "shelve"] = "again"


class Forget(Struct, kw_only=True):
    """Which files; with `purge` their bytes and all that has seen them go too."""

    files: Annotated[list[Id], Meta(min_length=1, max_length=1000)]
    purge: bool = False


class Undone(Struct, kw_only=True):
    """Of a file, `steps` of its `of` steps are undone."""

    name: str
    steps: int
    of: int


class Plan(Struct, kw_only=True):
    """What a change of the past comes to. `what` is it in words; from step `now` to step `then`, of which `kept` stay.

    `start`: the state gone back to, null for the base model. `redo` steps are trained again, in `seconds`. `purge`:
    what is removed for good. `digest`: given back to show that this plan is the one that was agreed to.
    """

    what: str
    now: int
    then: int
    kept: int
    start: str | None
    undone: list[Undone]
    later: str
    redo: int
    seconds: float | None
    revived: list[str]
    undoable: bool
    purge: list[str]
    digest: str


class AgreedRollback(Rollback, kw_only=True):
    """A rollback whose plan was shown: `digest` is that plan's."""

    digest: Text


class AgreedForget(Forget, kw_only=True):
    """A forgetting whose plan was shown: `digest` is that plan's."""

    digest: Text


class TakeSnapshot(Struct, kw_only=True):
    """What to call it; the local time if not given."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class Job(Struct, kw_only=True):
    """Something that takes a while. `told`: what it waits for, in sentences; `said`: how it ended.

    `can_give_up`: whether DELETE ends it now; what changes the past is not left half done.
    """

    id: str
    what: str
    state: Literal["waiting", "running", "done", "failed", "given up"]
    told: list[str]
    said: str | None
    can_give_up: bool
