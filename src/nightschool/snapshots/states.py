"""Every saved state of the run, wherever it lies, and how people name one.

current_model/checkpoint-N/                   the newest ones
snapshots/NAME/checkpoint-N/                  one in each snapshot, with a copy of the ledger beside it
undone/GENERATION/checkpoint-N/               what a cut has taken out, with a copy of the ledger beside it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from nightschool import curriculum, durable
from nightschool.errors import CheckpointError, StorageError
from nightschool.record import Record, read_record, root_digest
from nightschool.workspace import Layout, checkpoints_in

LEDGER = "ledger.db"
"""Name of the ledger's copy in a snapshot, and in a folder of `undone/`."""
ORIGIN = "origin"
"""Name of the snapshot of what an adopted run began with."""

Where = Literal["current", "snapshot", "undone"]
Kind = Literal["daily", "named", "origin"]

_STEP = re.compile(r"(?:checkpoint-)?(\d[\d_,]*)")


@dataclass(frozen=True)
class Saved:
    """A state that can be gone back to.

    Attributes:
        folder: the checkpoint.
        record: what it says about itself.
        where: what kind of place it lies in.
        name: what people call it: `checkpoint-1250`, `2026-11-22`, `undone/2/checkpoint-40`.
        ledger: the copy of the ledger made with it, if there is one.
    """

    folder: Path
    record: Record
    where: Where
    name: str
    ledger: Path | None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.record.step


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as its manifest describes it.

    Attributes:
        folder: where it is.
        name: its date, or the name it was given.
        kind: `daily` ones may be removed by retention, the others only by people.
        date: the day it stands for.
        step, generation, lineage: of the state in it.
        taken_at: UTC ISO 8601.
        file: name of the data file that the last step was on.
    """

    folder: Path
    name: str
    kind: Kind
    date: date
    step: int
    generation: int
    lineage: str
    taken_at: str
    file: str | None

    def to_manifest(self) -> dict[str, Any]:
        """The fields as the manifest keeps them."""
        return {"snapshot": {
            "name": self.name, "kind": self.kind, "date": self.date.isoformat(), "step": self.step,
            "generation": self.generation, "lineage": self.lineage, "taken_at": self.taken_at, "file": self.file,
        }}  # fmt: skip


def read_snapshot(folder: Path) -> Snapshot:
    """A snapshot from its manifest; its content is not looked at.

    Raises:
        CheckpointError: the folder is no snapshot, or was never finished.
    """
    try:
        told = durable.read_manifest(folder).extra["snapshot"]
        return Snapshot(folder, **{**told, "date": date.fromisoformat(told["date"])})
    except (StorageError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is no whole snapshot: {error}") from None


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder of them, by generation and step, never by time: clocks jump. Others are left out."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not path.name.startswith("."):
            try:
                found.append(read_snapshot(path))
            except CheckpointError:
                continue
    return sorted(found, key=lambda one: (one.generation, one.step, one.date, one.name))


def each(layout: Layout) -> Iterator[Saved]:
    """Every saved state: the present checkpoints newest first, then snapshots, then what was undone.

    Those without a readable record are left out. Sizes and hashes are not looked at: see `problems`.
    """
    for _, folder in reversed(layout.checkpoints()):
        yield from _saved(folder, "current", folder.name, None)
    for one in reversed(snapshots(layout.snapshots)):
        yield from of_snapshot(one)
    if layout.undone.is_dir():
        for parent in sorted(layout.undone.iterdir(), key=_by_number, reverse=True):
            copy = parent / LEDGER
            for _, folder in reversed(checkpoints_in(parent)):
                name = f"{layout.undone.name}/{parent.name}/{folder.name}"
                yield from _saved(folder, "undone", name, copy if copy.is_file() else None)


def of_snapshot(one: Snapshot) -> list[Saved]:
    """The state in a snapshot; empty where its record cannot be read."""
    copy = one.folder / LEDGER
    return _saved(one.folder / f"checkpoint-{one.step}", "snapshot", one.name, copy if copy.is_file() else None)


def of_checkpoint(folder: Path) -> Saved | None:
    """A checkpoint of `current_model/` as a state; None where its record cannot be read."""
    found = _saved(folder, "current", folder.name, None)
    return found[0] if found else None


def _saved(folder: Path, where: Where, name: str, ledger: Path | None) -> list[Saved]:
    try:
        return [Saved(folder, read_record(folder), where, name, ledger)]
    except CheckpointError:
        return []


def _by_number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdecimal() else -1, path.name)


def problems(saved: Saved, root: dict[str, Any], *, deep: bool = True) -> list[str]:
    """Why a state cannot be used for a run with this root; empty when it can.

    Whole: its manifest says so. Consistent: its own curriculum, cut at its step, hashes to the lineage it carries.

    Args:
        saved: the state.
        root: the run's root.
        deep: read every byte.
    """
    found = durable.check(saved.folder, deep=deep)
    if found:
        return found
    try:
        if curriculum.lineage(root_digest(root), saved.record.entries, saved.step) != saved.record.lineage:
            found.append("it belongs to another run: its lineage does not begin with this run's base and settings")
    except ValueError as error:
        found.append(f"its curriculum makes no sense: {error}")
    if saved.folder.name != f"checkpoint-{saved.step}" and saved.where != "undone":
        found.append(f"its name says {saved.folder.name}, its contents step {saved.step}")
    return found


def find(layout: Layout, word: str) -> Saved:
    """The state that a person means.

    Args:
        layout: the workspace.
        word: `latest` (the newest snapshot), `current` (the newest checkpoint), a date or another name of a snapshot, a
            step or `checkpoint-N`, or a path like `undone/2/checkpoint-40`. Of several states at one step the present
            one is meant, then that of a snapshot, then the one undone last.

    Raises:
        CheckpointError: there is none; the message lists those there are.
    """
    every = list(each(layout))
    chosen: list[Saved] = []
    step = _STEP.fullmatch(word)
    if word == "latest":
        chosen = [one for one in every if one.where == "snapshot"]
    elif word == "current":
        chosen = [one for one in every if one.where == "current"]
    else:
        chosen = [one for one in every if one.name == word]
        if not chosen and step:
            number = int(re.sub(r"[_,]", "", step[1]))
            chosen = [one for one in every if one.step == number]
    if not chosen:
        raise CheckpointError(f"There is no saved state called {word}. {_listed(every)}")
    return chosen[0]


def _listed(every: list[Saved]) -> str:
    if not every:
        return "Nothing has been saved yet."
    names = [f"{one.name} (step {one.step})" if one.where == "snapshot" else one.name for one in every]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"There are {', '.join(names[:12])}{more}."
