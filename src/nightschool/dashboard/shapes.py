"""What the page's API takes and gives, one struct each: the page's own scripts and the description are made from these.

Times are UTC ISO 8601, sizes bytes, durations seconds, losses nats per label token. A number that is not known, or was
not finite, is null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Id = Annotated[int, Meta(ge=1, le=2**62)]
Step = Annotated[int, Meta(ge=0, le=2**62)]
Text = Annotated[str, Meta(max_length=200)]
Number = int | float | None


class Trouble(Struct, kw_only=True):
    """Why something was not done: what is wrong and what to do, in a sentence. `kind` is a word for programs."""

    error: str
    kind: str


class Done(Struct, kw_only=True):
    """What was done, in a sentence."""

    said: str


# --- now ---------------------------------------------------------------------------------------------------------


class Now(Struct, kw_only=True):
    """What the machine is doing at `at`; all fields of `nightschool status --json`, and how far the file is.

    `utc_offset` is what local time is ahead of UTC, in seconds. `file` is the number of the file in training
    (of several that are trained together, the first), `file_step` of its `file_steps` steps are done, and
    `file_seconds` are left of it. `generation` counts the cuts: where it changes, the curve is
    another one. `event` is the number of the newest event.
    """

    at: str
    utc_offset: int
    version: str
    status: dict[str, Any]
    file: int | None = None
    file_step: int
    file_steps: int
    file_seconds: float | None
    generation: int
    event: int
    empty: bool


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


# --- the curve ---------------------------------------------------------------------------------------------------


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


# --- the queue ---------------------------------------------------------------------------------------------------


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


# --- files -------------------------------------------------------------------------------------------------------


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


# --- saved states ------------------------------------------------------------------------------------------------


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
    """Something that takes a while. `told`: what it waits for, in sentences; `said`: how it ended."""

    id: str
    what: str
    state: Literal["waiting", "running", "done", "failed"]
    told: list[str]
    said: str | None


# --- health ------------------------------------------------------------------------------------------------------


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
