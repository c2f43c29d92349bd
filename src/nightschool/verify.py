"""`verify`: is it working? Checkpoints, snapshots, file boundaries, resumes. Reads only; imports no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable, trainingjobs
from nightschool.curriculum import Entry
from nightschool.errors import BusyError, CheckpointError, NightschoolError, VerifyError
from nightschool.ledger import Ledger
from nightschool.ledger.steps import LOST
from nightschool.record import belongs, entries_of, read_record, root_digest
from nightschool.snapshots import inspection
from nightschool.snapshots.inspection import SnapshotReport
from nightschool.snapshots.moving import Reading
from nightschool.workspace import Layout

AROUND = 5
"""Steps on either side of a boundary whose mean loss is shown."""


@dataclass(frozen=True)
class CheckpointReport:
    """One checkpoint. `problem` is None when it is whole and belongs."""

    name: str
    step: int
    problem: str | None
    weights_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True)
class BoundaryReport:
    """One passage from a file to the next. Losses are means over a few steps, in nats."""

    step: int
    before: str
    after: str
    loss_before: float | None
    loss_after: float | None
    carried: bool | None
    note: str | None


@dataclass(frozen=True)
class Report:
    """What `verify` found."""

    step: int
    lineage: str | None
    checkpoints: list[CheckpointReport]
    boundaries: list[BoundaryReport]
    resumes: list[dict[str, Any]]
    numerics: list[dict[str, Any]]
    missing_steps: int
    lost_steps: int = 0
    problems: list[str] = field(default_factory=list)
    snapshots: list[SnapshotReport] = field(default_factory=list)
    archive_files: int | None = None
    replay: dict[str, Any] | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and (self.replay is None or bool(self.replay["equal"]))

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "good": self.good}


def report(layout: Layout, *, replay: bool = False, deep: bool = False) -> Report:
    """Look at everything.

    Args:
        layout: the workspace.
        replay: also train again between the two newest checkpoints and compare the bits.
        deep: read every byte of the snapshots and of the archive too, not only of the checkpoints.

    Raises:
        VerifyError: the replay could not be done.
        BusyError: nor could it, because the machine of this workspace has the GPU.
    """
    layout.require()
    with Ledger.open(layout.ledger) as ledger:
        stored = ledger.machine.get("root")
        root = root_digest(stored) if stored else None
        # In this order: while the machine trains, what is read later knows all that was read before.
        folders = layout.checkpoints()
        steps = {path: step for step, path in folders}
        reading = Reading(
            layout, lambda path: _checkpoint(path, steps[path], root, entries_of(ledger)), lambda one: bool(one.problem)
        )
        for path in steps:
            reading.read(path)
        checkpoints = list(reading.settled().values())
        entries = entries_of(ledger)
        boundaries = _boundaries(ledger, entries)
        last = ledger.steps.last()
        step = max([one.step for one in checkpoints if not one.problem] + [last.step if last else 0])
        # Of what was done elsewhere, only what was logged there is known: gaps in that are no holes.
        elsewhere = sum(entry.steps for entry in entries if entry.adopted)
        unrecorded = _lost(ledger, step)
        recorded = sum(len(page) for page in ledger.steps.losses(after=elsewhere))
        missing = max(0, step - elsewhere - recorded - unrecorded)
        problems = [f"{c.name}: {c.problem}" for c in checkpoints if c.problem]
        lost = [b for b in boundaries if b.carried is False]
        problems += [f"The state did not carry over from {b.before} to {b.after}." for b in lost]
        problems += [f"Ledger: {problem}" for problem in ledger.check()]
        if missing:
            problems.append(f"{missing} of {step} steps have no row in the ledger: the loss curve has holes.")
        if not checkpoints and ledger.checkpoints.newest() is not None:
            problems.append(f"The run has saved checkpoints, and {layout.current_model} holds none.")
        snapshots = inspection.inspect(layout, stored, entries, deep)
        problems += [f"Snapshot {one.name}: {one.problem}." for one in snapshots if one.problem]
        gone = inspection.missing(layout, ledger)
        problems += [gone] if gone else []
        files, wrong = inspection.archive_problems(layout, ledger) if deep else (None, [])
        problems += wrong
        lineage = curriculum.lineage(root, entries, step) if root and step <= curriculum.total_steps(entries) else None
        resumes = [{"at": e.at, **e.fields} for e in ledger.events.of_kind("resumed")]
        numerics = [{"at": e.at, **e.fields} for e in ledger.events.of_kind("numerics")]
    return Report(
        step=step,
        lineage=lineage,
        checkpoints=checkpoints,
        boundaries=boundaries,
        resumes=resumes,
        numerics=numerics,
        missing_steps=missing,
        lost_steps=unrecorded,
        problems=problems,
        snapshots=snapshots,
        archive_files=files,
        replay=_replay(layout) if replay else None,
    )


def _lost(ledger: Ledger, step: int) -> int:
    """How many steps up to `step` have no row because an older ledger was lost, and are known to."""
    found = 0
    for first, last in ledger.machine.get(LOST) or []:
        if first <= (last := min(last, step)):
            known = sum(sum(row.step <= last for row in page) for page in ledger.steps.losses(after=first - 1))
            found += last - first + 1 - known
    return found


def _checkpoint(path: Path, step: int, root: str | None, entries: list[Entry]) -> CheckpointReport:
    problems = durable.check(path, deep=True)
    if not problems:
        reason = _not_usable(path, step, root, entries)
        problems = [reason] if reason else []
    weights = sum(p.stat().st_size for p in path.glob("*.safetensors"))
    optimizer = path / "optimizer.pt"
    return CheckpointReport(
        path.name, step, "; ".join(problems) or None, weights, optimizer.stat().st_size if optimizer.exists() else 0
    )


def _not_usable(path: Path, step: int, root: str | None, entries: list[Entry]) -> str | None:
    """Why a whole checkpoint is none of this run's all the same, or None."""
    try:
        found = read_record(path)
    except CheckpointError as error:
        return str(error).rstrip(".")
    if found.step != step:
        return f"its name says step {step}, its contents step {found.step}"
    return belongs(found, root, entries) if root else "nothing has been trained here yet"


def _boundaries(ledger: Ledger, entries: list[Entry]) -> list[BoundaryReport]:
    checks = {row.position: row for row in ledger.boundaries.each()}
    found = []
    for position in range(1, len(entries)):
        step = curriculum.first_step(entries, position)
        names = [ledger.called(entries[at].file_ids) for at in (position - 1, position)]
        check = checks.get(position)
        before = _mean(ledger, step - AROUND + 1, step)
        after = _mean(ledger, step + 1, step + AROUND)
        if after is None and check is None:
            continue  # not reached yet
        found.append(
            BoundaryReport(
                step, names[0], names[1], before, after, check.carried if check else None, check.note if check else None
            )
        )
    return found


def _mean(ledger: Ledger, first: int, last: int) -> float | None:
    rows = ledger.steps.range(max(1, first), last)
    losses = [row.loss for row in rows if "not-finite" not in row.flags and math.isfinite(row.loss)]
    return sum(losses) / len(losses) if losses else None


def _replay(layout: Layout) -> dict[str, Any]:
    try:
        return trainingjobs.run(layout, "replay")
    except BusyError:
        raise
    except NightschoolError as error:
        raise VerifyError(f"The replay could not be done: {error}") from None
