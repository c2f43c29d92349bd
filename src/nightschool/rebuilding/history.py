"""Which history the run has, from what its states say about themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nightschool import curriculum
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError
from nightschool.rebuilding.evidence import Copy, Evidence, State
from nightschool.record import belongs, root_digest


@dataclass(frozen=True)
class History:
    """What a run has learned, and what it is in the middle of.

    Attributes:
        entries: the curriculum.
        done: steps of it that the newest state holds.
        root: the run's root; None where nothing was saved and no copy of the ledger knows one.
        generation: number of cuts so far.
        state: the newest state, whole if there is one.
        present: the whole checkpoints of this history that lie where a start looks for them.
        after: whether a cut may have happened that `entries` does not know of.
        notes: what is to be said of it.
    """

    entries: list[Entry]
    done: int
    root: dict[str, Any] | None
    generation: int
    state: State | None
    present: list[State]
    after: bool
    notes: list[str] = field(default_factory=list)


def decide(evidence: Evidence) -> History:
    """The history of the newest whole state, brought forward by a copy of the ledger that goes on from it.

    Raises:
        CheckpointError: states were saved, and none of them can be read, nor a copy of the ledger.
    """
    copy, state = evidence.copy, _newest(evidence.states)
    known = [one.saved.record.generation for one in evidence.states if one.saved.where == "current" and not one.problem]
    generation = max([evidence.generation or 0, copy.generation if copy else 0, *known])
    if state is None:
        return _without_state(evidence, generation)
    notes = []
    if state.saved.where != "current":
        notes.append(f"No present checkpoint can be read; {state.saved.name} says what was learned.")
    record, root = state.saved.record, state.saved.record.root
    entries, after = record.entries, record.generation < generation
    if after:
        # A cut came after it was saved, and what lies behind its step may have been taken out. A file that was begun is
        # finished as it began: its first rows are in the weights.
        place = curriculum.place(entries, record.step)
        begun = place is not None and place.local > entries[place.index].start
        kept = entries[: place.index + 1] if begun and place is not None else curriculum.cut(entries, record.step)
        entries = curriculum.normalised(kept)
    if copy is not None and copy.generation == generation:
        if after and belongs(record, root_digest(root), copy.entries) is None:
            entries, after = copy.entries, False
        elif not after and _goes_on(copy.entries, entries):
            entries = copy.entries
    for one in evidence.states:
        # A later state may be damaged, and still say under which settings its files were begun.
        other = one.saved.record
        if not after and other.generation == generation and _goes_on(other.entries, entries):
            entries = other.entries
    if after:
        notes.append(
            "The run was changed by a rollback or by forgetting after its newest checkpoint was saved; what was to be "
            "trained again is not known, and the files in question are held back."
        )
    digest = root_digest(root)
    present = [
        one for one in evidence.states
        if one.saved.where == "current" and not one.problem and belongs(one.saved.record, digest, entries) is None
    ]  # fmt: skip
    return History(entries, record.step, root, generation, state, present, after, notes)


def _newest(states: Sequence[State]) -> State | None:
    """The newest state: a present one before one in a snapshot, a whole one before a damaged one."""
    for where in ("current", "snapshot"):
        for whole in (True, False):
            fitting = [one for one in states if one.saved.where == where and (one.problem is None) == whole]
            # A present checkpoint that is damaged still tells more than nothing, but less than a whole snapshot.
            if (
                where == "current"
                and not whole
                and any(one.problem is None for one in states if one.saved.where == "snapshot")
            ):
                continue
            if fitting:
                return max(fitting, key=lambda one: (one.saved.record.generation, one.saved.step))
    return None


def _without_state(evidence: Evidence, generation: int) -> History:
    copy = evidence.copy
    if copy is not None:
        return History(copy.entries, 0, None, generation, None, [], copy.generation < generation)
    if generation:
        raise CheckpointError(
            "The ledger cannot be made again: the run was rolled back or had a file forgotten, and neither a "
            "checkpoint nor a copy of the ledger can be read. Put a checkpoint back into current_model/, or a copy of "
            "snapshots/, and try again."
        )
    return History([], 0, None, generation, None, [], False)


def _goes_on(longer: Sequence[Entry], shorter: Sequence[Entry]) -> bool:
    """Whether one curriculum is the other and more."""
    total = curriculum.total_steps(shorter)
    return curriculum.total_steps(longer) > total and curriculum.common_steps(longer, shorter) == total


def is_up_to_date(copy: Copy, history: History) -> bool:
    """Whether a ledger knows all that the newest state does: then a start goes on from it, and nothing is to be made.

    Files are known by their numbers and the digests of their data.
    """
    if history.state is None or history.root is None:
        return True
    record = history.state.saved.record
    if belongs(record, root_digest(history.root), copy.entries) is not None:
        return False
    digests = {row.id: row.data_digest for row in copy.files}
    parts = [part for entry in copy.entries for part in entry.parts]
    return all(digests.get(part.file_id) == part.data_digest for part in parts)
