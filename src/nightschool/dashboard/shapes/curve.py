"""Shapes of the API: the loss curve and what is marked on it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nightschool.dashboard.shapes.basics import Step


class Curve(Struct, kw_only=True):
    """The loss curve from step `first` to `last`, in points over `span` steps each; columns of equal length.

    With `span` 1 a point is a step. `step` is the last step of each point, `tokens` and `hours` are what was trained
    on since the beginning, up to and with it. Losses: mean, lowest and highest of the point; `smooth` is a weighted
    mean of what came before. `bad` counts steps whose loss was not finite; they are in none of the others.
    `learning_rate` is the last step's; `grad_norm` the mean, `grad_norm_max` the highest.
    """

    first: int
    last: int
    span: int
    generation: int
    steps_done: int
    step: list[int]
    tokens: list[int]
    hours: list[float]
    loss: list[float | None]
    loss_min: list[float | None]
    loss_max: list[float | None]
    smooth: list[float | None]
    bad: list[int]
    learning_rate: list[float | None]
    grad_norm: list[float | None]
    grad_norm_max: list[float | None]
    tokens_per_second: list[float | None]


class CurveQuery(Struct, kw_only=True):
    """Steps `first` to `last` (default: all), in at most `points` points."""

    first: Step = 0
    last: Step | None = None
    points: Annotated[int, Meta(ge=10, le=5000)] = 1200


class FileMark(Struct, kw_only=True):
    """Steps `first` to `last`, both included, were trained on the file that is called `name`; `ids` are its files."""

    first: int
    last: int
    name: str
    ids: list[int]


class Mark(Struct, kw_only=True):
    """Something that happened after step `step`: `resumed`, `cut` (rollback or forgetting), `snapshot`, `numerics`."""

    kind: Literal["resumed", "cut", "snapshot", "numerics"]
    step: int
    at: str
    text: str


class Marks(Struct, kw_only=True):
    """What is marked on the curve. Where there are too many, the longest files and the latest marks are given."""

    files: list[FileMark]
    files_left_out: int
    marks: list[Mark]
    marks_left_out: int
