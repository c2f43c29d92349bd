"""Forgetting: the run in which a file was never dropped, bit for bit, or in which a mended one came in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from nightschool import curriculum
from nightschool.curriculum import Part
from nightschool.errors import CheckpointError, DataError
from nightschool.ledger import FileRow, Ledger
from nightschool.ledger.files import State
from nightschool.record import entries_of
from nightschool.snapshots.cut import Cut
from nightschool.snapshots.rollback import Plan, newest_of, require_bytes, summed_up, undone_by
from nightschool.workspace import Layout


def find(ledger: Ledger, words: Iterable[str]) -> list[FileRow]:
    """The files that a person means, by number or by name.

    Raises:
        DataError: there is none, or there are several; the message lists their numbers.
    """
    found = []
    for word in words:
        rows = _numbered(ledger, word) if word.isascii() and word.isdecimal() else []
        named = [] if rows else [row for row in ledger.files.called(word) if row.state != "duplicate"]
        rows = rows or [row for row in named if row.state != "forgotten"] or named[-1:]
        if not rows:
            raise DataError(f"There is no file {word}. `nightschool files` lists them all, with their numbers.")
        if len(rows) > 1:
            numbers = ", ".join(f"{row.id} ({row.state}, arrived {row.arrived_at[:16]})" for row in rows)
            raise DataError(f"Several files are called {word}: {numbers}. Name one by its number.")
        found += rows
    return list({row.id: row for row in found}.values())


def _numbered(ledger: Ledger, word: str) -> list[FileRow]:
    try:
        return [ledger.files.get(int(word))]
    except KeyError:
        return []


def plan(
    layout: Layout,
    ledger: Ledger,
    files: Sequence[FileRow],
    *,
    replace: Mapping[int, Part] | None = None,
    purge: bool = False,
) -> Plan:
    """What forgetting these files would do.

    Args:
        layout, ledger: the workspace.
        files: what to forget.
        replace: what is put in the place of which, by id.
        purge: whether their bytes, and all that has seen them, are removed too.

    Raises:
        CheckpointError: nothing is left to start from.
        DataError: one of them is what the run was taken over with, or was purged already.
    """
    for row in files:
        _forgettable(row, purge)
    root = ledger.machine.get("root") or {}
    ours = entries_of(ledger)
    ids = {row.id for row in files}
    entries = curriculum.without(curriculum.exchanged(ours, replace or {}), ids)
    start = newest_of(layout, root, entries) if root else None
    if start is None and root.get("adopted"):
        raise CheckpointError("This run was taken over, and what it began with is gone: see snapshots/origin.")
    states: dict[int, tuple[State, str]] = {row.id: ("forgotten", _reason(row, ledger, replace)) for row in files}
    what = f"forgetting {', '.join(row.name for row in files)}"
    cut = Cut(what, entries, start, states, keep_serving=not purge, purge=sorted(ids) if purge else ())
    require_bytes(layout, ledger, cut)
    found = summed_up(ledger, cut, undone_by(ledger, ours, entries, cut.step))
    if entries == ours and not purge:
        # They only wait. No state is gone back to, so what was learned since the last one was saved stays too.
        return dataclasses.replace(
            found, then=found.now, kept=found.now, undone=[], redo=0, seconds=None, undoable=False
        )
    return found


def _forgettable(row: FileRow, purge: bool) -> None:
    if row.state == "forgotten" and not (purge and row.archive is not None):
        raise DataError(f"{row.name} (file {row.id}) was forgotten already.")
    if row.shape == "adopted":
        raise DataError(
            f"{row.name} is what this run was taken over with; it cannot be forgotten. Begin a new run: "
            "`nightschool init NEW --from OLD`."
        )


def _reason(row: FileRow, ledger: Ledger, replace: Mapping[int, Part] | None) -> str:
    other = (replace or {}).get(row.id)
    return f"replaced by {ledger.files.get(other.file_id).name} (file {other.file_id})" if other else "forgotten"
