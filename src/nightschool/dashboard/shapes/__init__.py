"""What the page's API takes and gives, one struct each: the page's own scripts and the description are made from these.

Times are UTC ISO 8601, sizes bytes, durations seconds, losses nats per label token. A number that is not known, or was
not finite, is null.
"""

from __future__ import annotations

from nightschool.dashboard.shapes.basics import Done, Id, Step, Text, Trouble
from nightschool.dashboard.shapes.curve import Curve, CurveQuery, FileMark, Mark, Marks
from nightschool.dashboard.shapes.files import File, FileDetail, Files, FilesQuery, Learnt
from nightschool.dashboard.shapes.health import Amount, Finding, Health, Log, LogLine, LogQuery, Setting
from nightschool.dashboard.shapes.present import Event, Events, EventsQuery, Now
from nightschool.dashboard.shapes.queue import Chosen, Move, Pause, Prioritise, Queue, QueueQuery, Skip, Waiting
from nightschool.dashboard.shapes.saved import (
    AgreedForget,
    AgreedRollback,
    Checkpoint,
    Forget,
    Job,
    Plan,
    Rollback,
    Saved,
    Snapshot,
    TakeSnapshot,
    Undone,
)
from nightschool.dashboard.shapes.uploads import (
    Add,
    Added,
    BadRow,
    Part,
    Piece,
    Preview,
    PreviewQuery,
    Upload,
    UploadQuery,
)

__all__ = [
    "Add",
    "Added",
    "AgreedForget",
    "AgreedRollback",
    "Amount",
    "BadRow",
    "Checkpoint",
    "Chosen",
    "Curve",
    "CurveQuery",
    "Done",
    "Event",
    "Events",
    "EventsQuery",
    "File",
    "FileDetail",
    "FileMark",
    "Files",
    "FilesQuery",
    "Finding",
    "Forget",
    "Health",
    "Id",
    "Job",
    "Learnt",
    "Log",
    "LogLine",
    "LogQuery",
    "Mark",
    "Marks",
    "Move",
    "Now",
    "Part",
    "Pause",
    "Piece",
    "Plan",
    "Preview",
    "PreviewQuery",
    "Prioritise",
    "Queue",
    "QueueQuery",
    "Rollback",
    "Saved",
    "Setting",
    "Skip",
    "Snapshot",
    "Step",
    "TakeSnapshot",
    "Text",
    "Trouble",
    "Undone",
    "Upload",
    "UploadQuery",
    "Waiting",
]
