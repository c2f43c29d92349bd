"""What a checkpoint holds of the model: refused where it does not fit, the same bytes each time it is written."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nightschool.errors import CheckpointError
from nightschool.training import model, optimizer, weights
from tests.training.building import Build, copies, same, train
from tests.training.conftest import RECIPE


def damage(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(state)
    save_file(state, path)


def first(state: dict[str, Tensor]) -> str:
    return min(state)


def _rename(state: dict[str, Tensor]) -> None:
    name = first(state)
    state[name.replace("lora_A", "lora_X")] = state.pop(name)


DAMAGES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "1 tensors are missing": lambda s: s.pop(first(s)),
    "1 tensors are not part of this model, such as more": lambda s: s.update(more=torch.zeros(1)),
    r"has shape \(1, 1\)": lambda s: s.update({first(s): torch.zeros(1, 1)}),
    "would lose bits": lambda s: s.update({first(s): s[first(s)].double()}),
    "lora_X": _rename,
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a5_c2_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(
    build: Build, tmp_path: Path, message: str
) -> None:
    built = build(lora={"r": 4, "init_lora_weights": False})
    model.write_model(built.model, "lora", copies(built), tmp_path)
    damage(tmp_path, DAMAGES[message])
    fresh = build(lora={"r": 4})
    before = copies(fresh)
    with pytest.raises(CheckpointError, match=message):
        model.load_trainable(fresh.model, "lora", tmp_path)
    assert same(copies(fresh), before)


def test_another_rank_is_refused(build: Build, tmp_path: Path) -> None:
    built = build(lora={"r": 4})
    model.write_model(built.model, "lora", copies(built), tmp_path)
    with pytest.raises(CheckpointError, match=r"shape .*\[lora\]"):
        model.load_trainable(build(lora={"r": 8}).model, "lora", tmp_path)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_c2_missing_and_broken_files_are_checkpoint_errors(build: Build, tmp_path: Path, method: str) -> None:
    built = build(training={"method": method})
    with pytest.raises(CheckpointError, match="is missing"):
        model.load_trainable(built.model, method, tmp_path)
    name = weights.ADAPTER_WEIGHTS if method == "lora" else weights.FULL_WEIGHTS
    (tmp_path / name).write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        model.load_trainable(built.model, method, tmp_path)


def test_full_weights_of_another_model_are_refused(build: Build, tmp_path: Path) -> None:
    other = build("gpt2", training={"method": "full"})
    model.write_model(other.model, "full", copies(other), tmp_path)
    built = build("llama", training={"method": "full"})
    before = copies(built)
    with pytest.raises(CheckpointError, match="does not fit"):
        model.load_trainable(built.model, "full", tmp_path)
    assert same(copies(built), before)


def test_an_adapter_in_a_smaller_type_is_taken_exactly(build: Build, tmp_path: Path) -> None:
    built = build(lora={"r": 4, "init_lora_weights": False})
    state = {name: t.to(torch.bfloat16) for name, t in copies(built).items()}
    model.write_model(built.model, "lora", state, tmp_path)
    model.load_trainable(built.model, "lora", tmp_path)
    assert same(copies(built), {name: t.float() for name, t in state.items()})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_writing_twice_gives_the_same_bytes(build: Build, tmp_path: Path, method: str) -> None:
    for name in ("a", "b"):
        built = build(training={"method": method})
        model.write_model(built.model, method, copies(built), tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
def test_the_config_is_the_same_in_every_process(base_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Python orders sets of strings differently in each process, and PEFT writes sets as they come."""
    code = f"""
from pathlib import Path
from nightschool.settings import parse_settings
from nightschool.training import model
settings = parse_settings({{"model": {{"name": {str(base_folder())!r}}}}})
built = model.build(settings, {{"dtype": "float32", "seed": 1}}, "cpu")
state = {{n: t.detach() for n, t in model.trainable_state(built.model, "lora").items()}}
import sys
model.write_model(built.model, "lora", state, Path(sys.argv[1]))
built.model.save_pretrained(sys.argv[1] + "-peft")
"""
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=environment, check=True)
    ours, theirs = (
        [(tmp_path / f"{seed}{end}" / "adapter_config.json").read_text() for seed in "12"] for end in ("", "-peft")
    )
    assert ours[0] == ours[1]
    assert theirs[0] != theirs[1]
    weights_written = [(tmp_path / seed / "adapter_model.safetensors").read_bytes() for seed in "12"]
    assert weights_written[0] == weights_written[1]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_b3_a_thread_may_write_while_training_goes_on(build: Build, tmp_path: Path, method: str) -> None:
    built = build(training={"method": method})
    made = optimizer.build("adamw_torch", built.model, RECIPE)
    train(built, made, range(1))
    host = copies(built)
    expected = {name: tensor.clone() for name, tensor in host.items()}
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(10):
                model.write_model(built.model, method, host, tmp_path / str(number))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    step = 1
    while thread.is_alive():
        train(built, made, range(step, step + 1))
        step += 1
    thread.join()
    assert not failures
    undisturbed = build(training={"method": method})
    train(undisturbed, optimizer.build("adamw_torch", undisturbed.model, RECIPE), range(step))
    assert same(copies(built), copies(undisturbed))
    for number in range(10):
        model.load_trainable(built.model, method, tmp_path / str(number))
        assert same(copies(built), expected)
