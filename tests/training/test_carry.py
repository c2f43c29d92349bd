"""What goes over from file to file: everything; with carry_optimizer = false, all but moments and warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nightschool import curriculum, verify
from nightschool.ledger import Ledger
from nightschool.record import entries_of
from nightschool.training import optimizer
from nightschool.training.loop import Loop
from nightschool.training.trainer import RESET_NOTE, Trainer
from nightschool.workspace import Layout
from tests.training import rig

FILES = {"a": (20, 1), "b": (10, 2), "c": (24, 1)}
"""5, 2 x 3 and 6 steps."""
STEPS, STARTS = 17, [0, 5, 11]
WARMUP, RATE = 4, 5e-3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


def make(root: Path, base: Path, **training: Any) -> Layout:
    layout = rig.workspace(
        root, base, training={"warmup_steps": WARMUP, "learning_rate": RATE, **training}, checkpoints={"save_steps": 3}
    )
    for seed, (name, (count, epochs)) in enumerate(FILES.items()):
        rig.add(layout, name, rig.sequences(count, seed), epochs=epochs)
    return layout


def rates(layout: Layout) -> list[float]:
    return [rate for _, _, rate in rig.outcome(layout).curve]


def moments(found: dict[int, float], kill: int = 0) -> Callable[[Trainer], None]:
    """An on_step that notes how many updates the moments are made of; killed at step `kill`."""

    def on_step(trainer: Trainer) -> None:
        (count,) = {float(values["step"]) for values in trainer.loop.optimizer.state.values()}
        found[trainer.loop.done] = count
        rig.kill_saved_at(kill)(trainer)

    return on_step


def test_a3_the_rate_warms_up_once_and_never_falls(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base)
    rig.run(layout)
    found = rates(layout)
    assert found == [RATE * step / WARMUP for step in range(WARMUP)] + [RATE] * (STEPS - WARMUP)
    assert all(rate > 0 for rate in found[1:])


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "inverse_sqrt"])
def test_a3_the_rate_does_not_jump_where_a_file_begins_or_the_machine_resumes(
    base: Path, tmp_path: Path, name: str
) -> None:
    """From one step to the next it changes by no more than the warm-up's slope, wherever the steps fall."""
    layout = make(tmp_path / "run", base, lr_scheduler_type=name)
    for step in (2, 7, 13):
        with pytest.raises(rig.Killed):
            rig.run(layout, on_step=rig.kill_at(step))
    rig.run(layout)
    found = rates(layout)
    assert len(found) == STEPS
    assert max(abs(after - before) for before, after in pairwise(found)) <= RATE / WARMUP + 1e-12
    assert min(found[1:]) > 0


def test_a4_moments_go_on_from_file_to_file(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base)
    found: dict[int, float] = {}
    rig.run(layout, on_step=moments(found))
    assert found == {step: step for step in range(1, STEPS + 1)}


def test_not_carried_moments_and_warm_up_begin_anew_at_each_file(base: Path, tmp_path: Path) -> None:
    """At each file: not at its second epoch, and not where the machine resumes inside it."""
    layout = make(tmp_path / "run", base, carry_optimizer=False)
    found: dict[int, float] = {}
    for step in (3, 8, 14):
        with pytest.raises(rig.Killed):
            rig.run(layout, on_step=moments(found, kill=step))
    rig.run(layout, on_step=moments(found))
    since = [step - max(start for start in STARTS if start < step) for step in range(1, STEPS + 1)]
    assert found == dict(zip(range(1, STEPS + 1), since, strict=True))
    assert rates(layout) == [RATE * min(1, (count - 1) / WARMUP) for count in since]


@pytest.mark.parametrize("carry", [True, False])
def test_law_1_holds_either_way(base: Path, tmp_path: Path, carry: bool) -> None:
    """Kills around the boundaries above all: before, at and after the first step of a file."""
    whole = make(tmp_path / "whole", base, carry_optimizer=carry)
    rig.run(whole)
    layout = make(tmp_path / "run", base, carry_optimizer=carry)
    for step in (4, 5, 6, 8, 11, 12):
        try:
            rig.run(layout, on_step=rig.kill_at(step) if step % 2 else rig.stop_at(step))
        except rig.Killed:
            continue
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(whole)
    found = verify.report(layout)
    assert found.good
    assert [one.carried for one in found.boundaries] == [True, True]
    assert [one.note for one in found.boundaries] == ([None, None] if carry else [RESET_NOTE, RESET_NOTE])


def test_the_two_ways_differ(base: Path, tmp_path: Path) -> None:
    outcomes = []
    for carry in (True, False):
        layout = make(tmp_path / str(carry), base, carry_optimizer=carry)
        rig.run(layout)
        outcomes.append(rig.outcome(layout))
    carried, reset = outcomes
    assert carried.curve[: STARTS[1]] == reset.curve[: STARTS[1]]
    assert carried.weights != reset.weights
    assert carried.lineage != reset.lineage


def test_control_a_reset_at_every_resume_is_told_apart(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path / "whole", base, carry_optimizer=False)
    rig.run(whole)
    layout = make(tmp_path / "run", base, carry_optimizer=False)
    real = Loop.restore

    def restore(self: Loop, *args: Any) -> Any:
        found = real(self, *args)
        optimizer.reset(self.optimizer)
        return found

    monkeypatch.setattr(Loop, "restore", restore)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_at(10))
    rig.run(layout)
    assert rig.outcome(layout).weights != rig.outcome(whole).weights


def test_ranges_of_one_file_are_one_file(base: Path, tmp_path: Path) -> None:
    """A curriculum that says the same in two adjacent ranges has the same lineage, so it must have the same weights."""
    whole = make(tmp_path / "whole", base, carry_optimizer=False)
    rig.run(whole)
    layout = make(tmp_path / "run", base, carry_optimizer=False)
    small = rig.run(layout, on_step=rig.stop_at(6))
    with Ledger.open(layout.ledger) as ledger:
        rows = ledger.entries.all()
        first, last = replace(rows[1], stop=3), replace(rows[1], start=3)
        ledger.entries.replace_all([rows[0], first, last])
        split = entries_of(ledger)
    assert small.loop.done == 6
    assert curriculum.lineage("", split, 11) == curriculum.lineage("", small.loop.entries, 11)
    rig.run(layout)
    ours, theirs = rig.outcome(layout), rig.outcome(whole)
    assert (ours.weights, ours.optimizer, ours.lineage) == (theirs.weights, theirs.optimizer, theirs.lineage)
    assert rates(layout) == rates(whole)
