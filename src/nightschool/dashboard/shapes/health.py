"""Shapes of the API: what the machine stands on, and its log."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nightschool.dashboard.shapes.basics import Text
from nightschool.dashboard.shapes.present import Event


class Finding(Struct, kw_only=True):
    """One thing that was looked at: `good`, `watch` (soon to be looked after) or `trouble`, with what to do."""

    name: str
    verdict: Literal["good", "watch", "trouble"]
    text: str
    advice: str | None


class Amount(Struct, kw_only=True):
    """How much of something there is, in bytes, and how much of it is used."""

    used: int | None
    total: int | None


class Health(Struct, kw_only=True):
    """What the machine stands on. `last_trouble`: the latest accidents, newest first. `hours` and `notify` in words."""

    findings: list[Finding]
    disk: Amount
    gpu: Amount
    memory: Amount
    trainer_bytes: int | None
    restarts: int
    hours: str
    notify: str
    last_trouble: list[Event]
    settings: list[Setting]


class Setting(Struct, kw_only=True):
    """A setting, its value, where that comes from, and when a change of it takes effect. Secrets are not shown."""

    name: str
    value: str
    source: str
    effect: str


class LogQuery(Struct, kw_only=True):
    """The newest `limit` lines that contain `search`; `before`: only those that begin before this byte."""

    search: Text = ""
    before: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class LogLine(Struct, kw_only=True):
    """A line, and the byte of the log at which it begins: of all log files, the oldest first."""

    at: int
    text: str


class Log(Struct, kw_only=True):
    """Lines in order. `before`: ask with it for older ones; null where there are none.

    A search looks at so many bytes and no more: there may be few lines, or none, and yet a `before`.
    """

    lines: list[LogLine]
    before: int | None
