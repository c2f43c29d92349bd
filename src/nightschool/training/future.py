"""Rewriting the history behind the steps done: what is trained next changes, what was trained does not (law 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightschool import curriculum
from nightschool.curriculum import Entry
from nightschool.ledger import EntryRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightschool.ledger import Ledger


def rewrite(ledger: Ledger, before: Sequence[Entry], after: Sequence[Entry], done: int) -> None:
    """Put the list `after` in the place of `before` in the ledger; to be called in the transaction it belongs to.

    Raises:
        ValueError: they differ in the first `done` steps. Nothing was changed.
    """
    if curriculum.cut(before, done) != curriculum.cut(after, done):
        raise ValueError(f"the first {done} steps of a run cannot be rewritten")
    same = 0
    for old, new in zip(before, after, strict=False):
        if old != new:
            break
        same += 1
    kept = ledger.entries
    began = {entry.parts: "" for entry in after[same:]}
    for at in range(same, len(before)):
        began[before[at].parts] = kept.get(at).began_at
    rows = [EntryRow(0, e.parts, e.recipe, e.length, e.start, e.stop, began[e.parts]) for e in after[same:]]
    kept.replace_from(same, rows)
    # What was measured before a first step that was not taken then is measured anew, wherever it is taken.
    ahead, begins = 0, 0
    while ahead < len(after) and begins < done:
        begins += after[ahead].steps
        ahead += 1
    ledger.boundaries.delete_from(max(ahead, same))
    ledger.holdouts.delete_from(max(ahead, same))
