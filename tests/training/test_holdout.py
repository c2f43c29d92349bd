"""Measuring on rows that are never trained on: right, bounded, and without a trace in the run."""

from __future__ import annotations

import shutil
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool.errors import TrainingError
from nightschool.intake.packing import Packed
from nightschool.ledger import HoldoutRow, Ledger
from nightschool.training import checkpoint
from nightschool.training.holdout import Holdout
from nightschool.training.loop import Loop
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


def single(rows: int, seed: int) -> list[Packed]:
    """Sequences of one row each, as held-out rows are kept."""
    found = []
    for one in rig.sequences(rows, seed):
        end = int(one.lengths[0])
        found.append(Packed(one.ids[:end], one.train[:end], one.lengths[:1], one.rows[:1]))
    return found


HELD = {"a": single(7, 21), "b": single(3, 22)}


def make(root: Path, base: Path, **data: Any) -> Layout:
    layout = rig.workspace(root, base, checkpoints={"save_steps": 2}, data={"max_length": 32, **data})
    for seed, (name, sequences) in enumerate({"a": 15, "b": 9}.items()):
        rig.add(layout, name, rig.sequences(sequences, seed), held=HELD[name])
    return layout


def measured(layout: Layout) -> list[HoldoutRow]:
    with Ledger.open(layout.ledger) as ledger:
        return [row for position in (0, 1) for row in ledger.holdouts.at(position)]


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = make(tmp_path_factory.mktemp("undisturbed") / "run", base)
    rig.run(layout)
    return layout


@torch.no_grad()
def plainly(base: Path, adapter: Path | None, rows: list[Packed]) -> float:
    """Mean loss over the label tokens, by the model's own forward, one row at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    total = labels = 0.0
    for one in rows:
        logits = model(torch.tensor(one.ids, dtype=torch.long)[None]).logits[0, :-1].log_softmax(-1)
        learned = torch.tensor(one.train[1:] == 1)
        picked = logits.gather(1, torch.tensor(one.ids[1:], dtype=torch.long)[:, None])[:, 0]
        total -= picked[learned].sum().item()
        labels += learned.sum().item()
    return total / labels


def test_the_losses_are_the_models_own_before_and_after_each_file(undisturbed: Layout, base: Path) -> None:
    first, second = measured(undisturbed)
    folders = {step: folder for step, folder in undisturbed.checkpoints()}
    assert (first.file_id, first.rows, second.file_id, second.rows) == (1, 7, 2, 3)
    assert first.label_tokens == sum(int(one.train.sum()) for one in HELD["a"])
    assert first.loss_before == pytest.approx(plainly(base, None, HELD["a"]), abs=1e-5)
    assert first.loss_after == pytest.approx(plainly(base, folders[4], HELD["a"]), abs=1e-5)
    assert second.loss_before == pytest.approx(plainly(base, folders[4], HELD["b"]), abs=1e-5)
    assert second.loss_after == pytest.approx(plainly(base, folders[7], HELD["b"]), abs=1e-5)
    assert first.loss_before != pytest.approx(plainly(base, None, HELD["b"]), abs=1e-5)  # control: other rows
    assert [text.split(":")[0] for text in rig.events(undisturbed, "holdout")] == ["a", "b"]


def test_a14_measuring_leaves_no_trace_in_the_run(undisturbed: Layout, base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base, holdout_seconds=0)
    rig.run(layout)
    assert measured(layout) == []
    assert rig.outcome(layout) == rig.outcome(undisturbed)


@pytest.mark.parametrize("broken", ["dropout stays off", "it is learned from"])
def test_a14_control_a_measurement_with_a_trace_is_seen(
    broken: str, undisturbed: Layout, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Loop.evaluate

    def evaluate(loop: Loop, sequences: Any) -> float:
        found = real(loop, sequences)
        if broken == "dropout stays off":
            loop.built.model.eval()
        else:
            for parameter in loop.parameters:
                parameter.data.mul_(1.0001)
        return found

    monkeypatch.setattr(Loop, "evaluate", evaluate)
    layout = make(tmp_path / "run", base)
    if broken == "it is learned from":
        with pytest.raises(TrainingError, match="not what the file before it left"):
            rig.run(layout)
    else:
        rig.run(layout)
        assert rig.outcome(layout) != rig.outcome(undisturbed)


def holdout(trainer: Trainer, **changes: Any) -> Holdout:
    options: dict[str, Any] = {"seconds": 30.0, "stopping": trainer.stop.is_set, **changes}
    return Holdout(trainer.loop, trainer.ledger, trainer.prepared.open_holdout, **options)


def test_a14_a_measurement_is_bounded_in_time_and_the_second_takes_as_many_rows(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base)

    def on_start(trainer: Trainer) -> None:
        # A second passes each time anybody looks: two cells of two rows are measured, then time is up.
        trainer.holdout = holdout(trainer, seconds=3.0, clock=count().__next__)

    rig.run(layout, on_start=on_start)
    first = measured(layout)[0]
    assert first.rows == 4
    assert first.loss_before == pytest.approx(plainly(base, None, HELD["a"][:4]), abs=1e-5)
    step_four = dict(layout.checkpoints())[4]
    assert first.loss_after == pytest.approx(plainly(base, step_four, HELD["a"][:4]), abs=1e-5)


def test_a14_a_save_is_not_held_up_by_a_measurement(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last save at a file's end waits for the measurement to have come: so they run side by side."""
    measuring = threading.Event()
    real_write, real_after = checkpoint.write_contents, Holdout.after

    def write_contents(folder: Path, record: Any, *more: Any, **others: Any) -> Any:
        if record.step == 4:
            assert measuring.wait(60)
        return real_write(folder, record, *more, **others)

    def after(self: Holdout, position: int, entry: Any) -> None:
        measuring.set()
        real_after(self, position, entry)

    monkeypatch.setattr(checkpoint, "write_contents", write_contents)
    monkeypatch.setattr(Holdout, "after", after)
    layout = make(tmp_path / "run", base)
    rig.run(layout)
    assert 4 in dict(layout.checkpoints())


@pytest.mark.parametrize("cells", [1, 5])
def test_a_measurement_that_is_stopped_is_made_at_the_next_start(
    cells: int, undisturbed: Layout, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to stop in the measurement before the first step, and in the one after file a's last."""
    layout = make(tmp_path / "run", base)
    real, evaluated = Loop.evaluate, []

    def evaluate(loop: Loop, sequences: Any) -> float:
        evaluated.append(len(sequences))
        if len(evaluated) == cells:
            lives[-1].stop.set("the test asked for it")
        return real(loop, sequences)

    lives: list[Trainer] = []
    monkeypatch.setattr(Loop, "evaluate", evaluate)
    rig.run(layout, on_start=lives.append)
    stopped_at = lives[-1].loop.done
    assert stopped_at == (0 if cells == 1 else 4)
    assert len(measured(layout)) == (0 if cells == 1 else 1)
    rig.run(layout, on_start=lives.append)
    assert measured(layout) == measured(undisturbed)
    assert rig.outcome(layout) == rig.outcome(undisturbed)


def test_held_out_rows_of_a_learned_file_that_are_gone_do_not_stop_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody prepares a learned file again: a start that waited for that would wait for ever."""
    layout = make(tmp_path / "run", base)
    real = Holdout.after

    def after(holdout: Holdout, position: int, entry: Any) -> None:
        monkeypatch.setattr(Holdout, "after", real)
        life["trainer"].stop.set("the test")

    life: dict[str, Trainer] = {}
    monkeypatch.setattr(Holdout, "after", after)
    rig.run(layout, on_start=lambda trainer: life.update(trainer=trainer))
    assert rig.states(layout)["a"] == "learned"
    shutil.rmtree(layout.prepared / "a")
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "learned"}
    assert [row.loss_after is None for row in measured(layout)] == [True, False]


def test_killed_after_the_last_step_of_a_file_the_measurement_is_made_up_for(
    undisturbed: Layout, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = make(tmp_path / "run", base)
    with monkeypatch.context() as patch:

        def die(self: Holdout, position: int, entry: Any) -> None:
            raise rig.Killed

        patch.setattr(Holdout, "after", die)
        with pytest.raises(rig.Killed):
            rig.run(layout)
    rig.run(layout)
    assert measured(layout) == measured(undisturbed)
    assert rig.outcome(layout) == rig.outcome(undisturbed)
