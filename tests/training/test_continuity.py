"""Law 1: same order, same weights. However often a run was stopped, killed or saved, it ends with the same bits.

Dropout is on wherever the model has it, so that randomness has to be the same too. Each control breaks one thing that
the law rests on, and must be caught by the very comparison that the tests make.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import schedule
from nightschool.errors import CheckpointError
from nightschool.ledger import Ledger, StepRow
from nightschool.training import checkpoint, determinism, optimizer
from nightschool.training.loop import Loop
from nightschool.training.state import HostBuffer, HostState
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig

COMBINATIONS = [("llama", "lora"), ("llama", "full"), ("gpt2", "lora"), ("gpt2", "full")]
FILES = {"a": (13, 1), "b": (6, 2), "c": (17, 1)}
"""Name to (sequences, epochs). With four sequences to a step: 4, 2 x 2 and 5 steps, the last of each file shorter."""
STEPS = 13


@dataclass(frozen=True)
class Case:
    """One way to train, and what it comes to when nothing disturbs it."""

    base: Path
    settings: dict[str, dict[str, Any]]
    undisturbed: rig.Outcome

    def workspace(self, root: Path, **checkpoints: Any) -> Layout:
        """A new workspace for the same run, without files."""
        return rig.workspace(root, self.base, **self.settings, checkpoints=checkpoints)


def drop(layout: Layout, *names: str) -> None:
    for name in names:
        count, epochs = FILES[name]
        rig.add(layout, name, rig.sequences(count, seed=ord(name) - ord("a")), epochs=epochs)


def all_rows() -> Counter[rig.Row]:
    rows: Counter[rig.Row] = Counter()
    for name, (count, epochs) in FILES.items():
        rows += rig.rows_of(rig.sequences(count, seed=ord(name) - ord("a")), epochs)
    return rows


def total(seen: dict[int, Counter[rig.Row]]) -> Counter[rig.Row]:
    rows: Counter[rig.Row] = Counter()
    for counted in seen.values():
        rows += counted
    return rows


def undisturbed(case: Case, root: Path) -> rig.Outcome:
    layout = case.workspace(root, save_steps=1000)
    drop(layout, *FILES)
    rig.run(layout)
    return rig.outcome(layout)


def make_case(root: Path, kind: str, method: str) -> Case:
    settings: dict[str, dict[str, Any]] = {"training": {"method": method}}
    if method == "lora":
        settings["lora"] = {"r": 4, "lora_dropout": 0.1}
    base = rig.make_base(root / "base", kind, dropout=0.1)
    unfinished = Case(base, settings, rig.Outcome(0, "", "", "", ()))
    return Case(base, settings, undisturbed(unfinished, root / "undisturbed"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    made: dict[tuple[str, str], Case] = {}

    def get(kind: str, method: str) -> Case:
        if (kind, method) not in made:
            made[kind, method] = make_case(tmp_path_factory.mktemp(f"{kind}-{method}"), kind, method)
        return made[kind, method]

    return get


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def case(request: pytest.FixtureRequest, cases: Callable[[str, str], Case]) -> Case:
    return cases(*request.param)


def test_the_undisturbed_run_is_one_of_its_kind(case: Case, tmp_path: Path) -> None:
    """The same run again gives the same bits, and another seed others: the comparison can tell runs apart."""
    assert case.undisturbed.step == STEPS
    assert [step for step, _, _ in case.undisturbed.curve] == list(range(1, STEPS + 1))
    assert undisturbed(case, tmp_path / "again") == case.undisturbed
    other = Case(case.base, {**case.settings, "training": {**case.settings["training"], "seed": 43}}, case.undisturbed)
    changed = undisturbed(other, tmp_path / "other")
    assert changed.weights != case.undisturbed.weights
    assert changed.optimizer != case.undisturbed.optimizer
    assert changed.lineage != case.undisturbed.lineage


@pytest.mark.parametrize("seed", [1, 2])
def test_b3_killed_and_stopped_again_and_again(case: Case, tmp_path: Path, seed: int) -> None:
    chance = random.Random(f"{case.base} {seed}".rsplit("/", 1)[-1])
    layout = case.workspace(tmp_path / "run", save_steps=chance.choice([1, 2, 3]), save_total_limit=2)
    drop(layout, *FILES)
    seen: dict[int, Counter[rig.Row]] = {}
    ways = chance.sample(["step", "stop", "disk"], 3)
    life = 0
    while life < 60:
        way = ways[life] if life < 3 else chance.choice(["step", "step", "stop", "disk"])
        life += 1
        try:
            _live(layout, chance, way, seen)
        except rig.Killed:
            continue
        if rig.outcome(layout).step == STEPS:
            break
    assert rig.outcome(layout) == case.undisturbed
    assert set(rig.states(layout).values()) == {"learned"}
    assert total(seen) == all_rows()
    assert life > 3


def _live(layout: Layout, chance: random.Random, way: str, seen: dict[int, Counter[rig.Row]]) -> None:
    """One life, ended a few steps on: between two steps, at a change to the disk, or by asking it to stop."""
    further = chance.randint(1, 3)
    count = [0]

    def on_step(trainer: Trainer) -> None:
        count[0] += 1
        if count[0] == further:
            if way == "step":
                raise rig.Killed
            if way == "stop":
                trainer.stop.set("the test asked for it")

    fatal = chance.randint(1, 80)

    def before(disk: rig.Mortal, *_: Any) -> None:
        if way == "disk" and len(disk.operations) == fatal:
            disk.die()

    rig.run(layout, on_step=on_step, before=before, seen=seen)


def test_saving_at_every_step_makes_no_difference(case: Case, tmp_path: Path) -> None:
    layout = case.workspace(tmp_path / "run", save_steps=1)
    drop(layout, *FILES)
    rig.run(layout)
    assert rig.outcome(layout) == case.undisturbed


def test_a1_a2_files_one_by_one_with_a_stop_between(case: Case, tmp_path: Path) -> None:
    """Files that come when the ones before are learned and the machine was off, and in the middle of another."""
    layout = case.workspace(tmp_path / "run", save_steps=1000)
    seen: dict[int, Counter[rig.Row]] = {}
    drop(layout, "a")
    assert rig.run(layout, seen=seen).loop.done == 4
    drop(layout, "b")
    assert rig.run(layout, seen=seen, on_step=rig.stop_at(6)).loop.done == 6
    drop(layout, "c")
    assert rig.run(layout, seen=seen).loop.done == STEPS
    assert rig.outcome(layout) == case.undisturbed
    assert total(seen) == all_rows()
    assert {step: sum(rows.values()) > 0 for step, rows in seen.items()} == dict.fromkeys(range(1, STEPS + 1), True)


def test_b1_save_in_flight_while_training_goes_on_and_is_killed(case: Case, tmp_path: Path) -> None:
    """The save of step 4 is written while steps 5 and 6 change the state; then the power goes."""
    layout = case.workspace(tmp_path / "run", save_steps=4)
    drop(layout, *FILES)
    with pytest.raises(rig.Killed):
        _save_late(layout, at=4, until=6, kill=7)
    assert rig.outcome(layout).step == 4
    rig.run(layout)
    assert rig.outcome(layout) == case.undisturbed


def _save_late(layout: Layout, *, at: int, until: int, kill: int) -> None:
    """A life in which the save of step `at` begins to write only when step `until` is done."""
    may_write, published = threading.Event(), threading.Event()

    def on_start(trainer: Trainer) -> None:
        real = trainer.saver._write

        def write(job: Any, host: HostState, stalled: float) -> None:
            if job.record.step == at:
                assert may_write.wait(60)
            real(job, host, stalled)
            published.set()

        trainer.saver._write = write

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == until:
            may_write.set()
            assert published.wait(60)
        if trainer.loop.done == kill:
            raise rig.Killed

    rig.run(layout, on_start=on_start, on_step=on_step)


def test_one_save_at_a_time(cases: Callable[[str, str], Case], tmp_path: Path) -> None:
    """The memory of a save is used again by the next, which therefore waits for it."""
    case = cases("llama", "lora")
    layout = case.workspace(tmp_path / "run", save_steps=1)
    drop(layout, *FILES)
    busy: list[bool] = []

    def on_start(trainer: Trainer) -> None:
        real, real_capture = trainer.saver._write, trainer.saver._buffer.capture

        def write(job: Any, host: HostState, stalled: float) -> None:
            threading.Event().wait(0.1)
            real(job, host, stalled)

        def capture(*state: Any) -> HostState:
            busy.append(trainer.saver.busy)
            return real_capture(*state)

        trainer.saver._write = write
        trainer.saver._buffer.capture = capture  # pyright: ignore[reportAttributeAccessIssue]

    rig.run(layout, on_start=on_start)
    assert busy == [False] * STEPS
    assert rig.outcome(layout) == case.undisturbed


@pytest.mark.slow
def test_b1_killed_at_every_change_to_the_disk(cases: Callable[[str, str], Case], tmp_path: Path) -> None:
    """Every single operation of a life that starts from a checkpoint, saves another and retires a third."""
    case = cases("llama", "lora")
    options = {"save_steps": 1, "save_total_limit": 2}

    begun = case.workspace(tmp_path / "begun", **options)
    drop(begun, "a")
    rig.run(begun, on_step=rig.stop_at(3))

    def again(name: str) -> Layout:
        return Layout(shutil.copytree(begun.root, tmp_path / name, symlinks=True))

    whole = again("whole")
    operations: list[str] = []
    rig.run(whole, after=lambda disk, name, _: operations.append(name))
    wanted = rig.outcome(whole)
    assert wanted.step == 4
    steps_of_survivors = set()
    for fatal in range(len(operations)):
        # A sync changes nothing that a killed process leaves behind; and any half of a folder in the trash will do.
        if operations[fatal - 1 : fatal] == ["sync"] or operations[fatal - 2 : fatal] == ["unlink", "unlink"]:
            continue
        layout = again(str(fatal))
        with pytest.raises(rig.Killed):
            rig.run(layout, before=lambda disk, *_, at=fatal: disk.die() if len(disk.operations) == at else None)
        steps_of_survivors.add(layout.checkpoints()[-1][0])
        rig.run(layout)
        assert rig.outcome(layout) == wanted, f"killed before operation {fatal}"
    assert steps_of_survivors == {3, 4}


# Controls: what the law rests on, taken away one by one.


def disturbed(case: Case, root: Path, seen: dict[int, Counter[rig.Row]] | None = None) -> rig.Outcome:
    """The run with one kill in the middle of the second file, resumed from a checkpoint in the first third of it."""
    layout = case.workspace(root, save_steps=3)
    drop(layout, *FILES)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_at(8), seen=seen)
    rig.run(layout, seen=seen)
    return rig.outcome(layout)


@pytest.fixture(params=[("llama", "lora"), ("gpt2", "full")], ids="-".join)
def control(request: pytest.FixtureRequest, cases: Callable[[str, str], Case]) -> Case:
    return cases(*request.param)


def test_what_the_controls_disturb_is_equal_while_nothing_is_broken(control: Case, tmp_path: Path) -> None:
    seen: dict[int, Counter[rig.Row]] = {}
    assert disturbed(control, tmp_path / "run", seen) == control.undisturbed
    assert total(seen) == all_rows()


def test_what_is_done_again_is_said(control: Case, tmp_path: Path) -> None:
    layout = control.workspace(tmp_path / "run", save_steps=3)
    drop(layout, *FILES)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_saved_at(8))
    with Ledger.open(layout.ledger) as ledger:
        ledger.steps.record([StepRow(step, 1, 2.0, 0.005, 1.0, 10, 10, 0.1) for step in (7, 8)])
    rig.run(layout)
    said = "Resumed from checkpoint-6. Steps 7 to 8 had been done after it, and are done again."
    assert rig.events(layout, "resumed") == [said]


def test_control_optimizer_not_loaded(control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "load", lambda *_: None)
    with pytest.raises(CheckpointError, match="optimizer are not what was saved"):
        disturbed(control, tmp_path / "guarded")
    monkeypatch.setattr(checkpoint, "verify_digests", lambda *_: None)
    found = disturbed(control, tmp_path / "run")
    assert found.weights != control.undisturbed.weights
    assert found.optimizer != control.undisturbed.optimizer


def test_control_cells_not_seeded(control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "seed_cell", lambda *_: None)
    assert disturbed(control, tmp_path / "run").weights != undisturbed(control, tmp_path / "whole").weights


def test_control_dropout_seeded_per_process(control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process counts its own cells: in an undisturbed run nothing is wrong."""
    real, real_init = determinism.seed_cell, Loop.__init__
    cells = [0]

    def init(self: Loop, *args: Any) -> None:
        cells[0] = 0
        real_init(self, *args)

    def seed_cell(seed: int, step: int, cell: int) -> None:
        real(seed, cells[0], 0)
        cells[0] += 1

    monkeypatch.setattr(Loop, "__init__", init)
    monkeypatch.setattr(determinism, "seed_cell", seed_cell)
    whole = undisturbed(control, tmp_path / "whole")
    assert whole == undisturbed(control, tmp_path / "again")
    assert disturbed(control, tmp_path / "run").weights != whole.weights


def test_control_position_off_by_one_after_a_resume(
    control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightschool.training import loop

    real, real_restore = loop.curriculum.step_sequences, Loop.restore
    resumed = [0]

    def restore(self: Loop, *args: Any) -> Any:
        resumed[0] = 1
        return real_restore(self, *args)

    def step_sequences(seed: int, entry: Any, local: int) -> Any:
        return real(seed, entry, (local + resumed[0]) % entry.length)

    monkeypatch.setattr(Loop, "restore", restore)
    monkeypatch.setattr(loop.curriculum, "step_sequences", step_sequences)
    seen: dict[int, Counter[rig.Row]] = {}
    found = disturbed(control, tmp_path / "run", seen)
    assert found.weights != control.undisturbed.weights
    assert found.lineage == control.undisturbed.lineage
    assert total(seen) != all_rows()


def test_control_rate_from_steps_since_the_resume(
    control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, real_restore = schedule.learning_rate, Loop.restore
    resumed_at = [0]

    def restore(self: Loop, folder: Path, record: Any) -> Any:
        resumed_at[0] = record.step
        return real_restore(self, folder, record)

    monkeypatch.setattr(Loop, "restore", restore)
    monkeypatch.setattr(schedule, "learning_rate", lambda recipe, step, _: real(recipe, step, resumed_at[0]))
    found = disturbed(control, tmp_path / "run")
    assert found.weights != control.undisturbed.weights
    assert [rate for _, _, rate in found.curve] != [rate for _, _, rate in control.undisturbed.curve]


def test_control_live_tensors_in_the_save(control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a copy, the save of step 4 holds the state of step 6, and even its digests agree."""

    def alive(_: HostBuffer, weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> HostState:
        # Other names for the same storage: the trainer empties its own when it gives the device back at its end.
        return HostState({name: tensor.detach() for name, tensor in weights.items()}, optimizer.state_dict())

    monkeypatch.setattr(HostBuffer, "capture", alive)
    layout = control.workspace(tmp_path / "run", save_steps=4)
    drop(layout, *FILES)
    with pytest.raises(rig.Killed):
        _save_late(layout, at=4, until=6, kill=7)
    rig.run(layout)
    found = rig.outcome(layout)
    assert found.step == STEPS
    assert found.weights != control.undisturbed.weights


def test_control_only_the_step_counters_alive(control: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `.cpu()` would have done on a GPU: every tensor copied but the one that lives on the host already."""
    real = HostBuffer._copy

    def copy(self: HostBuffer, key: tuple[str, ...], tensor: Any) -> Any:
        return tensor if key[-1] == "step" else real(self, key, tensor)

    monkeypatch.setattr(HostBuffer, "_copy", copy)
    layout = control.workspace(tmp_path / "run", save_steps=4)
    drop(layout, *FILES)
    with pytest.raises(rig.Killed):
        _save_late(layout, at=4, until=6, kill=7)
    rig.run(layout)
    assert rig.outcome(layout).weights != control.undisturbed.weights
