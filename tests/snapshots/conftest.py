"""A run over five small files, made once: tests copy it and change its history."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nightschool.workspace import Layout
from tests.training import rig

SIZES = {"a": 9, "b": 14, "c": 7, "d": 12, "e": 10}
"""Sequences of each file; four make a step: 3, 4, 2, 3 and 3 steps."""
STEPS = {"a": 3, "b": 4, "c": 2, "d": 3, "e": 3}
Make = Callable[..., Layout]


def quiet(_: str) -> None:
    """What `waiting` is in tests."""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


@pytest.fixture(scope="session")
def make(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A function that gives a new workspace in which some of the five files wait, in that order."""

    def get(names: Sequence[str] = tuple(SIZES), **changes: dict) -> Layout:
        changes = {"checkpoints": {"save_steps": 2, "save_total_limit": 4}, **changes}
        layout = rig.workspace(tmp_path_factory.mktemp("run") / "ws", base, **changes)
        for name in names:
            rig.add(layout, name, rig.sequences(SIZES[name], ord(name)))
        return layout

    return get


@pytest.fixture(scope="session")
def without(make: Make) -> Callable[[str], rig.Outcome]:
    """A function that gives what the run without some files comes to: `without("b")`; with none, the whole run."""
    known: dict[str, rig.Outcome] = {}

    def get(names: str = "") -> rig.Outcome:
        if names not in known:
            layout = make([name for name in SIZES if name not in names])
            rig.run(layout)
            known[names] = rig.outcome(layout)
        return known[names]

    return get


@pytest.fixture(scope="session")
def learned(make: Make) -> Layout:
    """All five files learned, with a snapshot-like copy of nothing: only the last checkpoints are left."""
    layout = make()
    rig.run(layout)
    return layout


@pytest.fixture(scope="session")
def kept(make: Make) -> Layout:
    """The whole run with every second checkpoint kept."""
    layout = make(checkpoints={"save_steps": 2, "save_total_limit": 50})
    rig.run(layout)
    return layout


@pytest.fixture
def run(learned: Layout, tmp_path: Path) -> Layout:
    """A copy of the learned run that a test may change."""
    shutil.copytree(learned.root, tmp_path / "ws", symlinks=True)
    return Layout(tmp_path / "ws")
