"""The new ledger: a copy brought forward, or one from nothing; written apart, then put in place by one rename."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable
from nightschool.curriculum import Entry
from nightschool.errors import StorageError
from nightschool.ledger import EntryRow, Ledger, StepRow
from nightschool.ledger.steps import LOST
from nightschool.rebuilding.evidence import REBUILT, Copy, Evidence, history_in, journal_of
from nightschool.rebuilding.files import Rows
from nightschool.rebuilding.history import History
from nightschool.record import belongs, root_digest
from nightschool.workspace import Layout

FROM_CHECKPOINT = "from-checkpoint"
"""Flag of a step row that was made from the few losses a checkpoint holds; its numbers of tokens are not known."""

_OF_A_LIFE = ("trainer", "supervisor", "state", "hold", "replacing", "cut", "intake_attempts")
"""Machine rows that are about processes and work of a time that is over."""
_OF_A_HISTORY = ("serving",)


@dataclass(frozen=True)
class Written:
    """What was written: the rows of steps that are there, and those that are lost, as ranges with both ends."""

    steps: int
    lost: list[tuple[int, int]]


def write(layout: Layout, folder: Path, evidence: Evidence, history: History, found: Rows) -> tuple[Path, Written]:
    """Write the new ledger into an unfinished folder; its path, and what is in it.

    Raises:
        StorageError: the disk refuses, or what was written is not whole.
    """
    path = folder / layout.ledger.name
    copy = evidence.copy
    if copy is not None:
        for source, target in ((copy.path, path), (journal_of(copy.path), journal_of(path))):
            if source.is_file():
                durable.copy_file(source, target)
    with Ledger.open(path) if copy is not None else Ledger.create(path) as ledger:
        with ledger.transaction():
            written = _fill(ledger, evidence, history, found)
        problems = ledger.check()
    if problems:
        raise StorageError(f"The new ledger is not whole, so nothing was changed: {problems[0]}. Look at the disk.")
    durable.remove_file(journal_of(path))
    return path, written


def put_in_place(layout: Layout, path: Path, stamp: str) -> Path | None:
    """Give the new ledger its name; where the old one is kept. Killed anywhere, the old one or the new one is there.

    The journal of the old one goes first: SQLite would take the change in it back in the new one, and destroy it.
    """
    broken, number = layout.ledger.with_name(f"{layout.ledger.name}.broken-{stamp}"), 1
    while os.path.lexists(broken) or os.path.lexists(journal_of(broken)):
        number += 1
        broken = broken.with_name(f"{layout.ledger.name}.broken-{stamp}-{number}")
    journal, kept = journal_of(layout.ledger), None
    if os.path.lexists(layout.ledger):
        durable.link_or_copy(layout.ledger, broken)
        kept = broken
    if os.path.lexists(journal) and not journal.stat(follow_symlinks=False).st_size:
        durable.remove_file(journal)  # SQLite leaves an empty one behind
    elif os.path.lexists(journal):
        durable.publish(journal, journal_of(broken))
    durable.replace_file(path, layout.ledger)
    return kept


def _fill(ledger: Ledger, evidence: Evidence, history: History, found: Rows) -> Written:
    copy = evidence.copy
    known = {row.id: row for row in copy.files} if copy else {}
    ledger.files.restore([row for row in found.rows.values() if known.get(row.id) != row], found.dropped)
    _entries(ledger, copy, history)
    _checkpoints(ledger, history)
    _steps(ledger, evidence, history)
    lost = _missing(ledger, history.done)
    for key in (*_OF_A_LIFE, *(() if copy and copy.generation == history.generation else _OF_A_HISTORY)):
        ledger.machine.delete(key)
    if history.root is not None:
        ledger.machine.set("root", history.root)
    if lost:
        ledger.machine.set(LOST, lost)
    text = "The ledger was made again from checkpoints, archive and prepared data"
    text += f", and from {copy.path.name} of {copy.path.parent.name}." if copy else "."
    ledger.events.add(REBUILT, text, generation=history.generation, step=history.done)
    return Written(ledger.steps.count(), lost)


def _entries(ledger: Ledger, copy: Copy | None, history: History) -> None:
    """The curriculum, and what the copy has recorded of the part of it that it shares."""
    before = ledger.entries.all()
    began = {(row.parts, row.recipe, row.start): row.began_at for row in before}
    rows = [
        EntryRow(
            at,
            one.parts,
            one.recipe,
            one.length,
            one.start,
            one.stop,
            began.get((one.parts, one.recipe, one.start), ""),
        )
        for at, one in enumerate(history.entries)
    ]
    theirs = copy.entries if copy else []
    have = min(curriculum.common_steps(theirs, history.entries), history.done)
    same = before_this = 0
    for new, old in zip(history.entries, theirs, strict=False):
        if new.key() != old.key() or new.start != old.start or before_this > have:
            break
        same, before_this = same + 1, before_this + new.steps
    ledger.entries.replace_all(rows)
    ledger.steps.delete_after(have)
    ledger.boundaries.delete_from(same)
    ledger.holdouts.delete_from(same)


def _checkpoints(ledger: Ledger, history: History) -> None:
    """What is there; and that something was saved, even where nothing of it is: a run never begins anew in silence."""
    there = {(one.saved.step, one.saved.record.generation) for one in history.present}
    for row in ledger.checkpoints.listing("published"):
        if there and (row.step, row.generation) not in there:
            ledger.checkpoints.retire(row.step, "it is not there any more", generation=row.generation)
    known = {(row.step, row.generation) for row in ledger.checkpoints.listing("published")}
    wanted = history.present or ([history.state] if history.state else [])
    for one in sorted(wanted, key=lambda one: one.saved.step):
        record, folder = one.saved.record, one.saved.folder
        if (record.step, record.generation) in known:
            continue
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        ledger.checkpoints.publish(
            step=record.step, generation=record.generation, lineage=record.lineage, path=f"checkpoint-{record.step}",
            bytes_adapter=sum(size for name, size in sizes.items() if name.endswith(".safetensors")),
            bytes_optimizer=sizes.get("optimizer.pt", 0),
        )  # fmt: skip


def _steps(ledger: Ledger, evidence: Evidence, history: History) -> None:
    """Rows for the steps of which only checkpoints still have the loss."""
    if history.root is None:
        return
    digest = root_digest(history.root)
    ends = _ends(history.entries)
    missing = {step for first, last in _missing(ledger, history.done) for step in range(first, last + 1)}
    rows: dict[int, StepRow] = {}
    for one in evidence.states:
        if belongs(one.saved.record, digest, history.entries) is not None:
            continue
        for told in history_in(one.saved.folder):
            step = told["step"]
            if step in missing and step <= one.saved.step:
                entry = bisect_left(ends, step)
                rate, norm = _real(told, "learning_rate"), _real(told, "grad_norm")
                rows[step] = StepRow(step, entry, told["loss"], rate, norm, 0, 0, 0.0, FROM_CHECKPOINT)
    ledger.steps.record(sorted(rows.values(), key=lambda row: row.step))


def _real(told: dict[str, Any], key: str) -> float:
    value = told.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def _ends(entries: Sequence[Entry]) -> list[int]:
    return list(accumulate(entry.steps for entry in entries))


def _missing(ledger: Ledger, done: int) -> list[tuple[int, int]]:
    """Ranges of the steps from 1 to `done` without a row."""
    found: list[tuple[int, int]] = []
    expected = 1
    for page in ledger.steps.losses(after=0):
        for row in page:
            if row.step > done:
                break
            if row.step > expected:
                found.append((expected, row.step - 1))
            expected = row.step + 1
    if expected <= done:
        found.append((expected, done))
    return found
