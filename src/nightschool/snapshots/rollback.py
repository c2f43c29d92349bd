"""Going back: what a rollback to a saved state would do, decided before anything is touched. Reads only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nightschool import curriculum, durable
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError
from nightschool.forecast import read_rates, steps_done
from nightschool.ledger import Ledger
from nightschool.ledger.files import REST, State
from nightschool.record import belongs, entries_of, root_digest
from nightschool.snapshots import states
from nightschool.snapshots.cut import LAST_CUT, Cut, opened_copy
from nightschool.snapshots.states import Saved
from nightschool.workspace import Layout

Later = Literal["again", "queue", "shelve"]
UNDO = "undo"
"""What `rollback` is told to take the last rollback or forgetting back."""


@dataclass(frozen=True)
class Undone:
    """A file that a cut takes back, wholly or in part. `steps` of it are undone, of `of`."""

    id: int
    name: str
    steps: int
    of: int


@dataclass(frozen=True)
class Plan:
    """What a change of history comes to, for people to look at before it is done.

    Attributes:
        cut: what is to be done.
        now: steps done before it.
        then: steps done after it.
        kept: of the steps done now, how many stay.
        start: name of the state that is gone back to; None for the base model.
        undone: files of which steps are undone, in the order they were learned.
        later: what becomes of them.
        redo: steps that are trained again.
        seconds: what they take, at the speed measured last; None where none was measured.
        revived: names of files that were forgotten or shelved, and are a part of the run again.
        undoable: whether `undo` takes it back. What waits is forgotten without a change of the history.
    """

    cut: Cut
    now: int
    then: int
    kept: int
    start: str | None
    undone: list[Undone]
    later: Later
    redo: int
    seconds: float | None
    revived: list[str] = field(default_factory=list)
    undoable: bool = True

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {key: value for key, value in asdict(self).items() if key != "cut"} | {"what": self.cut.what}


def plan(layout: Layout, ledger: Ledger, word: str, later: Later = "again") -> Plan:
    """What `rollback WORD` would do.

    Args:
        layout, ledger: the workspace.
        word: as of `states.find`, or `undo`.
        later: what becomes of what was learned after that point: `again`, in the same order under the same settings;
            `queue`, as files that wait, under today's settings; or `shelve`, not at all.

    Raises:
        CheckpointError: there is no such state, it is not whole, or it is none of this run.
    """
    root = ledger.machine.get("root")
    if root is None:
        raise CheckpointError("Nothing has been learned here yet, so there is nothing to go back to.")
    ours = entries_of(ledger)
    if word == UNDO:
        target, base, out, rests = _before_last_cut(layout, ledger, ours, root)
    else:
        target = states.find(layout, word)
        base, out, rests = _base(ledger, target, ours, root), {}, {}
    if target is not None:
        problems = states.problems(target, root)
        if problems:
            raise CheckpointError(f"{target.name} cannot be gone back to: {'; '.join(problems)}. Choose another state.")
    elif root.get("adopted"):
        raise CheckpointError("This run was taken over, and what it began with is gone: see snapshots/origin.")
    done = target.step if target else 0
    entries = _after(base, done, later)
    files = {**_others(ledger, layout, ours, entries, later, done), **out}
    if later == "queue":
        rests = {**rests, **{file: how for file, how in _cut_short(base, entries).items() if file not in files}}
    undone = undone_by(ledger, ours, entries, done)
    what = f"rollback to {target.name} (step {done})" if target else "rollback to the base model"
    cut = Cut(what, entries, target, files, rests)
    require_bytes(layout, ledger, cut)
    back = [ledger.files.get(file) for file in sorted(_ids(entries) - _ids(ours))]
    revived = [row.name for row in back if row.state in ("forgotten", "set_aside")]
    return replace(summed_up(ledger, cut, undone, later), revived=revived)


def _base(ledger: Ledger, target: Saved, ours: Sequence[Entry], root: dict[str, Any]) -> list[Entry]:
    """The curriculum of which the state is a part: today's, or its own with what was learned since behind it.

    Of its own, what it has not seen and what was forgotten or shelved since stays away; and of a file and the mended
    one that took its place, the one that is in its own.
    """
    if belongs(target.record, root_digest(root), list(ours)) is None:
        return list(ours)
    theirs = target.record.entries
    unknown = ledger.files.unknown(_ids(theirs))
    if unknown:
        raise CheckpointError(
            f"{target.name} was trained on file {min(unknown)}, which the ledger does not know: it is older than that "
            "state. Put back a newer copy of the ledger."
        )
    ahead = _ids(theirs) - _ids(curriculum.cut(theirs, target.step))
    theirs = curriculum.without(
        theirs, [file for file in ahead if ledger.files.get(file).state in ("forgotten", "set_aside")]
    )
    there = _ids(theirs)
    replaced = {_replaced(ledger, file) for file in there}
    instead = [file for file in _ids(ours) if file in replaced or _replaced(ledger, file) in there]
    return curriculum.joined(theirs, curriculum.without(ours, [file for file in instead if file not in there]))


def _replaced(ledger: Ledger, file: int) -> int | None:
    """The file whose place this one took, if it did."""
    return ledger.files.get(file).options.get("replaces")


def can_undo(layout: Layout, ledger: Ledger) -> bool:
    """Whether there is a last rollback or forgetting of which enough is left to take it back."""
    return _kept_by(layout, ledger.machine.get(LAST_CUT)) is not None


def _kept_by(layout: Layout, last: dict[str, Any] | None) -> Path | None:
    """The copy of the ledger that the last cut left, if it is still there. `last` is the machine row LAST_CUT."""
    copy = layout.undone / str(last["undone"]) / states.LEDGER if last else None
    return copy if copy is not None and copy.is_file() else None


def _before_last_cut(
    layout: Layout, ledger: Ledger, ours: list[Entry], root: dict[str, Any]
) -> tuple[Saved | None, list[Entry], dict[int, tuple[State, str]], dict[int, str]]:
    """The newest whole state on the way to where the run stood before the last cut, the curriculum then, what was out
    of it then, of what that cut brought in, and of which files the rest waited."""
    last = ledger.machine.get(LAST_CUT)
    copy = _kept_by(layout, last)
    if last is None or copy is None:
        raise CheckpointError("There is no rollback or forgetting that could be undone.")
    out: dict[int, tuple[State, str]] = {}
    with opened_copy(layout, copy) as past:
        before = entries_of(past)
        # What was begun since stays, behind all that is back; what the cut itself brought in goes again.
        brought = set(last["files"]) - _ids(before)
        for row in (past.files.get(file) for file in brought - past.files.unknown(brought)):
            if row.state in ("forgotten", "set_aside"):
                out[row.id] = (row.state, row.reason or "")
        begun = _ids(before) - past.files.unknown(_ids(before))
        rests = {row.id: row.options[REST] for row in map(past.files.get, begun) if row.state == "skipped"}
    told = last.get("reach") or dict.fromkeys(last["files"], math.inf)  # as it was written before ranges were split
    reach = {int(file): stop for file, stop in told.items()}
    since = [replace(one, start=max(one.start, reach.get(one.file_ids[0], one.start))) for one in ours]
    base = curriculum.joined(before, curriculum.without([one for one in since if one.steps > 0], brought))
    return newest_of(layout, root, base), base, out, rests


def _ids(entries: Iterable[Entry]) -> set[int]:
    return {file for entry in entries for file in entry.file_ids}


def newest_of(layout: Layout, root: dict[str, Any], entries: list[Entry]) -> Saved | None:
    """The saved state with the most steps that is whole and a part of this curriculum; None: the base model."""
    digest = root_digest(root)
    fitting = [one for one in states.each(layout) if belongs(one.record, digest, entries) is None]
    for one in sorted(fitting, key=lambda one: one.step, reverse=True):
        if not states.problems(one, root):
            return one
    return None


def _after(base: list[Entry], done: int, later: Later) -> list[Entry]:
    """The curriculum after a rollback to step `done` of `base`."""
    if later == "again":
        return base
    kept = curriculum.cut(base, done)
    place = curriculum.place(base, done)
    if later == "queue" and place is not None and place.local > base[place.index].start:
        # A file that was begun is finished as it began: its first rows are in the weights.
        return base[: place.index + 1]
    return kept


def _others(
    ledger: Ledger, layout: Layout, ours: Sequence[Entry], entries: Sequence[Entry], later: Later, done: int
) -> dict[int, tuple[State, str]]:
    """What becomes of files that are in today's curriculum and are not, or not wholly, in the one to come."""
    found: dict[int, tuple[State, str]] = {}
    still = _ids(entries)
    replacing = {_replaced(ledger, file): file for file in still}
    for file in dict.fromkeys(file for entry in ours for file in entry.file_ids if file not in still):
        row = ledger.files.get(file)
        if row.options.get("replaces") in still:
            found[file] = ("set_aside", f"file {row.options['replaces']}, whose place it took, is back")
        elif file in replacing:
            found[file] = ("forgotten", f"replaced by file {replacing[file]}")
        elif later == "shelve":
            found[file] = ("set_aside", f"shelved by a rollback to step {done}; `nightschool add --again` trains it")
        else:
            whole = row.prepared is not None and not durable.check(layout.prepared / row.prepared, deep=False)
            found[file] = ("ready" if whole else "archived", "")
    if later == "shelve":
        short = _cut_short(ours, entries)
        for file, end in curriculum.ends(entries).items():
            if file in short:
                reason = f"shelved by a rollback to step {done}, after {end.stop} of its {end.length} steps"
                found[file] = ("set_aside", reason)
    return found


def _cut_short(ours: Sequence[Entry], entries: Sequence[Entry]) -> dict[int, str]:
    """The files that end earlier in `entries` than in `ours`, each with the recipe of what is missing."""
    ends = curriculum.ends(entries)
    last = {file: entry for entry in ours for file in entry.file_ids}
    return {
        file: last[file].recipe
        for file, end in ends.items()
        if end.why is not None and file in last and last[file].stop > end.stop
    }


def undone_by(ledger: Ledger, ours: Sequence[Entry], entries: Sequence[Entry], done: int) -> list[Undone]:
    """The files with steps that are done now and not any more after a cut to step `done` of `entries`."""
    now = steps_done(ledger)
    common = min(done, curriculum.common_steps(ours, entries))
    found, before = [], 0
    for entry in ours:
        first, last = max(before, common), min(before + entry.steps, now)
        if first < last:
            found += [Undone(file, ledger.files.get(file).name, last - first, entry.length) for file in entry.file_ids]
        before += entry.steps
    return found


def summed_up(ledger: Ledger, cut: Cut, undone: Iterable[Undone], later: Later = "again") -> Plan:
    """A plan with what it costs."""
    redo = curriculum.total_steps(cut.entries) - cut.step
    rates = read_rates(ledger, ledger.machine.all())
    seconds = redo * rates.step_seconds if rates.step_seconds is not None else None
    start = cut.start.name if cut.start else None
    now = steps_done(ledger)
    kept = min(now, cut.step, curriculum.common_steps(cut.entries, entries_of(ledger)))
    return Plan(cut, now, cut.step, kept, start, list(undone), later, redo, seconds)


def require_bytes(layout: Layout, ledger: Ledger, cut: Cut) -> None:
    """Raise CheckpointError where a file that is to be trained on is neither archived nor prepared any more."""
    before = 0
    for entry in cut.entries:
        before += entry.steps
        for file in entry.file_ids if before > cut.step else ():
            row = ledger.files.get(file)
            places: list[Path] = [layout.prepared / row.prepared] if row.prepared else []
            places += [layout.root / row.archive] if row.archive else []
            if not any(place.exists() for place in places):
                raise CheckpointError(
                    f"{row.name} (file {file}) would have to be trained on again, and its bytes are gone. "
                    "Choose a later state."
                )
