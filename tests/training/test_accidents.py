"""Accidents that happened to people who trained this way, and process death: what must happen instead.

Tests are named after the rows of the project's list of failures. What is damaged on the disk is in test_damage, steps
that are not finite in test_not_finite.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import durable
from nightschool.errors import BusyError, CheckpointError, ModelError, SettingsError, StorageError
from nightschool.ledger import Ledger
from nightschool.training import checkpoint, loss, model
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig, small


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> rig.Outcome:
    return small.undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", base)


@pytest.fixture
def layout(base: Path, tmp_path: Path) -> Layout:
    return small.make(tmp_path / "run", base)


def test_a4_the_optimizer_outlives_the_old_checkpoints(layout: Layout, undisturbed: rig.Outcome) -> None:
    """Retention removes old checkpoints; the moments of every step so far are in the newest."""
    small.stop_at(layout, 8)
    with Ledger.open(layout.ledger) as ledger:
        gone = [row.step for row in ledger.checkpoints.listing(state="retired")]
    assert gone == [2]
    assert [step for step, _ in layout.checkpoints()] == [4, 6, 8]
    seen: list[float] = []

    def on_start(trainer: Trainer) -> None:
        seen.extend(float(values["step"]) for values in trainer.loop.optimizer.state.values())

    rig.run(layout, on_start=on_start)
    assert seen
    assert set(seen) == {8.0}
    assert rig.outcome(layout) == undisturbed


def test_a5_the_adapter_of_the_checkpoint_is_the_one_that_trains(layout: Layout, undisturbed: rig.Outcome) -> None:
    small.stop_at(layout, 5)
    size: list[float] = []

    def on_start(trainer: Trainer) -> None:
        size.extend(float(t.detach().abs().max()) for name, t in trainer.loop.weights.items() if "lora_B" in name)

    rig.run(layout, on_start=on_start)
    assert size
    assert min(size) > 0
    assert rig.outcome(layout) == undisturbed


def test_a5_control_an_adapter_made_anew_is_found_at_load(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `get_peft_model` on a model that has its adapter already does: B is zero again."""
    small.stop_at(layout, 5)
    real = model.load_trainable

    def load_trainable(live: Any, *more: Any) -> None:
        real(live, *more)
        for name, parameter in live.named_parameters():
            if "lora_B" in name:
                torch.nn.init.zeros_(parameter)

    monkeypatch.setattr(model, "load_trainable", load_trainable)
    before = small.checkpoints(layout)
    with pytest.raises(CheckpointError, match="the weights are not what was saved"):
        rig.run(layout)
    assert small.checkpoints(layout) == before


def test_a6_the_newest_checkpoint_is_chosen_by_number(base: Path, tmp_path: Path) -> None:
    made = rig.workspace(tmp_path / "run", base, checkpoints={"save_steps": 1})
    rig.add(made, "a", rig.sequences(44, 1))
    small.stop_at(made, 10)
    found = [path.name for _, path in made.checkpoints()]
    assert found == ["checkpoint-8", "checkpoint-9", "checkpoint-10"]
    assert max(found) == "checkpoint-9", "control: this is what text order would choose"
    steps: list[int] = []
    rig.run(made, on_step=lambda trainer: steps.append(trainer.loop.done))
    assert steps == [11]


def test_a7_another_base_model_stops_the_run(layout: Layout, base: Path, tmp_path: Path) -> None:
    """The adapter is merged into the base; training on from that, or from yet another, is refused."""
    own = Path(shutil.copytree(base, tmp_path / "base"))
    rig.configure(layout, own, checkpoints={"save_steps": 2})
    small.stop_at(layout, 5)
    before = small.checkpoints(layout)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(own), str(layout.current_model))
    adapted.merge_and_unload().save_pretrained(own)
    with pytest.raises(ModelError, match=r"model\.safetensors changed"):
        rig.run(layout)
    assert small.checkpoints(layout) == before
    # Control: the same files, by another path, are the same base.
    shutil.rmtree(own)
    rig.configure(layout, Path(shutil.copytree(base, tmp_path / "elsewhere")), checkpoints={"save_steps": 2})
    assert rig.run(layout).loop.done == small.STEPS


def test_a8_a_file_is_learned_when_a_checkpoint_holds_its_last_step(base: Path, tmp_path: Path) -> None:
    """File b waits and the last save is young, so the end of file a is in no checkpoint for a while."""
    made = small.make(tmp_path / "run", base, save_steps=1000)
    states: dict[int, dict[str, str]] = {}

    def on_step(trainer: Trainer) -> None:
        states[trainer.loop.done] = rig.states(made)
        if trainer.loop.done == 7:
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(made, on_step=on_step)
    assert states[3] == {"a": "training", "b": "ready"}
    assert states[7] == {"a": "trained", "b": "training"}
    assert made.checkpoints() == []
    done: list[int] = []
    rig.run(made, on_step=lambda trainer: done.append(trainer.loop.done))
    assert done == list(range(1, small.STEPS + 1)), "nothing was in a checkpoint: all of it is trained"
    assert rig.states(made) == {"a": "learned", "b": "learned"}


@pytest.mark.parametrize("step", [3, 6])
def test_a8_a_stop_in_the_middle_of_a_file_leaves_it_unlearned(
    layout: Layout, undisturbed: rig.Outcome, step: int
) -> None:
    small.stop_at(layout, step)
    assert rig.states(layout) == ({"a": "training", "b": "ready"} if step < 4 else {"a": "learned", "b": "training"})
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "learned"}
    assert rig.outcome(layout) == undisturbed


def test_a9_a_crash_costs_the_steps_since_the_checkpoint_only(layout: Layout, undisturbed: rig.Outcome) -> None:
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_saved_at(7))
    done: list[int] = []
    rig.run(layout, on_step=lambda trainer: done.append(trainer.loop.done))
    assert done == [7, 8, 9]
    assert rig.outcome(layout) == undisturbed


def test_a10_nothing_but_retention_removes_a_checkpoint(layout: Layout, base: Path) -> None:
    """Neither a file of the same name and size, nor other settings, nor a refused start."""
    rig.run(layout)
    before = small.checkpoints(layout)
    rig.configure(layout, base, checkpoints={"save_steps": 1000}, training={"seed": 43})
    with pytest.raises(SettingsError, match=r"training\.seed was 42 and is now 43"):
        rig.run(layout)
    assert small.checkpoints(layout) == before
    rig.configure(layout, base, checkpoints={"save_steps": 1000}, training={"learning_rate": 1e-3})
    rig.run(layout)
    assert small.checkpoints(layout) == before
    rig.add(layout, "b again", rig.sequences(20, 7))
    assert rig.run(layout).loop.done == small.STEPS + 5
    now = small.checkpoints(layout)
    kept = {name: data for name, data in before.items() if name.startswith(("checkpoint-8/", "checkpoint-9/"))}
    assert kept
    assert kept.items() <= now.items()


def test_b2_killed_between_publishing_and_the_ledger(layout: Layout, undisturbed: rig.Outcome) -> None:
    """The checkpoint wins: the run goes on from it, and the ledger is told."""

    def on_start(trainer: Trainer) -> None:
        def publish(*_: Any, **__: Any) -> None:
            raise rig.Killed

        trainer.ledger.checkpoints.publish = publish

    with pytest.raises(rig.Killed):
        rig.run(layout, on_start=on_start)
    assert [step for step, _ in layout.checkpoints()] == [2]
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.checkpoints.listing() == []
        last = ledger.steps.last()
        assert last is not None
        assert last.step >= 2, "rows are durable before a checkpoint is published"
    done: list[int] = []
    rig.run(layout, on_step=lambda trainer: done.append(trainer.loop.done))
    assert done[0] == 3
    with Ledger.open(layout.ledger) as ledger:
        row = next(row for row in ledger.checkpoints.listing() if row.step == 2)
    assert row.bytes_adapter > 0
    assert row.bytes_optimizer > 0
    assert rig.outcome(layout) == undisturbed


def test_b2_killed_between_the_ledger_and_the_adapter_at_the_root(layout: Layout) -> None:
    """The next start brings `current_model/` itself up to date."""

    def after(disk: rig.Mortal, name: str, arguments: tuple) -> None:
        if name == "rename" and Path(arguments[1]).name == "adapter_config.json" and rig.in_saver():
            disk.die()

    with pytest.raises(rig.Killed):
        rig.run(layout, after=after)
    assert not (layout.current_model / "adapter_model.safetensors").exists()
    newest = layout.checkpoints()[-1][1]
    found: list[bool] = []

    def on_start(_: Trainer) -> None:
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            found.append((layout.current_model / name).read_bytes() == (newest / name).read_bytes())
        assert not list(layout.current_model.glob(".tmp-*"))

    rig.run(layout, on_start=on_start)
    assert found == [True, True]


def test_b3_killed_in_the_middle_of_a_step(layout: Layout, undisturbed: rig.Outcome) -> None:
    """After the first of a step's two cells has left its gradients."""
    real, cells = loss.sum_loss, [0]

    def sum_loss(*arguments: Any) -> Any:
        cells[0] += 1
        if cells[0] == 12:
            raise rig.Killed
        return real(*arguments)

    loss.sum_loss = sum_loss
    try:
        with pytest.raises(rig.Killed):
            rig.run(layout)
        rig.run(layout)
    finally:
        loss.sum_loss = real
    assert rig.outcome(layout) == undisturbed


def test_b4_killed_in_the_middle_of_retention(layout: Layout, undisturbed: rig.Outcome) -> None:
    """Once when the folder is out of the way, and once when half of it is gone: it is never seen again."""
    for files in (0, 3):
        removed: list[str] = []

        def after(disk: rig.Mortal, name: str, arguments: tuple, files: int = files, removed: Any = removed) -> None:
            target = Path(arguments[-1]) if name in ("rename", "unlink") else Path()
            inside = target.parts[len(layout.current_model.parts) :] if layout.current_model in target.parents else ()
            if inside and inside[0].startswith(".trash-"):
                removed.append(name)
                if len(removed) > files:
                    disk.die()

        with pytest.raises(rig.Killed):
            rig.run(layout, after=after)
        left = {step for step, _ in layout.checkpoints()}
        assert all(durable.check(path) == [] for _, path in layout.checkpoints())
        assert list(layout.current_model.glob(".trash-*")), "the accident did not happen"
        with Ledger.open(layout.ledger) as ledger:
            listed = {row.step for row in ledger.checkpoints.listing(state="published")}
        assert listed > left, "the ledger still lists what is gone"
    rig.run(layout)
    assert not list(layout.current_model.glob(".trash-*"))
    with Ledger.open(layout.ledger) as ledger:
        listed = {row.step for row in ledger.checkpoints.listing(state="published")}
    assert listed == {step for step, _ in layout.checkpoints()}
    assert rig.outcome(layout) == undisturbed


def test_b4_control_deleting_in_place_leaves_a_half_folder_under_its_name(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.remove_tree

    def remove_tree(folder: Path) -> None:
        if folder.name.startswith("checkpoint-"):
            (folder / "optimizer.pt").unlink()
            raise rig.Killed
        real(folder)

    monkeypatch.setattr(durable, "remove_tree", remove_tree)
    with pytest.raises(rig.Killed):
        rig.run(layout)
    assert any(durable.check(path) for _, path in layout.checkpoints())


def test_a_checkpoint_of_another_run_is_moved_aside(layout: Layout, base: Path, undisturbed: rig.Outcome) -> None:
    """Whole, of the right shape and with a higher number: but its lineage is another."""
    stranger = foreign(layout.root.parent / "stranger", base)
    small.stop_at(layout, 5)
    shutil.copytree(stranger, layout.checkpoint(7))
    before = small.tree(layout.checkpoint(7))
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed
    assert small.tree(layout.undone / "0" / "checkpoint-7") == before
    assert any(
        "checkpoint-7 is not used: its lineage is another" in text for text in rig.events(layout, "checkpoint-foreign")
    )


def test_control_without_lineage_the_other_runs_checkpoint_would_be_used(
    layout: Layout, base: Path, undisturbed: rig.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = foreign(layout.root.parent / "stranger", base)
    small.stop_at(layout, 5)
    shutil.copytree(stranger, layout.checkpoint(7))
    monkeypatch.setattr(checkpoint, "belongs", lambda *_: None)
    rig.run(layout)
    assert rig.outcome(layout).weights != undisturbed.weights


def foreign(root: Path, base: Path) -> Path:
    """A checkpoint at step 7 of a run over the same files in the other order."""
    other = small.make(root, base, save_steps=7, names="ba")
    rig.run(other)
    return other.checkpoint(7)


def test_b10_a_trainer_that_lost_its_lock_publishes_nothing(layout: Layout) -> None:
    small.stop_at(layout, 2)
    before = small.checkpoints(layout)

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 3:
            layout.trainer_lock.unlink()
            layout.trainer_lock.touch()

    with pytest.raises(BusyError, match="checkpoint-4 was not published"):
        rig.run(layout, on_step=on_step)
    assert small.checkpoints(layout) == before
    assert not list(layout.current_model.glob(".tmp-*"))


def test_b10_control_without_the_check_it_would(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable.Lock, "still_held", lambda _: True)

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 3:
            layout.trainer_lock.unlink()
            layout.trainer_lock.touch()

    rig.run(layout, on_step=on_step)
    assert layout.checkpoint(4).is_dir()


def test_a_save_that_fails_stops_the_run_and_leaves_the_old_state(layout: Layout, undisturbed: rig.Outcome) -> None:
    """C4: an fsync that returns EIO while checkpoint-4 is written."""
    small.stop_at(layout, 2)
    before = small.checkpoints(layout)

    def failing(_: rig.Mortal, name: str, arguments: tuple) -> None:
        if name == "sync" and rig.in_saver():
            raise OSError(5, "Input/output error")

    with pytest.raises(StorageError) as caught:
        rig.run(layout, before=failing)
    assert caught.value.errno == 5
    assert small.checkpoints(layout) == before
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed
