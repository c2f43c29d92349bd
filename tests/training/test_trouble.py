"""What may go wrong beside the training: a full disk, prepared data that is gone or of another tokenizer."""

from __future__ import annotations

import errno
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nightschool import durable, room
from nightschool.curriculum import Entry
from nightschool.errors import DataError, StorageError, TrainingError
from nightschool.ledger import Ledger
from nightschool.record import read_record
from nightschool.training import checkpoint, loss, model
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


def two_files(root: Path, base: Path) -> Layout:
    layout = rig.workspace(root, base)
    rig.add(layout, "a", rig.sequences(12, 1))
    rig.add(layout, "b", rig.sequences(16, 2))
    return layout


@pytest.mark.parametrize("part", ["weights", "optimizer", "record"])
def test_c5_a_full_disk_is_told_as_one_whichever_library_meets_it(
    base: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch and safetensors hide the system's number; the trainer must not end as if it had crashed."""
    layout = two_files(tmp_path / "run", base)

    def full(*_: object, **__: object) -> None:
        monkeypatch.setattr(Path, "write_bytes", no_room)
        raise RuntimeError("unexpected pos 64 vs 0")

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    where = {"weights": (model, "write_model"), "optimizer": (torch, "save"), "record": (checkpoint, "_write_json")}
    with monkeypatch.context() as patch:
        patch.setattr(*where[part], full)
        with pytest.raises(StorageError, match="No space left") as caught:
            rig.run(layout)
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert layout.checkpoints() == []
    assert not list(layout.current_model.glob(".tmp-*"))
    rig.run(layout)
    undisturbed = two_files(tmp_path / "undisturbed", base)
    rig.run(undisturbed)
    assert rig.final(layout) == rig.final(undisturbed)


def test_control_an_error_with_room_on_the_disk_is_no_storage_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        rig.run(layout)


def test_c5_on_a_real_small_disk(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(layout.current_model)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here; the injected form above covers it")
    try:
        with pytest.raises(StorageError):
            rig.run(layout)
    finally:
        subprocess.run(["umount", "-l", str(layout.current_model)], check=True)


def test_prepared_data_that_is_gone_goes_back_to_intake(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)
    shutil.rmtree(layout.prepared / "a")
    rig.run(layout)
    assert rig.states(layout) == {"a": "archived", "b": "ready"}, "the order is kept: b waits for a"


def test_a_file_prepared_by_settings_changed_since_the_start_is_taken_as_it_is(base: Path, tmp_path: Path) -> None:
    """Intake that started later knows them; sent back, the file would be prepared the same way for ever."""
    layout = two_files(tmp_path / "run", base)

    def on_start(trainer: Trainer) -> None:
        rig.configure(layout, base, data={"max_length": 48})
        rig.add(layout, "c", rig.sequences(2, 9))

    rig.run(layout, on_start=on_start)
    states = rig.states(layout)
    assert states["c"] == "learned"


def test_prepared_data_of_a_file_in_training_is_waited_for(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_at(2))
    kept = tmp_path / "kept"
    (layout.prepared / "a").rename(kept)
    with pytest.raises(StorageError, match="prepared again"):
        rig.run(layout)
    kept.rename(layout.prepared / "a")
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "learned"}


def test_other_tokens_than_the_entry_s_are_refused(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_at(2))
    shutil.rmtree(layout.prepared / "a")
    shutil.copytree(layout.prepared / "b", layout.prepared / "a")
    assert durable.check(layout.prepared / "a") == []
    with pytest.raises(DataError, match="tokens would be others"):
        rig.run(layout)


@pytest.mark.parametrize("change", ["tokenizer", "max_length"])
def test_data_prepared_otherwise_than_the_run_would_now_is_not_begun(base: Path, tmp_path: Path, change: str) -> None:
    layout = two_files(tmp_path / "run", base)
    if change == "tokenizer":
        other = rig.make_base(tmp_path / "other")
        (other / "tokenizer_config.json").write_text((other / "tokenizer_config.json").read_text() + "\n")
        rig.configure(layout, other)
    else:
        rig.configure(layout, base, data={"max_length": 24})
    rig.run(layout)
    assert rig.states(layout)["a"] == "archived"
    assert layout.checkpoints() == []


def test_the_tokenizer_beside_the_adapter_heals(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    layout = two_files(tmp_path / "run", base)
    (layout.current_model / "tokenizer_config.json").write_text("{}")
    rig.run(layout)
    found = AutoTokenizer.from_pretrained(layout.current_model)
    assert found("night")["input_ids"] == AutoTokenizer.from_pretrained(base)("night")["input_ids"]


def test_a8_a_file_of_which_no_step_was_applied_is_not_learned(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base)
    real = loss.sum_loss
    steps_of_a = 3

    def on_start(trainer: Trainer) -> None:
        def spoiled(*arguments: object) -> torch.Tensor:
            return real(*arguments) * (math.nan if trainer.loop.done >= steps_of_a else 1.0)  # pyright: ignore

        monkeypatch.setattr(loss, "sum_loss", spoiled)

    with pytest.raises(TrainingError, match="nothing was learned"):
        rig.run(layout, on_start=on_start)
    assert rig.states(layout)["b"] == "training"
    # The newest checkpoint is from before the streak, so a start with the mended cause does all of b.
    assert all(step <= steps_of_a for step, _ in layout.checkpoints())
    monkeypatch.undo()
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "learned"}


def test_a_save_in_flight_is_finished_when_the_next_file_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The night's work must not be lost to a bad file behind it."""
    import threading

    layout = two_files(tmp_path / "run", base)
    refused = threading.Event()
    real = model.write_model

    def slowly(*arguments: object) -> None:
        assert refused.wait(60), "the next file was not refused while this was written"
        real(*arguments)  # pyright: ignore[reportArgumentType]

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 3:
            trainer.saved_at -= 100

    def refuse(trainer: Trainer) -> None:
        def checked(position: int, entry: object) -> None:
            if position == 1:
                refused.set()
                raise DataError("refused")

        trainer.loop.on_entry = checked

    monkeypatch.setattr(model, "write_model", slowly)
    with pytest.raises(DataError, match="refused"):
        rig.run(layout, on_start=refuse, on_step=on_step)
    assert [step for step, _ in layout.checkpoints()] == [3]
    assert rig.states(layout)["a"] == "learned"
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.checkpoints.newest() is not None


def test_c5_a_file_that_has_no_room_to_begin_does_not_cost_the_one_before_its_last_steps(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fit, if little more does. Else each try would train them again, and end at the same place."""
    layout = two_files(tmp_path / "run", base)

    def lacking(folder: Path, size: int | None, min_free_gb: float) -> str | None:
        done = rig.states(layout)["a"] in ("trained", "learned")
        return "there is too little" if min_free_gb and done else None

    monkeypatch.setattr(room, "lacking", lacking)
    with pytest.raises(StorageError, match="waits for room"):
        rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "ready"}
    assert [step for step, _ in layout.checkpoints()] == [3]


def test_what_ends_the_measurement_before_a_file_is_not_held_against_the_one_before(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)

    def on_start(trainer: Trainer) -> None:
        real = trainer.holdout.before

        def before(position: int, entry: Entry) -> bool:
            if position == 1:
                raise rig.Killed
            return real(position, entry)

        trainer.holdout.before = before

    with pytest.raises(rig.Killed):
        rig.run(layout, on_start=on_start)
    with Ledger.open(layout.ledger) as ledger:
        told = ledger.machine.get("trainer")
        assert (told["entry"], told["file"]) == (1, "b")


def test_a_state_saved_as_the_next_file_begins_names_the_file_of_its_last_step(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)

    def on_start(trainer: Trainer) -> None:
        def interrupted() -> bool:
            if trainer.loop.done == 3:
                trainer.stop.set("the test")
            return trainer.stop.is_set()

        trainer.loop.interrupted = interrupted

    rig.run(layout, on_start=on_start)
    (found,) = layout.checkpoints()
    assert (found[0], read_record(found[1]).file) == (3, "a")
