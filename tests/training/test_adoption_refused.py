"""What cannot be taken over is refused with its reason, and nothing is left of the attempt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool.errors import CheckpointError, ModelError, NightschoolError, SettingsError
from nightschool.settings import load_settings
from tests.training import rig, theirs
from tests.training.theirs import Theirs


def test_what_the_folder_decides_cannot_be_chosen_anew(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    folder = made_by_trainer("lora").folder
    changes: list[dict[str, Any]] = [
        {"training": {"method": "full"}}, {"lora": {"r": 2}}, {"training": {"optimizer": "sgd"}},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(SettingsError):
            theirs.take_over(tmp_path / "ws", folder, **change)
    assert not (tmp_path / "ws").exists()


def spoil_optimizer(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    change(state)
    torch.save(state, checkpoint / "optimizer.pt")


def _wrong_shape(state: dict[str, Any]) -> None:
    state["state"][3]["exp_avg"] = torch.zeros(2, 3)


def _one_group(state: dict[str, Any]) -> None:
    state["param_groups"] = [{**state["param_groups"][0], "params": list(range(len(state["state"])))}]


def _one_parameter_fewer(state: dict[str, Any]) -> None:
    last = state["param_groups"][0]["params"].pop()
    del state["state"][last]


def _others_decay(state: dict[str, Any]) -> None:
    first, second = state["param_groups"]
    second["params"].append(first["params"].pop())
    second["weight_decay"] = 0.1


def _momentum(state: dict[str, Any]) -> None:
    for number in state["state"]:
        state["state"][number] = {"momentum_buffer": state["state"][number]["exp_avg"]}


def _adam(state: dict[str, Any]) -> None:
    state["param_groups"][0]["decoupled_weight_decay"] = False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_wrong_shape, "has shape"),
        (_one_group, "1 parameter group"),
        (_one_parameter_fewer, "parameters with weight decay"),
        (_others_decay, "weight decay"),
        (_momentum, "momentum_buffer"),
        (_adam, "decoupled_weight_decay"),
    ],
)
def test_moments_that_do_not_fit_are_refused(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    checkpoint = theirs.copied(made_by_trainer("lora"), tmp_path)
    spoil_optimizer(checkpoint, change)
    with pytest.raises(CheckpointError, match=words):
        theirs.take_over(tmp_path / "ws", checkpoint)
    assert not (tmp_path / "ws").exists()


def test_a_pickle_in_place_of_the_optimizer_is_never_opened(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    import zipfile

    checkpoint = theirs.copied(made_by_trainer("lora"), tmp_path)
    with zipfile.ZipFile(checkpoint / "optimizer.pt", "w") as archive:
        archive.writestr("optimizer/data.pkl", theirs.BOMB)
        archive.writestr("optimizer/version", "3")
    with pytest.raises(CheckpointError, match="never unpickled"):
        theirs.take_over(tmp_path / "ws", checkpoint)
    shutil.copy(made_by_trainer("lora").checkpoint / "optimizer.pt", checkpoint)
    (checkpoint / "scheduler.pt").write_bytes(theirs.BOMB)
    layout, said = theirs.take_over(tmp_path / "ws", checkpoint)
    assert "scheduler.pt is missing or cannot be read" in said
    # The same rate is in optimizer.pt.
    assert load_settings(layout.settings_file).training.learning_rate == pytest.approx(1.5e-3)


def test_a_rate_at_the_end_of_its_schedule_is_not_gone_on_with(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    checkpoint = theirs.copied(made_by_trainer("lora"), tmp_path)
    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    torch.save({**state, "_last_lr": [1e-4, 1e-4]}, checkpoint / "scheduler.pt")
    layout, said = theirs.take_over(tmp_path / "ws", checkpoint)
    assert load_settings(layout.settings_file).training.learning_rate == 2e-3
    assert "less than a tenth" in said


def test_another_base_is_found_out(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    other = rig.make_base(tmp_path / "wide", "gpt2")
    with pytest.raises(NightschoolError):
        theirs.take_over(tmp_path / "ws", made_by_trainer("lora").folder, other)
    checkpoint = theirs.copied(made_by_trainer("lora"), tmp_path)
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    (checkpoint / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/away"}))
    with pytest.raises(ModelError, match="--model"):
        theirs.take_over(tmp_path / "ws", checkpoint)
