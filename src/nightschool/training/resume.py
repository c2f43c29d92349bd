"""Start-up: from what lies on the disk to a loop that stands where the run stood."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightschool import curriculum, durable, queueing
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError, WorkspaceError
from nightschool.ledger import EntryRow, Ledger
from nightschool.record import Record, entries_of, read_generation, root_digest
from nightschool.snapshots import cut
from nightschool.training import checkpoint
from nightschool.training.checkpoint import Choice
from nightschool.words import in_bytes

if TYPE_CHECKING:
    from nightschool.workspace import Layout

log = logging.getLogger("nightschool.resume")


@dataclass(frozen=True)
class Start:
    """Where a run goes on: the entries, the checkpoint (None: from the base model), and the generation.

    `again` steps are known to have been done after that checkpoint, and are done again.
    """

    entries: list[Entry]
    folder: Path | None
    record: Record | None
    generation: int
    again: int = 0


def find_start(layout: Layout, ledger: Ledger, root_record: dict[str, Any]) -> Start:
    """Tidy up after an accident, choose the checkpoint to go on from, and repair the ledger from it.

    Raises:
        CheckpointError: there were checkpoints, and none can be used: never from zero in silence.
    """
    # First: what it has laid ready is called like what a sweep removes.
    cut.finish(layout, ledger)
    for folder in (layout.current_model, layout.tmp):
        durable.sweep(folder)
    entries = entries_of(ledger)
    digest = root_digest(root_record)
    generation = read_generation(layout)
    _clear_names(layout, ledger, generation)
    entries = _entries_ahead(layout, digest, entries, generation, ledger)
    choice = checkpoint.choose(layout.current_model, digest, entries)
    _say_unusable(choice, ledger)
    if choice.record is None and (choice.damaged or choice.foreign or ledger.checkpoints.newest() is not None):
        raise CheckpointError(_none_usable(layout, choice))
    _set_aside(layout, ledger, choice, generation)
    again = repair(ledger, entries, choice)
    return Start(entries, choice.folder, choice.record, generation, again)


def _entries_ahead(layout: Layout, digest: str, entries: list[Entry], generation: int, ledger: Ledger) -> list[Entry]:
    """The ledger's entries, or those of a checkpoint that goes on from them: the checkpoint is the truth (law 2)."""
    total = curriculum.total_steps(entries)
    for _, folder in reversed([found for found in layout.checkpoints() if found[0] > total]):
        if durable.check(folder):
            continue
        record = checkpoint.read(folder)
        if record.generation != generation or record.step <= total or not _goes_on(record, digest, entries, total):
            continue
        theirs = record.entries
        _check_known(ledger, theirs, folder)
        positions = {row.position: row for row in ledger.entries.all()}
        ledger.entries.replace_all([_row(at, entry, positions.get(at)) for at, entry in enumerate(theirs)])
        _say(ledger, "repaired", f"The ledger was behind {folder.name}; its list of files was brought up to date.")
        return theirs
    return entries


def _goes_on(record: Record, digest: str, entries: list[Entry], total: int) -> bool:
    """Whether the checkpoint's own curriculum is the one it was trained on, and begins with `entries`."""
    try:
        theirs = record.entries
        if curriculum.lineage(digest, theirs, record.step) != record.lineage:
            return False
        return curriculum.lineage(digest, theirs, total) == curriculum.lineage(digest, entries, total)
    except ValueError:  # fewer steps than it says
        return False


def _check_known(ledger: Ledger, entries: list[Entry], folder: Path) -> None:
    """Raise unless the ledger knows every file of `entries`.

    One put back from an old backup may not, or give a file's number to another.
    """
    for part in (part for entry in entries for part in entry.parts):
        try:
            known = ledger.files.get(part.file_id).data_digest == part.data_digest
        except KeyError:
            known = False
        if not known:
            raise WorkspaceError(
                f"{ledger.path} is older than {folder.name}: it does not know file {part.file_id}, which that "
                f"checkpoint was trained on. `nightschool doctor --rebuild-ledger` brings it forward, or put back a "
                f"newer copy of {ledger.path.name}; nothing was changed."
            )


def _row(position: int, entry: Entry, known: EntryRow | None) -> EntryRow:
    return EntryRow(
        position=position, parts=entry.parts, recipe=entry.recipe, steps_total=entry.length, start=entry.start,
        stop=entry.stop, began_at=known.began_at if known else "",
    )  # fmt: skip


def _say(ledger: Ledger, kind: str, text: str, **fields: Any) -> None:
    log.warning("%s", text)
    ledger.events.add(kind, text, **fields)


def _say_unusable(choice: Choice, ledger: Ledger) -> None:
    for step, path, reason in choice.damaged:
        _say(ledger, "checkpoint-damaged", f"{path.name} is damaged and not used: {reason}.", step=step)
    for step, path, reason in choice.foreign:
        _say(ledger, "checkpoint-foreign", f"{path.name} is not used: {reason}.", step=step)


def _none_usable(layout: Layout, choice: Choice) -> str:
    found = [f"{path.name}: {reason}" for _, path, reason in (*choice.damaged, *choice.foreign)]
    listed = ". ".join(found) if found else f"{layout.current_model} holds no checkpoint, though the run has saved some"
    return (
        f"No checkpoint can be used, and training does not begin again from nothing by itself. {listed}. "
        f"Put a whole copy of a checkpoint of this run into {layout.current_model}, from a backup or from "
        f"{layout.undone}, and start again."
    )


def _clear_names(layout: Layout, ledger: Ledger, generation: int) -> None:
    """What is called like a checkpoint and is no folder would stop the save that needs the name: move it away."""
    for path in sorted(layout.current_model.glob("checkpoint-*")):
        if not path.is_dir():
            target = _out_of_the_way(layout, path, generation)
            _say(ledger, "checkpoint-damaged", f"{path.name} is no folder, and was moved to {target}.")


def _out_of_the_way(layout: Layout, path: Path, generation: int) -> Path:
    """Move something from `current_model/` to `undone/`; returns where it is now."""
    parent = layout.undone / str(generation)
    durable.make_dirs(parent)
    target = parent / path.name
    number = 1
    while os.path.lexists(target):
        number += 1
        target = parent / f"{path.name}.{number}"
    durable.publish(path, target)
    return target


def _set_aside(layout: Layout, ledger: Ledger, choice: Choice, generation: int) -> None:
    """Move what cannot be used out of the way of the numbers that will come again. Nothing is deleted."""
    sorts: tuple[tuple[Literal["damaged", "undone"], list[tuple[int, Path, str]]], ...] = (
        ("damaged", choice.damaged),
        ("undone", choice.foreign),
    )
    for state, unusable in sorts:
        for step, path, reason in unusable:
            target = _out_of_the_way(layout, path, generation)
            ledger.checkpoints.retire(step, reason, state=state)
            log.warning("%s was moved to %s.", path.name, target)


def repair(ledger: Ledger, entries: list[Entry], choice: Choice) -> int:
    """Make the ledger's view of progress that of the checkpoints; returns how many steps that takes back."""
    record, folder = choice.record, choice.folder
    done = record.step if record else 0
    with ledger.transaction():
        again = ledger.steps.delete_after(done)
        gone = [at for at in range(len(entries)) if curriculum.first_step(entries, at) > done]
        if gone:
            ledger.boundaries.delete_from(gone[0])
            ledger.holdouts.delete_from(gone[0])
        for file_id, end in curriculum.ends(entries).items():
            row = ledger.files.get(file_id)
            # What ended early is set aside after its last step, or waits with its rest; before it, it is in training
            # like any other.
            wanted = queueing.state_of(row, end, done)
            mended = ("archived", "ready", "training", "skipped", "trained", "learned")
            shelved = row.state == "set_aside" and end.why is not None and wanted == "training"
            if row.state != wanted and (row.state in mended or shelved):
                ledger.files.set_state(file_id, wanted, end.why if wanted == "set_aside" else None)
        known = {(row.step, row.generation) for row in ledger.checkpoints.listing(state="published")}
        for step, generation in known:
            if step not in choice.whole:
                # Killed between a rename out of the way and the commit, or removed by hand.
                ledger.checkpoints.retire(step, "it is not there any more", generation=generation)
        if record and folder and (record.step, record.generation) not in known:
            # Killed between the rename into place and the commit.
            ledger.checkpoints.publish(
                step=record.step, generation=record.generation, lineage=record.lineage, path=folder.name,
                bytes_adapter=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
                bytes_optimizer=(folder / checkpoint.OPTIMIZER).stat().st_size,
            )  # fmt: skip
    return again


def redone(start: Start) -> str:
    """What is done again, in a sentence; "" where nothing is."""
    if start.record is None or not start.again:
        return ""
    first, last = start.record.step + 1, start.record.step + start.again
    if first == last:
        return f" Step {first:,} had been done after it, and is done again."
    return f" Steps {first:,} to {last:,} had been done after it, and are done again."


def describe(start: Start, ledger: Ledger) -> str:
    """Where the run stands, for the log's "Resuming" line."""
    assert start.record is not None
    place = curriculum.place(start.entries, start.record.step)
    if place is None:
        return "all files so far are learned"
    entry = start.entries[place.index]
    name = ledger.called(entry.file_ids)
    return f"file {name}, after {place.local} of its {entry.length} steps"


def folder_bytes(folder: Path) -> str:
    """Size of the optimizer's file in a checkpoint, in words."""
    return in_bytes((folder / checkpoint.OPTIMIZER).stat().st_size)
