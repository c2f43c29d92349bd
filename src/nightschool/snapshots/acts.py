"""Going back and forgetting, done: the machine is brought to rest, the plan is made anew, and carried out.

While the machine runs it goes on by itself afterwards. What each plan says is in `rollback` and `forget`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nightschool import adding
from nightschool.curriculum import Part
from nightschool.errors import DataError, NightschoolError, StorageError
from nightschool.gathering import ALONE
from nightschool.ledger import Arrival, FileRow, Ledger
from nightschool.ledger.files import State
from nightschool.record import entries_of
from nightschool.settings import load_settings
from nightschool.snapshots import cut, forget, purge, rollback, serving
from nightschool.snapshots.rollback import Later, Plan
from nightschool.workspace import Layout

Waiting = Callable[[str], Any]
Agreed = Callable[[Plan], Any]
"""Given the plan that is about to be carried out, the machine at rest; what it raises ends the act, nothing changed."""


def go_back(
    layout: Layout, word: str, later: Later = "again", waiting: Waiting = print, agreed: Agreed | None = None
) -> Plan:
    """Carry out `rollback.plan`, if that is still what was agreed to.

    Raises:
        BusyError: snapshots or the history are being changed already.
        CheckpointError: as of `rollback.plan`.
        StorageError: the disk refuses.
    """
    with Ledger.open(layout.ledger) as ledger:
        rollback.plan(layout, ledger, word, later)  # what cannot be done does not stop the trainer
        with cut.at_rest(layout, ledger, f"rollback to {word}", waiting):
            plan = rollback.plan(layout, ledger, word, later)
            if agreed is not None:
                agreed(plan)
            cut.perform(layout, ledger, plan.cut)
    return plan


def forget_files(
    layout: Layout,
    words: Sequence[str],
    *,
    instead: Path | None = None,
    purging: bool = False,
    second_place: Path | None = None,
    waiting: Waiting = print,
    agreed: Agreed | None = None,
) -> Plan:
    """Carry out `forget.plan`.

    Args:
        layout: the workspace.
        words: names or numbers of files.
        instead: a mended file that is put in the place of the one that is forgotten.
        purging: remove the bytes, and all that has seen them.
        second_place: where copies are to be purged too.
        waiting: told what is waited for.
        agreed: given the plan right before it is carried out.

    Raises:
        BusyError: snapshots or the history are being changed already.
        CheckpointError, DataError: as of `forget.plan`; or the mended file cannot be used.
        StorageError: the disk refuses.
    """
    with Ledger.open(layout.ledger) as ledger:
        rows = forget.find(ledger, words)
        if instead is not None and len(rows) != 1:
            raise DataError(f"--replace puts one file in the place of one, and these are {len(rows)}.")
        forget.plan(layout, ledger, rows, purge=purging)
        if purging and second_place is not None and not second_place.is_dir():
            raise StorageError(
                f"{second_place} is not there, and it may hold copies of what is to be purged. Mount it, or clear "
                "snapshots.copy_to if there is none any more. Nothing was changed."
            )
        with cut.at_rest(layout, ledger, f"forgetting {', '.join(row.name for row in rows)}", waiting):
            rows = [_taken_in(layout, ledger, row) for row in forget.find(ledger, [str(row.id) for row in rows])]
            new = None if instead is None else _prepared(layout, ledger, rows[0], instead, waiting)
            plan = forget.plan(layout, ledger, rows, replace=new and {rows[0].id: new}, purge=purging)
            if agreed is not None:
                agreed(plan)
            plan = replace(plan, cut=replace(plan.cut, second_place=second_place))
            if purging:
                purge.sweep(layout, second_place)
            if plan.cut.entries == entries_of(ledger) and not purging:
                _only_states(ledger, plan, rows, new)
            else:
                cut.perform(layout, ledger, plan.cut)
    return plan


def _taken_in(layout: Layout, ledger: Ledger, row: FileRow) -> FileRow:
    """A file, its bytes archived: those in the inbox would be taken for a new file, and no purge would know of them."""
    from nightschool.intake import accept

    if row.state != "arrived":
        return row
    accept.recover(layout, ledger)
    if accept.take(layout, ledger, row, time.strftime("%Y-%m-%d")) == "later":
        raise DataError(f"{row.name} is still being written to, or cannot be moved out of the inbox. Remove it there.")
    return ledger.files.get(row.id)


def _only_states(ledger: Ledger, plan: Plan, rows: Sequence[FileRow], new: Part | None) -> None:
    """What was never begun is not in the history: nothing of that changes."""
    with ledger.transaction():
        for file, (state, reason) in plan.cut.files.items():
            ledger.files.set_state(file, state, reason)
        if new is not None:
            ledger.files.take_place(new.file_id, rows[0].id)
        ledger.machine.delete(cut.REPLACING)
        ledger.events.add("cut", f"{plan.cut.what[:1].upper()}{plan.cut.what[1:]}.", step=plan.now)


def _prepared(layout: Layout, ledger: Ledger, row: FileRow, path: Path, waiting: Waiting) -> Part:
    """Take a mended file in and prepare it as the one it replaces was; the intake worker rests meanwhile.

    Until the cut a machine row names it, so that one that never came about does not leave it in the queue.
    """
    import json

    from nightschool.intake import accept, prepare, tools

    settings = load_settings(layout.settings_file)
    entries = ledger.entries.of_file(row.id)
    recipe = json.loads(entries[0].recipe)["data"] if entries else None
    kept = adding.keep(layout, path, f"instead-{row.id}-{time.time_ns():x}")
    options = {**row.options, "again": True, "replaces": row.id}
    with ledger.transaction():
        (number,) = ledger.files.arrive([Arrival(path.name, kept, row.priority, options, kept.stat().st_size)])
        ledger.machine.set(cut.REPLACING, number)
    waiting(f"Preparing {path.name}")
    try:
        accept.recover(layout, ledger)
        accept.take(layout, ledger, ledger.files.get(number), time.strftime("%Y-%m-%d"))
        new = ledger.files.get(number)
        if new.state == "archived":
            prepare.prepare(layout, ledger, tools.Tools(settings, layout.fingerprint_cache), new, recipe)
            new = ledger.files.get(number)
        if new.state != "ready" or new.data_digest is None or not new.sequences:
            raise DataError(f"{path.name} cannot take the place of {row.name}: {new.reason}. Nothing was forgotten.")
    except NightschoolError:
        with ledger.transaction():
            if ledger.files.get(number).state != "rejected":
                ledger.files.set_state(number, "set_aside", f"it was to take the place of file {row.id}, and failed to")
            ledger.machine.delete(cut.REPLACING)
        raise
    return Part(number, new.data_digest, new.sequences)


def set_aside(layout: Layout, files: Sequence[int], reason: str, waiting: Waiting) -> Plan:
    """Take files out of the history because training on them cannot go on: nothing of them stays in the weights.

    Of several that were trained on together nobody knows which it is: they go back to the queue, each to be trained on
    by itself.

    Raises:
        BusyError: snapshots or the history are being changed already.
        CheckpointError: nothing is left to start from.
        StorageError: the disk refuses.
    """
    with Ledger.open(layout.ledger) as ledger, cut.at_rest(layout, ledger, "setting a file aside", waiting):
        rows = [ledger.files.get(file) for file in files]
        plan = forget.plan(layout, ledger, rows)
        # The model in use may be one from before a forgetting: that stays so.
        kept = ledger.machine.get(serving.KEEP) is not None
        states: dict[int, tuple[State, str]] = {row.id: ("set_aside", reason) for row in rows}
        what = f"setting {rows[0].name} aside: {reason}"
        if len(rows) > 1:
            states = {row.id: ("archived", "") for row in rows}
            what = f"taking {len(rows)} files apart that were trained on together: {reason}"
            for row in rows:
                ledger.files.set_option(row.id, ALONE, True)
        plan = replace(plan, cut=replace(plan.cut, what=what, files=states, keep_serving=kept))
        cut.perform(layout, ledger, plan.cut)
    return plan


def traces(layout: Layout, words: Sequence[str], second_place: Path | None = None) -> list[purge.Trace]:
    """What a purge of these files would remove."""
    with Ledger.open(layout.ledger) as ledger:
        return purge.traces(layout, ledger, [row.id for row in forget.find(ledger, words)], second_place)
