"""Shapes of the API: all that was ever dropped."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from nightschool.dashboard.shapes.basics import Id, Text
from nightschool.dashboard.shapes.uploads import BadRow


class FilesQuery(Struct, kw_only=True):
    """Newest first. `before`: only files with a lower number. `search`: a part of the name. `state`: of `counts`."""

    before: Id | None = None
    search: Text = ""
    state: Text = ""
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class File(Struct, kw_only=True):
    """A file that was dropped. `rows` are good ones. Held-out losses are of rows that are never trained on."""

    id: int
    name: str
    state: str
    reason: str | None
    bytes: int | None
    rows: int | None
    rows_bad: int | None
    tokens: int | None
    label_tokens: int | None
    priority: str
    duplicate_of: int | None
    arrived_at: str
    learned_at: str | None
    holdout_rows: int | None
    holdout_before: float | None
    holdout_after: float | None


class Files(Struct, kw_only=True):
    """A page of files. `next`: ask with `before` set to it for more. `counts`: files by state, of all.

    A search looks at so many names and no more: the page may hold few files, or none, and yet have a `next`.
    """

    files: list[File]
    next: int | None
    counts: dict[str, int]


class Learnt(Struct, kw_only=True):
    """A range of steps, both included, over a file: what the loss was over its first and its last steps (at most 25).

    `seconds` is the time that the steps took, `alone` whether no other file was trained with it.
    """

    first: int
    last: int
    steps: int
    steps_done: int
    tokens: int
    seconds: float | None
    loss_first: float | None
    loss_last: float | None
    began_at: str
    alone: bool


class FileDetail(Struct, kw_only=True):
    """All that is known of a file. `what_to_do` is for one that was not learned. `settings` came with it.

    `archive` and `rejected` are paths in the workspace; of a file that was left where it was only a `.why.txt` lies
    there.
    """

    file: File
    sha256: str | None
    shape: str | None
    sequences: int | None
    archive: str | None
    rejected: str | None
    settings: dict[str, Any]
    learnt: list[Learnt]
    bad_rows: list[BadRow]
    bad_rows_left_out: int
    what_to_do: str | None
