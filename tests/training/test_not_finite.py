"""F2: a loss or gradient that is not finite is not applied, and a row of them ends the run."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nightschool.errors import TrainingError
from nightschool.ledger import Ledger
from nightschool.training import loop, loss
from nightschool.training.trainer import NOT_FINITE_LIMIT, Trainer
from nightschool.workspace import Layout
from tests.training import rig, small


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def layout(base: Path, tmp_path: Path) -> Layout:
    return small.make(tmp_path / "run", base)


def nan_at(steps: set[int]) -> Any:
    """Replace the loss by NaN in these steps; to be called as on_start."""

    def on_start(trainer: Trainer) -> None:
        real = trainer.loop.step

        def step() -> Any:
            real_loss = loss.sum_loss
            if trainer.loop.done + 1 in steps:
                loss.sum_loss = lambda *arguments: real_loss(*arguments) * math.nan
            try:
                return real()
            finally:
                loss.sum_loss = real_loss

        trainer.loop.step = step

    return on_start


def infinite_gradient_at(bad: int) -> Any:
    def on_start(trainer: Trainer) -> None:
        parameter = trainer.loop.parameters[0]
        parameter.register_hook(lambda g: g * math.inf if trainer.loop.done + 1 == bad else g)

    return on_start


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_f2_an_update_that_is_not_finite_is_not_applied(layout: Layout, kind: str) -> None:
    """The step counts: schedule and data go on; weights and moments stay what they were."""
    digests: dict[int, str] = {}

    def on_step(trainer: Trainer) -> None:
        digests[trainer.loop.done] = str(trainer.loop.digests())

    rig.run(layout, on_start=nan_at({6}) if kind == "loss" else infinite_gradient_at(6), on_step=on_step)
    assert digests[6] == digests[5]
    assert len(set(digests.values())) == small.STEPS - 1
    with Ledger.open(layout.ledger) as ledger:
        rows = ledger.steps.range(1, small.STEPS)
    assert [row.flags for row in rows] == ["", "", "", "", "", "not-finite", "", "", ""]
    assert rows[6].learning_rate == rows[5].learning_rate == 5e-3
    assert rig.states(layout) == {"a": "learned", "b": "learned"}
    assert math.isfinite(rows[8].loss)


def test_f2_control_applied_all_the_same_it_ruins_the_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = small.make(tmp_path / "run", base, save_steps=100)  # no save may refuse the NaN first
    monkeypatch.setattr(loop, "math", SimpleNamespace(isfinite=lambda _: True, inf=math.inf))
    ruined: list[bool] = []

    def on_step(trainer: Trainer) -> None:
        ruined.append(any(bool(torch.isnan(tensor).any()) for tensor in trainer.loop.weights.values()))
        rig.kill_at(7)(trainer)

    with pytest.raises(rig.Killed):
        rig.run(layout, on_start=nan_at({6}), on_step=on_step)
    assert ruined == [False] * 5 + [True] * 2


def test_f2_law_1_holds_with_a_step_that_was_not_applied(layout: Layout, base: Path, tmp_path: Path) -> None:
    other = small.make(tmp_path / "other", base)
    rig.run(other, on_start=nan_at({6}))
    for step in (6, 8):
        with pytest.raises(rig.Killed):
            rig.run(layout, on_start=nan_at({6}), on_step=rig.kill_at(step))
    rig.run(layout, on_start=nan_at({6}))
    ours, theirs = rig.outcome(layout), rig.outcome(other)
    assert (ours.weights, ours.optimizer, ours.lineage) == (theirs.weights, theirs.optimizer, theirs.lineage)


def test_f2_a_row_of_them_stops_the_run_and_learns_nothing(base: Path, tmp_path: Path) -> None:
    made = rig.workspace(tmp_path / "run", base, checkpoints={"save_steps": 5})
    rig.add(made, "a", rig.sequences(100, 1))
    bad = set(range(7, 7 + NOT_FINITE_LIMIT))
    with pytest.raises(TrainingError, match=f"{NOT_FINITE_LIMIT} steps in a row.*the last at step 16 on file a"):
        rig.run(made, on_start=nan_at(bad))
    assert rig.states(made) == {"a": "training"}
    assert [step for step, _ in made.checkpoints()] == [5], "the last good state is kept, not one in the streak"


def test_f2_control_two_shorter_rows_do_not_stop_it(base: Path, tmp_path: Path) -> None:
    made = rig.workspace(tmp_path / "run", base)
    rig.add(made, "a", rig.sequences(100, 1))
    bad = set(range(7, 6 + NOT_FINITE_LIMIT)) | set(range(17, 16 + NOT_FINITE_LIMIT))
    assert rig.run(made, on_start=nan_at(bad - {25})).loop.done == 25


def test_f2_a_file_of_which_nothing_was_learned_is_not_called_learned(layout: Layout) -> None:
    """Too short for a row of ten: none of its five steps was applied."""
    with pytest.raises(TrainingError, match="No step on file b gave a finite loss and gradient"):
        rig.run(layout, on_start=nan_at({5, 6, 7, 8, 9}))
    assert rig.states(layout) == {"a": "learned", "b": "training"}
    assert layout.checkpoints()[-1][0] == 4
