"""A trainer that is told to stop gives up the step it is at, and the device before anything is written."""

from __future__ import annotations

import errno
import gc
import threading
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import room
from nightschool.errors import StorageError
from nightschool.training import batch, memory, model
from nightschool.training.saver import Saver
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"training": {"method": "lora"}},
    "full": {"training": {"method": "full"}},
    "forgetful": {"training": {"method": "lora", "carry_optimizer": False}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), "gpt2", dropout=0.1)


def make(root: Path, base: Path, kind: str) -> Layout:
    layout = rig.workspace(root, base, **KINDS[kind])
    rig.add(layout, "a", rig.sequences(12, 1))
    rig.add(layout, "b", rig.sequences(16, 2))
    return layout


def stop_within(step: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Told to stop while the first cell of `step` goes through the model; to be called as on_start."""

    def on_start(trainer: Trainer) -> None:
        real = batch.collate

        def collate(*arguments: Any, **options: Any) -> Any:
            if trainer.loop.done + 1 == step:
                trainer.stop.set("the test asked for it")
            return real(*arguments, **options)

        monkeypatch.setattr(batch, "collate", collate)

    return on_start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 3, 4])
def test_b3_a_step_that_is_given_up_is_done_again_with_the_same_bits(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    """Step 4 is the first of a file: neither its moments are reset nor its boundary is crossed before it is done."""
    layout, other = make(tmp_path / "run", base, kind), make(tmp_path / "other", base, kind)
    stopped = make(tmp_path / "stopped", base, kind)
    rig.run(other)
    with monkeypatch.context() as patch:
        trainer = rig.run(layout, on_start=stop_within(step, patch))
    assert trainer.loop.done == step - 1
    if step > 1:
        rig.run(stopped, on_step=rig.stop_at(step - 1))
        assert rig.final(layout) == rig.final(stopped), "as if the step had never been begun"
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(other)


def test_control_gradients_that_stay_would_be_seen(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one life the step is taken again at once: what was accumulated before must be gone."""
    layout, other = make(tmp_path / "run", base, "lora"), make(tmp_path / "other", base, "lora")
    rig.run(other)

    def careless(trainer: Trainer) -> None:
        real, asked = trainer.loop.optimizer.zero_grad, []

        def interrupted() -> bool:
            asked.append(None)
            return len(asked) == 2

        trainer.loop.interrupted = interrupted
        trainer.loop.optimizer.zero_grad = lambda **options: None if len(asked) == 2 else real(**options)  # pyright: ignore

    rig.run(layout, on_start=careless)
    assert rig.outcome(layout).weights != rig.outcome(other).weights


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_device_is_free_before_the_checkpoint_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    layout, other = make(tmp_path / "run", base, kind), make(tmp_path / "other", base, kind)
    rig.run(other, on_step=rig.stop_at(2))
    real, held = model.write_model, []

    def write(built: Any, *more: Any) -> None:
        held.append(sum(t.numel() for t in (*built.parameters(), *built.buffers())))
        real(built, *more)

    monkeypatch.setattr(model, "write_model", write)
    trainer = rig.run(layout, on_step=rig.stop_at(2))
    assert held == [0]
    assert trainer.loop.optimizer.state == {}
    assert all(p.grad is None for p in trainer.loop.parameters)
    assert rig.final(layout) == rig.final(other)


def test_control_a_save_on_the_way_leaves_the_model_where_it_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = make(tmp_path / "run", base, "lora")
    real, held = model.write_model, []

    def write(built: Any, *more: Any) -> None:
        held.append(sum(p.numel() for p in built.parameters()))
        real(built, *more)

    monkeypatch.setattr(model, "write_model", write)
    rig.run(layout)
    assert len(held) > 1
    assert all(held[:-1]), "the last one may be written while the trainer ends"


@pytest.mark.parametrize("stop", [5, 6])
def test_a_save_in_flight_does_not_keep_the_device(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Told to stop while a checkpoint is written: the device is free before that one is on the disk, and all come.

    At 5 that is the last one; at 6 there is another behind it, which holds all of it: only that one is waited for.
    """
    layout, other = make(tmp_path / "run", base, "lora"), make(tmp_path / "other", base, "lora")
    rig.run(other, on_step=rig.stop_at(stop))
    real, free, seen = model.write_model, threading.Event(), []

    def slowly(built: Any, *more: Any) -> None:
        if not seen:
            seen.append(free.wait(60))
        real(built, *more)

    def on_start(trainer: Trainer) -> None:
        release = trainer.loop.release

        def released() -> None:
            release()
            free.set()

        trainer.loop.release = released

    monkeypatch.setattr(model, "write_model", slowly)
    rig.run(layout, on_start=on_start, on_step=rig.stop_at(stop))
    assert seen == [True], "the first save had not ended when the device was given back"
    assert [step for step, _ in layout.checkpoints()] == [stop]
    assert not list(layout.current_model.glob(".tmp-*"))
    assert rig.final(layout) == rig.final(other)
    rig.run(layout)
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_save_that_is_overtaken_is_not_waited_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody who pauses waits for two saves; the run is what it would be with both."""
    layout, other = make(tmp_path / "run", base, kind), make(tmp_path / "other", base, kind)
    rig.run(other, on_step=rig.stop_at(6))
    real, written, begun = model.write_model, [], threading.Event()

    def write(built: Any, method: str, weights: Any, folder: Path) -> None:
        begun.set()
        real(built, method, weights, folder)
        if not written:
            assert overtaken.wait(60), "the last save has not come while the one before it was written"
        written.append(folder.name)

    def on_start(trainer: Trainer) -> None:
        nonlocal overtaken
        overtaken = trainer.saver._overtaken

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 6:
            # Overtaken before it has begun, it would write nothing, and it would be the last save that waits.
            assert begun.wait(60)
            trainer.stop.set("the test asked for it")

    overtaken = threading.Event()
    monkeypatch.setattr(model, "write_model", write)
    rig.run(layout, on_start=on_start, on_step=on_step)
    assert len(written) == 2
    assert [step for step, _ in layout.checkpoints()] == [6]
    assert not list(layout.current_model.glob(".tmp-*"))
    assert [event for event in rig.events(layout, "saved") if "checkpoint-5" in event] == []
    assert rig.final(layout) == rig.final(other)
    rig.run(layout)
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)


@pytest.mark.parametrize("room_again", [True, False])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_c5_the_last_save_is_tried_where_the_one_before_it_failed(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    room_again: bool,
) -> None:
    """The last one holds all of it. Where it fails too, the control, that is what the trainer ends with."""
    layout, other = make(tmp_path / "run", base, kind), make(tmp_path / "other", base, kind)
    rig.run(other, on_step=rig.stop_at(6))
    real, written = model.write_model, []

    def write(built: Any, method: str, weights: Any, folder: Path) -> None:
        written.append(folder.name)
        if len(written) == 1:
            assert overtaken.wait(60), "the last save has not come while the one before it was written"
        if len(written) == 1 or not room_again:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(built, method, weights, folder)

    def on_start(trainer: Trainer) -> None:
        nonlocal overtaken
        overtaken = trainer.saver._overtaken

    overtaken = threading.Event()
    monkeypatch.setattr(model, "write_model", write)
    with nullcontext() if room_again else pytest.raises(StorageError, match="No space left"):
        rig.run(layout, on_start=on_start, on_step=rig.stop_at(6))
    assert len(written) == 2
    assert [step for step, _ in layout.checkpoints()] == ([6] if room_again else [])
    assert not list(layout.current_model.glob(".tmp-*"))
    assert "That was the save before the last one, which is tried all the same." in caplog.text
    monkeypatch.undo()
    if room_again:
        assert rig.final(layout) == rig.final(other)
    rig.run(layout)
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)


@pytest.mark.parametrize("too_early", [False, True])
def test_c5_whether_there_is_room_for_the_last_save_is_asked_when_the_one_before_it_is_gone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_early: bool
) -> None:
    """What that one has written fills the disk: asked too early, the control, the last one would not be begun."""
    layout = make(tmp_path / "run", base, "lora")
    real, seen = model.write_model, []

    def write(*arguments: Any) -> None:
        real(*arguments)
        if not seen:
            seen.append(overtaken.wait(3 if too_early else 60))

    def on_start(trainer: Trainer) -> None:
        nonlocal overtaken
        overtaken = trainer.saver._overtaken

        def lacking(*_: Any) -> str | None:
            unfinished = list(layout.current_model.glob(".tmp-*"))
            return "there is none" if unfinished and trainer.stop.is_set() else None

        monkeypatch.setattr(room, "lacking", lacking)

    overtaken = threading.Event()
    monkeypatch.setattr(model, "write_model", write)
    if too_early:
        monkeypatch.setattr(Saver, "busy", False)
    with pytest.raises(StorageError, match="waits for room") if too_early else nullcontext():
        rig.run(layout, on_start=on_start, on_step=rig.stop_at(6))
    assert [step for step, _ in layout.checkpoints()] == [5 if too_early else 6]


def test_control_a_save_that_another_follows_within_the_training_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last one overtakes: in training the memory is waited for, and every checkpoint comes."""
    layout = make(tmp_path / "run", base, "lora")
    real, steps = model.write_model, []

    def on_start(trainer: Trainer) -> None:
        def write(*arguments: Any) -> None:
            real(*arguments)
            steps.append(trainer.loop.done)
            while trainer.loop.done < 6 and not trainer.stop.is_set():
                trainer.stop.wait(0.01)

        monkeypatch.setattr(model, "write_model", write)

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 6:
            trainer.save_now("a test")

    rig.run(layout, on_start=on_start, on_step=on_step)
    assert {5, 6} <= {step for step, _ in layout.checkpoints()}


@pytest.mark.parametrize("saves", [True, False])
def test_the_device_is_given_back_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: bool
) -> None:
    """A second time would look for garbage while the checkpoint is written, and hold that up."""
    layout, times = make(tmp_path / "run", base, "lora"), []
    monkeypatch.setattr(memory, "free", times.append)
    rig.run(layout, on_step=rig.stop_at(4 if saves else 5))
    assert len(times) == 1


def test_what_was_there_before_training_is_not_looked_at_again() -> None:
    """Freeing memory is quick after it, and still frees what came since."""

    class Ring:
        me: Any = None

    before = gc.get_freeze_count()
    many = [[] for _ in range(1000)]
    try:
        memory.keep_what_is()
        assert gc.get_freeze_count() >= before + len(many)
        ring = Ring()
        ring.me, gone = ring, weakref.ref(ring)
        del ring
        memory.free(torch.device("cpu"))
        assert gone() is None
    finally:
        gc.unfreeze()
        if before:
            gc.freeze()
