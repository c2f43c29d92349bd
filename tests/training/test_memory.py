"""F1: memory that runs out costs no data, no partial step and no file; F3: a GPU that is lost is waited for."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
import torch

from nightschool.errors import DeviceError, ModelError, TrainingError
from nightschool.ledger import Ledger
from nightschool.record import write_generation
from nightschool.settings import load_settings
from nightschool.training import batch, checkpoint, device, memory
from nightschool.training.memory import Verdict, after_failure
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig

GB = 10**9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


def two_files(root: Path, base: Path, **changes: dict[str, Any]) -> Layout:
    layout = rig.workspace(root, base, **changes)
    rig.add(layout, "a", rig.sequences(12, 1))
    rig.add(layout, "b", rig.sequences(16, 2))
    return layout


def too_small_for(rows: int, monkeypatch: pytest.MonkeyPatch, times: float = math.inf) -> Counter[str]:
    """A device that has no room for `rows` rows at once, the first so many `times`; in the middle of a step."""
    real, told = batch.collate, Counter[str]()

    def collate(sequences: list[Any], *arguments: Any, **options: Any) -> Any:
        told["passes"] += 1
        # The first pass of a process goes through, so that a part of a step is accumulated already.
        if len(sequences) >= rows and told["passes"] > 1 and told["failures"] < times:
            told["failures"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(sequences, *arguments, **options)

    monkeypatch.setattr(batch, "collate", collate)
    return told


def record(layout: Layout) -> dict[str, Any]:
    return json.loads((layout.checkpoints()[-1][1] / "nightschool.json").read_text())


def close(one: Layout, other: Layout) -> None:
    """Equal to rounding, and not by being untrained."""
    from safetensors.torch import load_file

    a, b = (load_file(layout.checkpoints()[-1][1] / "adapter_model.safetensors") for layout in (one, other))
    assert sum(float(t.abs().sum()) for t in a.values()) > 0
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-6)


def test_f1_cells_are_halved_on_the_same_data_in_the_same_steps(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    seen: dict[int, Counter[rig.Row]] = {}
    undisturbed: dict[int, Counter[rig.Row]] = {}
    rig.run(two_files(tmp_path / "third", base), seen=undisturbed)
    told = too_small_for(2, monkeypatch)
    rig.run(layout, seen=seen)
    assert told["failures"] == 2, "tried twice at the first size, and never again after it was halved"
    assert seen.keys() == undisturbed.keys()
    assert all(set(seen[step]) == set(undisturbed[step]) for step in seen), "each step has its own rows"
    assert rig.states(layout) == {"a": "learned", "b": "learned"}
    close(layout, other)
    found = record(layout)
    assert found["numerics"]["cell"] == 1
    assert found["numerics_changes"] == [
        {"step": 0, "changes": ["sequences in a cell (training.micro_batch_size): 2 before, 1 now"]}
    ]
    assert "Out of memory at step 1" in rig.events(layout, "numerics")[0]


def test_f1_what_was_found_to_fit_is_kept_for_later_starts_until_the_setting_changes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base)
    told = too_small_for(2, monkeypatch)
    rig.run(layout, on_step=rig.stop_at(2))
    rig.run(layout)
    assert told["failures"] == 2, "the second life has not tried again"
    assert [change["step"] for change in record(layout)["numerics_changes"]] == [0]
    assert memory.cell_size(2, {"asked": 2, "size": 1}) == 1
    assert memory.cell_size(4, {"asked": 2, "size": 1}) == 4
    assert memory.cell_size(4, None) == 4


def test_f1_a_passing_shortage_changes_no_bit(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that failed in its middle is made again from its beginning: nothing of the first try is in it."""
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    told = too_small_for(2, monkeypatch, times=1)
    rig.run(layout)
    assert told["failures"] == 1
    assert rig.outcome(layout) == rig.outcome(other)
    assert record(layout)["numerics_changes"] == []


def test_f1_control_gradients_of_the_failed_try_would_be_seen(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    too_small_for(2, monkeypatch, times=1)

    def careless(trainer: Trainer) -> None:
        real = trainer.loop.optimizer.zero_grad
        trainer.loop.optimizer.zero_grad = lambda **options: None if trainer.loop.done == 0 else real(**options)  # pyright: ignore

    rig.run(layout, on_start=careless)
    assert rig.outcome(layout).weights != rig.outcome(other).weights


def test_f1_one_sequence_that_does_not_fit_stops_with_advice_and_no_partial_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base)
    too_small_for(1, monkeypatch)
    with pytest.raises(TrainingError, match=r"one sequence at a time .*gradient_checkpointing = true"):
        rig.run(layout)
    assert layout.checkpoints() == []
    monkeypatch.undo()
    other = two_files(tmp_path / "other", base, training={"micro_batch_size": 1})
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get(memory.CELL) == {"asked": 2, "size": 1}
    rig.run(layout)
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)


def no_room_to_clip(monkeypatch: pytest.MonkeyPatch, rows: int, cell: Counter[str]) -> None:
    """A device on which clipping, half done, finds no room after cells of so many rows."""
    real_collate, real_clip = batch.collate, torch.nn.utils.clip_grad_norm_

    def collate(sequences: list[Any], *arguments: Any, **options: Any) -> Any:
        cell["rows"] = len(sequences)
        return real_collate(sequences, *arguments, **options)

    def clip(parameters: list[torch.Tensor], *more: Any) -> torch.Tensor:
        cell["clipped"] += 1
        if cell["clipped"] > 1 and cell["rows"] >= rows and cell["failures"] < cell["times"]:
            cell["failures"] += 1
            assert parameters[0].grad is not None
            parameters[0].grad.mul_(0.5)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real_clip(parameters, *more)

    monkeypatch.setattr(batch, "collate", collate)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)


def test_f1_clipping_that_did_not_fit_once_changes_no_bit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    told = Counter(times=1)
    no_room_to_clip(monkeypatch, 2, told)
    rig.run(layout)
    assert told["failures"] == 1
    assert rig.outcome(layout) == rig.outcome(other)
    assert record(layout)["numerics_changes"] == []


def test_f1_clipping_that_does_not_fit_splits_the_cells(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    told = Counter(times=1000)
    no_room_to_clip(monkeypatch, 2, told)
    rig.run(layout)
    assert told["failures"] == 2, "tried twice at the first size, and never again after it was halved"
    assert record(layout)["numerics"]["cell"] == 1
    assert rig.states(layout) == {"a": "learned", "b": "learned"}
    close(layout, other)


def test_f1_control_gradients_that_were_clipped_in_part_would_be_seen(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    no_room_to_clip(monkeypatch, 2, Counter(times=1))

    def careless(trainer: Trainer) -> None:
        real = trainer.loop.optimizer.zero_grad
        trainer.loop.optimizer.zero_grad = lambda **options: None if trainer.loop.done == 1 else real(**options)  # pyright: ignore

    rig.run(layout, on_start=careless)
    assert rig.outcome(layout).weights != rig.outcome(other).weights


def test_f1_a_boundary_that_could_not_be_checked_is_gone_back_from(base: Path, tmp_path: Path) -> None:
    """Fresh moments are there already, so the step cannot be made again in this state."""
    changes: dict[str, Any] = {"training": {"carry_optimizer": False}}
    layout, other = (two_files(tmp_path / name, base, **changes) for name in ("run", "other"))
    rig.run(other)

    def full(trainer: Trainer) -> None:
        real = trainer.loop.on_entry

        def on_entry(position: int, entry: Any) -> None:
            if position == 1:
                raise MemoryError
            assert real is not None
            real(position, entry)

        trainer.loop.on_entry = on_entry

    with pytest.raises(DeviceError, match="update of step 4"):
        rig.run(layout, on_start=full)
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(other)


@pytest.mark.parametrize("at", [0, 5])
def test_f1_an_update_that_did_not_fit_is_never_saved(base: Path, tmp_path: Path, at: int) -> None:
    """At 0 the moments are made, which is where memory is short most often; there is no checkpoint yet."""
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)

    def half(trainer: Trainer) -> None:
        real = trainer.loop.optimizer.step

        def step() -> None:
            if trainer.loop.done == at:
                with torch.no_grad():
                    trainer.loop.parameters[0].add_(1)  # one weight has moved, the others have not
                raise torch.OutOfMemoryError("CUDA out of memory")
            real()

        trainer.loop.optimizer.step = step  # pyright: ignore

    with pytest.raises(DeviceError, match=f"update of step {at + 1}"):
        rig.run(layout, on_start=half)
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(other)


def no_room_to_update(trainer: Trainer) -> None:
    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.loop.optimizer.step = step  # pyright: ignore


def test_f1_an_update_that_never_fits_stops_training_with_advice(base: Path, tmp_path: Path) -> None:
    """Nobody else holds the device, so nothing is there to be waited for; who resumes gets as many tries."""
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    for _ in range(2):
        for _ in range(memory.UPDATES - 1):
            with pytest.raises(DeviceError, match="begun again from the last checkpoint"):
                rig.run(layout, on_start=no_room_to_update)
        with pytest.raises(TrainingError, match=r"update of step 1 .*3 times in a row.*lower lora\.r"):
            rig.run(layout, on_start=no_room_to_update)
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(other)


def test_f1_control_updates_of_other_steps_do_not_add_up(base: Path, tmp_path: Path) -> None:
    layout = two_files(tmp_path / "run", base)
    for at in range(memory.UPDATES + 1):
        with pytest.raises(DeviceError, match=f"update of step {at + 1} "):
            rig.run(layout, on_start=no_room_to_update)
        rig.run(layout, on_step=rig.stop_at(at + 1))


def test_f1_control_updates_of_other_histories_do_not_add_up(base: Path, tmp_path: Path) -> None:
    """After a rollback the step of that number may be another one: it has all of its tries."""
    layout = two_files(tmp_path / "run", base)
    for generation in range(2):
        write_generation(layout, generation)
        for _ in range(memory.UPDATES - 1):
            with pytest.raises(DeviceError, match="update of step 1 "):
                rig.run(layout, on_start=no_room_to_update)
    with pytest.raises(TrainingError, match="3 times in a row"):
        rig.run(layout, on_start=no_room_to_update)


def test_f1_control_an_update_waits_for_others_as_long_as_they_hold_the_card(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base)
    monkeypatch.setattr(memory, "others_hold", lambda _: "other programs hold 20 GB of 24 GB: ollama (process 7)")
    for _ in range(2 * memory.UPDATES):
        with pytest.raises(DeviceError, match=r"ollama \(process 7\).*goes on by itself"):
            rig.run(layout, on_start=no_room_to_update)


def test_f1_while_others_hold_the_card_nothing_is_split_and_no_file_is_blamed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, other = two_files(tmp_path / "run", base), two_files(tmp_path / "other", base)
    rig.run(other)
    told = too_small_for(2, monkeypatch)
    monkeypatch.setattr(memory, "others_hold", lambda _: "other programs hold 20 GB of 24 GB: ollama (process 7)")
    with pytest.raises(DeviceError, match=r"ollama \(process 7\).*nothing is held against the file"):
        rig.run(layout)
    assert told["failures"] == 1
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get(memory.CELL) is None
    monkeypatch.undo()
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(other)


def test_the_policy_frees_then_splits_then_stops() -> None:
    assert after_failure(1, 8, others=False) == Verdict("again", 8)
    assert after_failure(2, 8, others=False) == Verdict("split", 4)
    assert after_failure(2, 3, others=False) == Verdict("split", 1)
    assert after_failure(2, 1, others=False) == Verdict("stop", 1)
    assert after_failure(1, 1, others=True) == Verdict("wait", 1)


@pytest.mark.parametrize(
    ("error", "out", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), True, False),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (RuntimeError("No CUDA GPUs are available; no CUDA-capable device is detected"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("unknown error about cuda"), False, False),
    ],
)
def test_f3_what_the_errors_say(error: BaseException, out: bool, lost: bool) -> None:
    assert (memory.is_out(error), memory.is_lost(error)) == (out, lost)


def on_a_card(monkeypatch: pytest.MonkeyPatch, free: int, total: int, ours: int) -> torch.device:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: ours)
    monkeypatch.setattr(memory.gpus, "query", lambda *_: ["17, 18000, /opt/ollama/bin/ollama", "x", "18, [N/A], b"])
    return torch.device("cuda", 0)


def test_others_are_those_that_hold_more_than_a_desktop_does(monkeypatch: pytest.MonkeyPatch) -> None:
    card = on_a_card(monkeypatch, free=2 * GB, total=24 * GB, ours=3 * GB)
    found = memory.others_hold(card)
    assert found == "other programs hold 19 GB of 24 GB: ollama (process 17, 18.9 GB), b (process 18)"
    assert "on cuda:0: other programs" in str(memory.taken(card, found))
    assert memory.others_hold(on_a_card(monkeypatch, free=GB, total=24 * GB, ours=22 * GB)) is None
    assert memory.others_hold(torch.device("cpu")) is None


def test_a_card_too_full_to_be_asked_is_held_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call to a card needs some of its memory itself."""
    card = on_a_card(monkeypatch, free=GB, total=24 * GB, ours=0)

    def full(_: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    assert "ollama" in str(memory.others_hold(card))

    def broken(_: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    with pytest.raises(RuntimeError, match="unspecified"):
        memory.others_hold(card)


def accelerator(kind: str) -> Any:
    return SimpleNamespace(device=torch.device(kind))


def trained_on(name: str) -> Any:
    return SimpleNamespace(numerics={"device": name})


def test_f3_a_run_of_a_gpu_waits_for_it_and_does_not_go_on_without(base: Path, tmp_path: Path) -> None:
    layout = rig.workspace(tmp_path / "run", base, model={"device": "auto"})
    auto = load_settings(layout.settings_file)
    rig.configure(layout, base, model={"device": "cpu"})
    cpu = load_settings(layout.settings_file)
    with pytest.raises(DeviceError, match="trained on NVIDIA H100, and no GPU is there"):
        device.require(accelerator("cpu"), auto, trained_on("NVIDIA H100"))
    device.require(accelerator("cpu"), cpu, trained_on("NVIDIA H100"))
    device.require(accelerator("cpu"), auto, trained_on("cpu"))
    device.require(accelerator("cpu"), auto, None)
    device.require(accelerator("cuda"), auto, trained_on("NVIDIA H100"))


def test_f1_a_model_that_finds_no_room_is_told_by_who_is_to_blame(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
        with pytest.raises(ModelError, match="does not fit on cpu in float32"):
            rig.run(layout)
        patch.setattr(memory, "others_hold", lambda _: "other programs hold 20 GB of 24 GB")
        with pytest.raises(DeviceError, match="other programs hold"):
            rig.run(layout)


@pytest.mark.parametrize("rows", [2, 1])
def test_f1_a_measurement_that_does_not_fit_costs_no_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Two rows are taken one by one; where one does not fit, there is no measurement."""
    layout = two_files(tmp_path / "run", base)
    found: list[float | None] = []

    def on_start(trainer: Trainer) -> None:
        sequences = [(one.ids, one.train, one.lengths) for one in rig.sequences(2, 5)]
        whole = trainer.loop.evaluate(sequences)
        with monkeypatch.context() as patch:
            told = too_small_for(rows, patch)
            told["passes"] = 1
            try:
                found.append(trainer.loop.evaluate(sequences) - whole)
            except torch.OutOfMemoryError:
                found.append(None)

    rig.run(layout, on_start=on_start)
    assert found == ([pytest.approx(0.0, abs=1e-3)] if rows == 2 else [None])
    assert rig.states(layout) == {"a": "learned", "b": "learned"}


def test_f1_a_save_in_flight_says_nothing_of_a_split_behind_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = two_files(tmp_path / "run", base, checkpoints={"save_steps": 100})
    split, real = threading.Event(), checkpoint.write_contents

    def write_contents(*arguments: Any, **more: Any) -> None:
        assert split.wait(60)
        real(*arguments, **more)

    monkeypatch.setattr(checkpoint, "write_contents", write_contents)

    def on_start(trainer: Trainer) -> None:
        note = trainer.loop.on_split

        def noted(before: int, now: int) -> None:
            assert note is not None
            note(before, now)
            split.set()

        trainer.loop.on_split = noted

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 2:
            trainer.save_now("the test")
            too_small_for(2, monkeypatch)

    rig.run(layout, on_start=on_start, on_step=on_step)
    first = json.loads((layout.checkpoint(2) / "nightschool.json").read_text())
    assert first["numerics"]["cell"] == 2
    assert first["numerics_changes"] == []
    assert record(layout)["numerics_changes"] == [{"step": 2, "changes": [ANY]}]


def test_f1_a_measurement_that_did_not_fit_is_not_called_one(base: Path, tmp_path: Path) -> None:
    layout = rig.workspace(tmp_path / "run", base)
    rig.add(layout, "a", rig.sequences(12, 1), held=rig.sequences(2, 5))

    def on_start(trainer: Trainer) -> None:
        real = trainer.loop.evaluate

        def evaluate(sequences: Any) -> float:
            if trainer.loop.done == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(sequences)

        trainer.loop.evaluate = evaluate

    rig.run(layout, on_start=on_start)
    assert rig.states(layout) == {"a": "learned"}
    assert rig.events(layout, "holdout") == []


def test_f1_memory_that_others_took_while_a_state_was_loaded_is_not_held_against_the_trainer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever in the process it was: in the end the machine would give up."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "others_hold", lambda device: f"others fill {device}")
    out, lost = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: unspecified launch failure")
    assert "others fill cuda" in str(memory.explained(out, "auto"))
    assert "others fill cuda:1" in str(memory.explained(out, "cuda:1"))
    assert memory.explained(out, "cpu") is None
    assert memory.explained(RuntimeError("mat1 and mat2"), "auto") is None
    assert "The GPU failed" in str(memory.explained(lost, "auto"))
    monkeypatch.setattr(memory, "others_hold", lambda _: None)
    assert memory.explained(out, "auto") is None, "it does not fit by itself"
