"""The rehearsal does what the night will do, and leaves everything as it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import durable, errors
from nightschool.training import checkpoint, memory, rehearsal
from nightschool.training.loop import Loop
from nightschool.workspace import Layout
from tests.training import rig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def layout(base: Path, tmp_path: Path) -> Layout:
    """A run in the middle of a file."""
    found = rig.workspace(tmp_path / "ws", base)
    rig.add(found, "a", rig.sequences(40, 1))
    with pytest.raises(rig.Killed):
        rig.run(found, on_step=rig.kill_saved_at(7))
    return found


def files(layout: Layout) -> dict[str, tuple[str, int, int]]:
    """Content and times of every file but the scratch folder's; a lock's file is written by whoever holds it."""
    return {
        str(path.relative_to(layout.root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns, path.stat().st_ino,
        )
        for path in sorted(layout.root.rglob("*"))
        if path.is_file() and not path.is_relative_to(layout.tmp) and path.suffix != ".lock"
    }  # fmt: skip


def test_a_step_a_save_and_a_load_from_the_newest_checkpoint_and_nothing_is_touched(layout: Layout) -> None:
    before = files(layout)
    assert any(name.startswith("current_model/checkpoint-5/") for name in before)
    found = rehearsal.rehearse(layout)
    assert files(layout) == before
    assert list(layout.tmp.iterdir()) == []
    assert found["began_with"] == "checkpoint-5"
    assert (found["batch"], found["max_length"], found["micro_batch_size"]) == (4, 32, 2)
    assert found["tokens_per_second"] == pytest.approx(4 * 32 / found["seconds_step"])
    assert found["memory_peak"] > 10**6
    assert found["memory_total"] is None
    saved = sum(p.stat().st_size for p in layout.checkpoint(5).iterdir())
    assert found["checkpoint_bytes"] == pytest.approx(saved, rel=0.1)


def test_law_1_a_rehearsal_changes_nothing_of_what_is_learned(layout: Layout, base: Path, tmp_path: Path) -> None:
    undisturbed = rig.workspace(tmp_path / "undisturbed", base)
    rig.add(undisturbed, "a", rig.sequences(40, 1))
    rig.run(undisturbed)
    rehearsal.rehearse(layout)
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(undisturbed)


def test_before_the_first_file_it_begins_with_the_base_model(base: Path, tmp_path: Path) -> None:
    layout = rig.workspace(tmp_path / "ws", base, training={"method": "full"})
    before = files(layout)
    found = rehearsal.rehearse(layout)
    assert found["began_with"] == "the base model"
    assert files(layout) == before
    assert layout.checkpoints() == []


def test_every_step_is_full_and_the_last_meets_the_moments_of_a_new_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, bool]] = []
    take = Loop.step

    def step(self: Loop) -> Any:
        moments = bool(self.optimizer.state)
        result = take(self)
        assert result is not None
        seen.append((result.tokens, result.label_tokens, moments))
        return result

    monkeypatch.setattr(Loop, "step", step)
    rehearsal.rehearse(rig.workspace(tmp_path / "ws", base))
    # Memory is fullest where activations and moments are there at once, which the first step of a run does not see.
    assert seen == [(128, 124, False), (128, 124, True)]


def test_b9_it_refuses_while_a_trainer_works_and_says_what_to_do(layout: Layout) -> None:
    before = files(layout)
    with (
        durable.Lock(layout.trainer_lock, "the trainer"),
        pytest.raises(errors.BusyError, match="`nightschool pause`") as raised,
    ):
        rehearsal.rehearse(layout)
    assert raised.value.pid == os.getpid()
    assert files(layout) == before


@pytest.mark.parametrize("part", ["adapter_model.safetensors", "optimizer.pt"])
def test_control_a_bit_that_does_not_come_back_is_found(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    check = durable.check

    def flip(folder: Path, **more: Any) -> list[str]:
        if "rehearsal" in str(folder):
            data = bytearray((folder / part).read_bytes())
            data[len(data) // 2] ^= 1
            (folder / part).write_bytes(data)
        return check(folder, **more)

    monkeypatch.setattr(durable, "check", flip)
    with pytest.raises(errors.CheckpointError, match=rf"did not come back.*{part}"):
        rehearsal.rehearse(layout)
    assert list(layout.tmp.iterdir()) == []


def test_control_a_load_that_loads_nothing_is_found(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    restore, done = Loop.restore, []

    def once(self: Loop, folder: Path, record: Any) -> Any:
        if not done:
            done.append(folder)
            return restore(self, folder, record)
        found = self.digests()
        checkpoint.verify_digests(record, found, folder)
        return found

    monkeypatch.setattr(Loop, "restore", once)
    with pytest.raises(errors.CheckpointError, match="are not what was saved"):
        rehearsal.rehearse(layout)


def test_f1_where_memory_runs_out_it_says_with_which_size_it_went(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate = Loop._accumulate

    def out(self: Loop, *arguments: Any) -> Any:
        if self.cell > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return accumulate(self, *arguments)

    monkeypatch.setattr(Loop, "_accumulate", out)
    monkeypatch.setattr(memory, "others_hold", lambda _: None)
    before = files(layout)
    found = rehearsal.rehearse(layout)
    assert (found["micro_batch_size"], found["micro_batch_asked"]) == (1, 2)
    assert files(layout) == before, "the run itself finds its own size"


def test_rows_that_the_model_cannot_take_are_found(tmp_path: Path) -> None:
    gpt2 = rig.make_base(tmp_path / "base", "gpt2")
    layout = rig.workspace(tmp_path / "ws", gpt2, data={"max_length": 600})
    with pytest.raises(errors.TrainingError, match=r"data\.max_length = 600"):
        rehearsal.rehearse(layout)
    assert list(layout.tmp.iterdir()) == []


def test_c5_a_disk_without_room_for_a_checkpoint_is_found_before_it_is_filled(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(rehearsal.shutil.disk_usage("/"))
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda _: usage(10**12, 0, 1000))
    with pytest.raises(errors.StorageError, match="Make room before tonight"):
        rehearsal.rehearse(layout)


def test_c3_a_run_none_of_whose_checkpoints_can_be_used_is_not_rehearsed_from_nothing(layout: Layout) -> None:
    for _, folder in layout.checkpoints():
        (folder / "optimizer.pt").write_bytes(b"")
    before = files(layout)
    with pytest.raises(errors.CheckpointError, match="would not begin tonight"):
        rehearsal.rehearse(layout)
    assert files(layout) == before, "nothing is moved away either"
