"""The ledger: one SQLite file that remembers files, history, steps, checkpoints, events and the machine's state.

    database.py     one guarded connection: locks, transactions, errors in plain words
    schema.py       the recorded migrations
    ledger.py       `Ledger`, which opens the file and holds one object per table family
    files.py        what was dropped, and how far each file has come     order.py   natural name order
    filerows.py     its table, and single rows of it                     arrivals.py, moves.py  what changes them
    entries.py      the ordered list of what was trained                 steps.py   one row per optimizer step
    checkpoints.py  what was saved, and what became of it                buckets.py rolled-up steps for long curves
    boundaries.py   proof that state was carried from file to file       holdouts.py loss on rows never trained on
    events.py       what happened, for people                            machine.py small values by name
    line.py         moving a file in the queue

Imports nothing outside the standard library, and is quick to import: `nightschool status` depends on it.
"""

from nightschool.ledger.boundaries import BoundaryRow
from nightschool.ledger.buckets import BucketRow
from nightschool.ledger.checkpoints import CheckpointRow
from nightschool.ledger.entries import EntryRow
from nightschool.ledger.events import EventRow
from nightschool.ledger.files import HIGH, LOW, NORMAL, NOW, Arrival, FileRow
from nightschool.ledger.holdouts import HoldoutRow
from nightschool.ledger.ledger import Ledger
from nightschool.ledger.steps import StepRow

__all__ = [
    "HIGH",
    "LOW",
    "NORMAL",
    "NOW",
    "Arrival",
    "BoundaryRow",
    "BucketRow",
    "CheckpointRow",
    "EntryRow",
    "EventRow",
    "FileRow",
    "HoldoutRow",
    "Ledger",
    "StepRow",
]
