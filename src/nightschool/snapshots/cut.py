"""The cut: the one act behind going back and forgetting. The curriculum is rewritten, and the run stands earlier in it.

    1 keep       a copy of the ledger goes to `undone/<generation>/`, for the way forward again
    2 bring      the state to go on from, where it is no present checkpoint, is laid ready in `current_model/.tmp-cut-*`
    3 count      the generation, outside the ledger, goes up by one
    4 switch     one transaction: curriculum, files, steps, checkpoints, and a note of what is left to do
    5 move       checkpoints that are ahead of the run, or none of it, go to `undone/<generation>/`; the state of 2
                 comes into place; `current_model/` is pointed at what it shall hold
    6 forget     the note goes, last

Killed before 4, nothing has changed but a number and a copy; killed after it, `finish` does the rest at the next start.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable, queueing
from nightschool.curriculum import Entry, Part
from nightschool.errors import CheckpointError, NightschoolError
from nightschool.ledger import EntryRow, Ledger
from nightschool.ledger.files import REST, State
from nightschool.record import belongs, entries_of, read_generation, read_record, root_digest, write_generation
from nightschool.snapshots import purge, serving
from nightschool.snapshots.holding import held, way_back
from nightschool.snapshots.states import LEDGER, Saved
from nightschool.workspace import Layout

log = logging.getLogger("nightschool.cut")

PENDING = "cut"
"""The machine row with what is left to do of a cut: {"generation", "undone", "step", "staged", "purge", ...}."""
LAST_CUT = "last_cut"
"""The machine row with what the last cut did, for taking it back: {"undone": its folder in `undone/`, "files": the ids
of all in its curriculum, "reach": the local step up to which that goes in each}. The generation tells that not: a cut
that never came about leaves one out."""
HOLD = "hold"
"""The machine row that asks the supervisor to let its children rest: {"pid", "why"}."""
REPLACING = "replacing"
"""The machine row with the file that is being prepared to take another's place: its id."""


@dataclass(frozen=True)
class Cut:
    """A change of the run's history that was decided on.

    Attributes:
        what: for people, as in "rollback to step 40".
        entries: the curriculum from now on. What of it lies behind `step` is trained again.
        start: the state to go on from; None for the base model.
        files: ids of files whose state changes otherwise than by the entries: the new state, and why.
        rests: files of which the rest waits in the queue after it, each with the recipe it is trained by.
        keep_serving: `current_model/` keeps its weights until the run has caught up with `entries`.
        purge: ids of the files whose every trace is removed.
        second_place: where copies of snapshots and archive are to be purged too.
    """

    what: str
    entries: list[Entry]
    start: Saved | None
    files: Mapping[int, tuple[State, str]] = field(default_factory=dict)
    rests: Mapping[int, str] = field(default_factory=dict)
    keep_serving: bool = False
    purge: Sequence[int] = ()
    second_place: Path | None = None

    @property
    def step(self) -> int:
        """Steps done after the cut."""
        return self.start.step if self.start else 0


@contextmanager
def at_rest(layout: Layout, ledger: Ledger, why: str, waiting: Callable[[str], Any] = lambda _: None) -> Iterator[None]:
    """Have the workspace to oneself: trainer and intake have saved and ended, and none starts meanwhile.

    Args:
        layout, ledger: the workspace.
        why: what the machine says about it meanwhile.
        waiting: told once what is waited for.

    Raises:
        BusyError: another process takes, removes or goes back to saved states.
    """
    with ExitStack() as stack:
        stack.enter_context(way_back(layout, "another change of snapshots or history"))
        ledger.machine.set(HOLD, {"pid": os.getpid(), "why": why})
        stack.callback(_let_go, ledger)
        for path, what in ((layout.trainer_lock, "the trainer"), (layout.intake_lock, "the intake worker")):
            told = f"Waiting until {what} has saved and ended"
            stack.enter_context(held(path, what, patience=math.inf, waiting=lambda _, told=told: waiting(told)))
        finish(layout, ledger)
        yield


def _let_go(ledger: Ledger) -> None:
    with suppress(NightschoolError), ledger.transaction():
        ledger.machine.delete(HOLD)
        # As `resume` does: what made the machine give up may be what was just undone.
        ledger.machine.set("resumed", os.urandom(4).hex())


def held_for(layout: Layout, told: Mapping[str, Any]) -> str | None:
    """Why the machine is to rest: what `at_rest` was given by a process that still lives. `told`: all machine rows."""
    hold = told.get(HOLD)
    # From within a container, a process outside of it has no number.
    if not hold or durable.holder(layout.way_back_lock) not in (hold.get("pid"), durable.ELSEWHERE):
        return None
    return str(hold.get("why"))


def perform(layout: Layout, ledger: Ledger, cut: Cut) -> Path:
    """Do it, within `at_rest`. Returns the folder in `undone/` that keeps what was.

    Raises:
        StorageError: the disk refuses. Before the switch everything is as it was; after it `finish` does the rest.
    """
    generation = read_generation(layout)
    undone = layout.undone / str(generation)
    note = {
        "generation": generation + 1, "undone": generation, "step": cut.step, "staged": None, "purge": list(cut.purge),
        "second_place": cut.second_place,
    }  # fmt: skip
    durable.make_dirs(undone)
    _keep_ledger(ledger, undone)
    note["staged"] = _bring(layout, cut.start)
    write_generation(layout, generation + 1)
    _switch(layout, ledger, cut, note)
    finish(layout, ledger)
    return undone


def _keep_ledger(ledger: Ledger, undone: Path) -> None:
    """Step 1. A copy that a cut which never came about has left is written anew."""
    copy, scratch = undone / LEDGER, undone / f".tmp-{LEDGER}"
    for path in (scratch, undone / f".tmp-{LEDGER}-journal"):
        durable.remove_file(path)
    ledger.backup_to(scratch)
    durable.replace_file(scratch, copy)


def _bring(layout: Layout, start: Saved | None) -> str | None:
    """Step 2. The name of the folder in `current_model/` that holds the state; None where it is in place."""
    if start is None or start.where == "current":
        return None
    staged = durable.staging(layout.current_model, f"cut-{start.step}")
    manifest = durable.read_manifest(start.folder)
    for name in (*manifest.files, durable.MANIFEST):
        durable.make_dirs((staged / name).parent)
        durable.link_or_copy(start.folder / name, staged / name)
    found = durable.check(staged)
    if found:
        durable.remove_tree(staged)
        raise CheckpointError(f"{start.name} could not be brought back whole: {'; '.join(found)}. Nothing was changed.")
    return staged.name


def _switch(layout: Layout, ledger: Ledger, cut: Cut, note: dict[str, Any]) -> None:
    """Step 4."""
    before, kept = entries_of(ledger), ledger.entries.all()
    last = ledger.steps.last()
    # So many of the steps done after the cut are the same now, and recorded.
    have = min(cut.step, curriculum.common_steps(cut.entries, before), last.step if last else 0)
    copy = cut.start.ledger if cut.start is not None and have < cut.step else None
    with ExitStack() as stack:
        past = stack.enter_context(opened_copy(layout, copy)) if copy else None
        stack.enter_context(ledger.transaction())
        known = {(row.parts, row.recipe, row.start): row.began_at for row in kept}
        ledger.entries.replace_all([_row(at, entry, known) for at, entry in enumerate(cut.entries)])
        _rewind(ledger, cut, before, have, past)
        for row in ledger.checkpoints.listing("published"):
            if not _stays(layout, ledger, row.step, cut):
                place = f"{layout.undone.name}/{note['undone']}/checkpoint-{row.step}"
                ledger.checkpoints.retire(row.step, cut.what, state="undone", path=place, generation=row.generation)
        _set_states(ledger, cut)
        ledger.machine.set(PENDING, note)
        reach = {str(file): end.stop for file, end in sorted(curriculum.ends(cut.entries).items())}
        ledger.machine.set(LAST_CUT, {"undone": note["undone"], "files": [*map(int, reach)], "reach": reach})
        ledger.machine.delete(REPLACING)
        told = ledger.machine.get("trainer")
        if told is not None:
            # Whoever asks later what the trainer was at must not be told the place that another entry has now.
            ledger.machine.set("trainer", {**told, "entry": None})
        if cut.keep_serving and cut.step < curriculum.total_steps(cut.entries):
            serving.keep(ledger, curriculum.total_steps(cut.entries))
        else:
            serving.keep(ledger, None)
        aside = [file for file, (state, _) in cut.files.items() if state == "set_aside"]
        text = f"{cut.what[:1].upper()}{cut.what[1:]}."
        ledger.events.add("cut", text, step=cut.step, generation=note["generation"], set_aside=aside)


def _row(position: int, entry: Entry, known: Mapping[Any, str]) -> EntryRow:
    began = known.get((entry.parts, entry.recipe, entry.start), "")
    return EntryRow(position, entry.parts, entry.recipe, entry.length, entry.start, entry.stop, began)


def _rewind(ledger: Ledger, cut: Cut, before: Sequence[Entry], have: int, past: Ledger | None) -> None:
    """Take back what was recorded behind step `have`, and bring what the other history, `past`, recorded of its own."""
    ledger.steps.delete_after(have)
    same = 0
    for at, (new, old) in enumerate(zip(cut.entries, before, strict=False)):
        if new.key() != old.key() or new.start != old.start or curriculum.first_step(cut.entries, at) > have:
            break
        same = at + 1
    ledger.boundaries.delete_from(same)
    ledger.holdouts.delete_from(same)
    last = same - 1
    _measure_anew(ledger, cut, same)
    if same and (cut.entries[last].stop != before[last].stop or curriculum.first_step(cut.entries, same) > have):
        # Of the last of them not all is done, or was: what it taught is measured anew.
        same = last
        ledger.holdouts.record([replace(row, loss_after=None) for row in ledger.holdouts.at(same)])
    if past is None:
        return
    for page in past.steps.losses(after=have):
        ledger.steps.record([row for row in page if row.step <= cut.step])
        if page[-1].step >= cut.step:
            break
    for position in range(same, len(cut.entries)):
        if curriculum.first_step(cut.entries, position) >= cut.step:
            break
        ledger.holdouts.record(past.holdouts.at(position))
        boundary = past.boundaries.get(position)
        if boundary is not None and boundary.digest_after is not None:
            ledger.boundaries.before(position, boundary.step, boundary.digest_before)
            ledger.boundaries.after(position, boundary.digest_after, boundary.note)


def _measure_anew(ledger: Ledger, cut: Cut, same: int) -> None:
    """What files taught that began before the entry at `same`, and of which a further range is not done any more."""
    open_ones = {
        curriculum.first_range(cut.entries, at)
        for at in range(same, len(cut.entries))
        if cut.entries[at].start > 0 and curriculum.first_step(cut.entries, at) + cut.entries[at].steps > cut.step
    }
    for at in sorted(one for one in open_ones if one < same):
        ledger.holdouts.record([replace(row, loss_after=None) for row in ledger.holdouts.at(at)])


def _stays(layout: Layout, ledger: Ledger, step: int, cut: Cut) -> bool:
    """Whether the present checkpoint of `step` is a part of the run after the cut, and not ahead of it."""
    if step > cut.step:
        return False
    try:
        found = read_record(layout.checkpoint(step))
    except CheckpointError:
        return False
    return belongs(found, root_digest(ledger.machine.get("root")), cut.entries) is None


def _set_states(ledger: Ledger, cut: Cut) -> None:
    """Every file of the curriculum is learned or has still to be trained; others are what the cut says."""
    for entry in cut.entries:
        for part in entry.parts:
            if ledger.files.get(part.file_id).data_digest != part.data_digest:
                _prepared_as_then(ledger, part, entry)
    for file, recipe in cut.rests.items():
        ledger.files.set_option(file, REST, recipe)
    for file, end in curriculum.ends(cut.entries).items():
        if file in cut.files:
            continue
        row = ledger.files.get(file)
        state = queueing.state_of(row, end, cut.step)
        if state != "set_aside":
            ledger.files.set_state(file, state)
        elif row.state != "set_aside":
            ledger.files.set_state(file, state, end.why)
    for file, (state, reason) in cut.files.items():
        if state == "set_aside" and file not in cut.rests:
            ledger.files.set_option(file, REST, None)
        ledger.files.set_state(file, state, reason)


def _prepared_as_then(ledger: Ledger, part: Part, entry: Entry) -> None:
    """A file was prepared anew since its training began: intake prepares it again by the recipe of that time."""
    from nightschool.intake import containers, prepare

    row = ledger.files.get(part.file_id)
    if row.sha256 is not None:
        folder = prepare.folder_name(row.sha256, entry.settings["data"], containers.kind_named(row.name))
        ledger.files.prepared_otherwise(row.id, folder, part.data_digest, part.sequences)


def finish(layout: Layout, ledger: Ledger) -> None:
    """Steps 5 and 6 of a cut that was switched; and what one that never was has left of a file to be put in place.

    To be called with the trainer's lock held, before the present checkpoints are looked at.
    """
    note = ledger.machine.get(PENDING)
    waiting = ledger.machine.get(REPLACING)
    if waiting is not None:
        with ledger.transaction():
            ledger.files.set_state(waiting, "set_aside", "`forget --replace` was interrupted; do it again")
            ledger.machine.delete(REPLACING)
    if note is None:
        return
    write_generation(layout, note["generation"])
    root, entries = root_digest(ledger.machine.get("root")), entries_of(ledger)
    undone = layout.undone / str(note["undone"])
    durable.make_dirs(undone)
    for step, folder in layout.checkpoints():
        if step > note["step"] or not _belongs(folder, root, entries):
            _move(folder, undone)
    staged, final = layout.current_model / str(note["staged"]), layout.checkpoint(note["step"])
    if note["staged"] and staged.exists():
        if final.exists() and durable.check(final):
            _move(final, undone)
        if not final.exists():
            durable.publish(staged, final)
            _published(ledger, final, note["generation"])
    if ledger.machine.get(serving.KEEP) is None:
        if final.exists():
            serving.point_at(layout, final)
        else:
            serving.point_at_nothing(layout)
    else:
        serving.follow(layout, undone)
    if note["purge"]:
        second = note["second_place"]
        purge.remove(layout, ledger, note["purge"], Path(second) if second else None)
    ledger.machine.delete(PENDING)


def _published(ledger: Ledger, folder: Path, generation: int) -> None:
    """Tell the ledger of a state that is back: under the new generation, or an older state would be called newer."""
    record, size = read_record(folder), {path.name: path.stat().st_size for path in folder.iterdir()}
    ledger.checkpoints.publish(
        step=record.step, generation=generation, lineage=record.lineage, path=folder.name,
        bytes_adapter=sum(size[name] for name in size if name.endswith(".safetensors")),
        bytes_optimizer=size.get("optimizer.pt", 0),
    )  # fmt: skip


def _belongs(folder: Path, root: str, entries: list[Entry]) -> bool:
    try:
        return belongs(read_record(folder), root, entries) is None
    except CheckpointError:
        return False


def _move(folder: Path, undone: Path) -> None:
    target, number = undone / folder.name, 1
    while os.path.lexists(target):
        number += 1
        target = undone / f"{folder.name}.{number}"
    durable.publish(folder, target)


@contextmanager
def opened_copy(layout: Layout, copy: Path) -> Iterator[Ledger]:
    """A copy of a ledger, opened as one that nobody else has: the file itself is left as it is."""
    layout.tmp.mkdir(parents=True, exist_ok=True)
    scratch = layout.tmp / f"past-{os.urandom(4).hex()}.db"
    try:
        shutil.copyfile(copy, scratch)
        with Ledger.open(scratch) as past:
            yield past
    finally:
        for path in (scratch, scratch.with_name(scratch.name + "-journal")):
            path.unlink(missing_ok=True)
