"""The small run that the tests of accidents disturb: two files, nine steps, and what it has to come to."""

from __future__ import annotations

from pathlib import Path

from nightschool.workspace import Layout
from tests.training import rig

STEPS = 9
"""File a has 4 of them, file b 5."""


def make(root: Path, base: Path, save_steps: int = 2, names: str = "ab") -> Layout:
    """A workspace in which both files wait, in the order of `names`."""
    layout = rig.workspace(root, base, checkpoints={"save_steps": save_steps})
    for name in names:
        rig.add(layout, name, rig.sequences(*{"a": (15, 1), "b": (20, 2)}[name]))
    return layout


def undisturbed(root: Path, base: Path) -> rig.Outcome:
    """What it comes to when nothing happens."""
    layout = make(root, base)
    rig.run(layout)
    found = rig.outcome(layout)
    assert found.step == STEPS
    return found


def stop_at(layout: Layout, step: int) -> None:
    """Live until that step, then save and end; every save before that one is there too."""
    assert rig.run(layout, on_step=rig.stop_saved_at(step)).loop.done == step


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def checkpoints(layout: Layout) -> dict[str, bytes]:
    """Every file of every checkpoint with its content."""
    return {name: data for name, data in tree(layout.current_model).items() if name.startswith("checkpoint-")}
