"""Are the snapshots whole, and whose are they? And are the archived files what was dropped? Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import durable
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError
from nightschool.record import belongs, root_digest
from nightschool.snapshots import states
from nightschool.snapshots.take import LAST
from nightschool.words import escape
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.ledger import FileRow, Ledger

KEPT = ("archived", "ready", "training", "skipped", "trained", "learned")
"""States of files whose bytes are to be in the archive."""


@dataclass(frozen=True)
class SnapshotReport:
    """One snapshot. `problem` is None when it is whole; `note` says what it is then."""

    name: str
    step: int | None
    problem: str | None
    note: str
    deep: bool


def inspect(
    layout: Layout,
    root: dict[str, Any] | None,
    entries: list[Entry],
    deep: bool,
    between: Callable[[], Any] | None = None,
) -> list[SnapshotReport]:
    """Look at every folder in `snapshots/`.

    Nothing is locked. One that is removed while it is read is left out, and one that is put in its place is read: what
    was taken away under the reader's eyes only looks damaged.

    Args:
        layout: the workspace.
        root: the run's root; None while there is no run.
        entries: its curriculum.
        deep: read every byte; else only sizes are looked at.
        between: as of `durable.check`.
    """
    folder = layout.snapshots
    found = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    order = {one.folder: at for at, one in enumerate(states.snapshots(folder))}
    found.sort(key=lambda path: (order.get(path, len(order)), path.name))
    reports = (_settled(path, lambda path=path: _look(path, root, entries, deep, between)) for path in found)
    return [report for report in reports if report is not None]


def written(folder: Path) -> int | None:
    """When a folder's manifest was written, in nanoseconds as the file system says it; None where there is none."""
    try:
        return (folder / durable.MANIFEST).stat().st_mtime_ns
    except OSError:
        return None


def _settled(folder: Path, look: Callable[[], SnapshotReport]) -> SnapshotReport | None:
    while folder.is_dir():
        before, report = written(folder), look()
        if report.problem is None or (folder.is_dir() and written(folder) == before):
            return report
    return None


def _look(
    folder: Path, root: dict[str, Any] | None, entries: list[Entry], deep: bool, between: Callable[[], Any] | None
) -> SnapshotReport:
    def damaged(problem: str, step: int | None = None) -> SnapshotReport:
        return SnapshotReport(folder.name, step, problem, "", deep)

    try:
        one = states.read_snapshot(folder)
    except CheckpointError as error:
        return damaged(str(error).rstrip("."))
    problems = durable.check(folder, deep=deep, between=between)
    states_in_it = [] if problems else states.of_snapshot(one)
    if not problems and not states_in_it:
        problems = [f"the record in checkpoint-{one.step} cannot be read"]
    for saved in states_in_it:
        if (saved.step, saved.record.lineage) != (one.step, one.lineage):
            problems.append("its manifest tells of another state than the one in it")
        problems += states.problems(saved, root or saved.record.root, deep=False)
    if problems:
        return damaged("; ".join(problems), one.step)
    note = "whole, belongs"
    if root is None or belongs(states_in_it[0].record, root_digest(root), entries) is not None:
        note = "whole, of an earlier history"
    return SnapshotReport(folder.name, one.step, None, note, deep)


def missing(layout: Layout, ledger: Ledger) -> str | None:
    """The problem, if the folder of the snapshots is not there though some were taken."""
    if layout.snapshots.is_dir() or not ledger.machine.get(LAST):
        return None
    return f"Snapshots were taken, and {layout.snapshots} is not there. If it lies on another disk, mount it."


def archive_problems(layout: Layout, ledger: Ledger) -> tuple[int, list[str]]:
    """Read every archived file; how many there are, and what is wrong with those that are not what was dropped."""
    looked_at, problems = 0, []
    for row in ledger.files.each():
        if row.state in KEPT and row.archive is not None:
            looked_at += 1
            problem = bytes_problem(layout.root / row.archive, row)
            if problem is not None:
                problems.append(f"{escape(row.archive)}: {problem}.")
    return looked_at, problems


def bytes_problem(path: Path, row: FileRow) -> str | None:
    """Why the file at `path` is not what was dropped as `row`, or None."""
    try:
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != row.sha256:
                return "its bytes are no longer those that were dropped"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None
