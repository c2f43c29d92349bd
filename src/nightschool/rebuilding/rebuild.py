"""`doctor --rebuild-ledger`: the machine kept out, everything looked at, the new ledger written and put in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from nightschool import curriculum, durable
from nightschool.errors import WorkspaceError
from nightschool.ledger.database import utc_now
from nightschool.rebuilding import evidence, files, history, writing
from nightschool.record import write_generation
from nightschool.workspace import Layout


@dataclass(frozen=True)
class Report:
    """What was made again, and of what something is to be said.

    Attributes:
        copy: the copy of the ledger it was made from; None where there was none.
        state: name of the state that says what was learned; None where nothing was saved.
        step: steps done in it.
        files: number of files by their state.
        queued: names of files that wait again.
        held: names of files that are set aside, and why.
        unmatched: learned files whose bytes could not be told.
        by_name: files that were matched to their bytes by their name; that is proved when they are prepared again.
        steps: rows of steps that are there.
        lost: ranges of steps whose loss is lost.
        notes: sentences for people.
        broken: where the old file is kept.
        done: whether it was done, or only looked at.
    """

    copy: str | None
    state: str | None
    step: int
    files: dict[str, int]
    queued: list[str]
    held: list[tuple[str, str]]
    unmatched: list[str]
    by_name: list[str]
    steps: int
    lost: list[tuple[int, int]]
    notes: list[str]
    broken: str | None
    done: bool

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def rebuild(layout: Layout, *, dry_run: bool = False, clock: Callable[[], datetime] = utc_now) -> Report:
    """Make the ledger again; the old file is kept beside it.

    Args:
        layout: the workspace.
        dry_run: only say what would be done. The new ledger is written and thrown away: what cannot be done is met.
        clock: for the name of the old file.

    Raises:
        WorkspaceError: the ledger is sound and knows all that the checkpoints hold; or a part of the workspace is gone.
        BusyError: a machine runs here.
        CheckpointError: nothing is left to make it from.
        StorageError: the disk refuses; the old file is where it was.
    """
    layout.require(ledger=False)
    with _alone(layout):
        durable.sweep(layout.tmp)
        seen = evidence.gather(layout)
        decided = history.decide(seen)
        if seen.copy is not None and seen.copy.path == layout.ledger and history.is_up_to_date(seen.copy, decided):
            raise WorkspaceError(
                f"{layout.ledger} is sound and knows all that the checkpoints hold: there is nothing to make again. "
                "Nothing was changed."
            )
        found = files.rows_of(layout, seen, decided)
        staged = durable.staging(layout.tmp, "ledger")
        try:
            path, written = writing.write(layout, staged, seen, decided, found)
            broken = None
            if not dry_run:
                if decided.generation != (seen.generation or 0) or (seen.generation is None and decided.generation):
                    write_generation(layout, decided.generation)
                broken = writing.put_in_place(layout, path, f"{clock().astimezone(UTC):%Y%m%dT%H%M%SZ}")
        finally:
            durable.remove_tree(staged)
        return _report(layout, seen, decided, found, written, str(broken) if broken else None, not dry_run)


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    locks = (
        (layout.way_back_lock, "another change of snapshots or history"), (layout.supervisor_lock, "a nightschool run"),
        (layout.trainer_lock, "the trainer"), (layout.intake_lock, "the intake worker"),
    )  # fmt: skip
    with ExitStack() as stack:
        for path, what in locks:
            stack.enter_context(durable.Lock(path, what))
        yield


def _report(
    layout: Layout, seen: evidence.Evidence, decided: history.History, found: files.Rows, written: writing.Written,
    broken: str | None, done: bool,
) -> Report:  # fmt: skip
    notes = [*seen.notes, *decided.notes]
    if seen.copy is None:
        notes.append(
            "There is no whole copy of the ledger, so priorities, settings given to `add`, the times of arrival, "
            "checks between files, losses on held-out rows and what was set aside or skipped as a duplicate are lost."
        )
    elif curriculum.total_steps(decided.entries) > curriculum.total_steps(seen.copy.entries):
        notes.append("What happened after that copy was made comes from the checkpoints and the archive.")
    notes += [f"Lost: {what}." for what in found.lost]
    if seen.generation is None and decided.generation:
        notes.append(f"{layout.generation_file.name} was written again: {decided.generation}.")
    return Report(
        copy=str(seen.copy.path.relative_to(layout.root)) if seen.copy else None,
        state=decided.state.saved.name if decided.state else None, step=decided.done,
        files=dict(Counter(row.state for row in found.rows.values())), queued=found.queued, held=found.held,
        unmatched=found.unmatched, by_name=found.by_name, steps=written.steps, lost=written.lost, notes=notes,
        broken=broken, done=done,
    )  # fmt: skip
