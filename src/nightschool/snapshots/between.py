"""Two points that a person names, looked up and compared. Reads only."""

from __future__ import annotations

import math
from collections.abc import Callable

from nightschool import curriculum
from nightschool.ledger import Ledger
from nightschool.record import Record, entries_of
from nightschool.snapshots import states
from nightschool.snapshots.compare import Difference, Given, Known, compare
from nightschool.snapshots.states import Saved
from nightschool.workspace import Layout


def between(layout: Layout, ledger: Ledger, a: str, b: str) -> Difference:
    """What lies between two points.

    Args:
        layout, ledger: the workspace.
        a, b: each as of `states.find`.

    Raises:
        CheckpointError: there is no such state.
    """
    found = [states.find(layout, word) for word in (a, b)]
    ids = {file for one in found for entry in one.record.entries for file in entry.file_ids}
    files: dict[int, Known] = {}
    for id in ids:
        try:
            row = ledger.files.get(id)
        except KeyError:
            continue
        files[id] = Known(row.data_digest, row.name, row.rows_good)
    ours, theirs = (_given(one, ledger) for one in found)
    return compare(ours, theirs, files)


def _given(saved: Saved, ledger: Ledger) -> Given:
    size = sum(path.stat().st_size for path in saved.folder.rglob("*") if path.is_file())
    return Given(saved.name, saved.record, size, _losses(saved.record, ledger))


def _losses(record: Record, ledger: Ledger) -> Callable[[int, int], float | None]:
    """Mean losses of the state's own steps: those that today's history has too are in the ledger."""
    known = curriculum.common_steps(record.entries, entries_of(ledger))

    def mean(first: int, last: int) -> float | None:
        if last > known:
            return None
        rows = ledger.steps.range(max(1, first), last)
        losses = [row.loss for row in rows if math.isfinite(row.loss)]
        return math.fsum(losses) / len(losses) if losses else None

    return mean
