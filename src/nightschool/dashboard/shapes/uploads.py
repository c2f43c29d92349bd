"""Shapes of the API: files that are sent, looked at and added."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class UploadQuery(Struct, kw_only=True):
    """The name of the file whose bytes are sent."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]


class Upload(Struct, kw_only=True):
    """A file that was sent whole, and waits to be added; it is removed at `expires_at`.

    `looks_like` says what its beginning is, `warnings` what may not be meant, as `nightschool add` says it.
    """

    id: str
    name: str
    bytes: int
    looks_like: str
    warnings: list[str]
    expires_at: str


class PreviewQuery(Struct, kw_only=True):
    """Read so many rows; 0: all."""

    rows: Annotated[int, Meta(ge=0, le=1_000_000)] = 200


class Piece(Struct, kw_only=True):
    """A run of tokens as text; `learned`: the loss is taken on them."""

    text: str
    learned: bool


class Part(Struct, kw_only=True):
    """A row, or a piece of one, in a sequence; `row` is its number in the file."""

    row: int
    tokens: int
    learned: int
    pieces: list[Piece]


class BadRow(Struct, kw_only=True):
    """A row that is not used, and why; `row` is its beginning."""

    line: int
    reason: str
    row: str


class Preview(Struct, kw_only=True):
    """What would become of a file: the fields of `nightschool preview --json`.

    Of `tokens`, `label_tokens` are learned. `complete` says whether all of it was read. `problem`: why it would be
    rejected.
    """

    name: str
    container: str | None
    shape: str | None
    complete: bool
    rows_good: int
    rows_bad: int
    rows_held_out: int
    rows_truncated: int
    rows_split: int
    tokens: int
    tokens_cut: int
    label_tokens: int
    sequences: int
    steps: int
    repairs: dict[str, int]
    lengths: list[tuple[int, int, int]]
    bad_rows: list[BadRow]
    warnings: list[str]
    problem: str | None
    examples: list[list[Part]]


class Add(Struct, kw_only=True):
    """How an upload is added; see `nightschool add`."""

    priority: Literal["now", "high", "normal", "low"] = "normal"
    epochs: Annotated[int, Meta(ge=1, le=1000)] | None = None
    again: bool = False


class Added(Struct, kw_only=True):
    """The file's number and name, and what is worth knowing of it."""

    id: int
    name: str
    said: str
