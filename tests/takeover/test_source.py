"""Which state of a folder is taken, and what is said where none can be."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nightschool.errors import CheckpointError
from nightschool.takeover import find


def tensors(path: Path, size: int = 8) -> None:
    head = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(size))


def adapter(folder: Path, step: int | None, **state: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    tensors(folder / "adapter_model.safetensors")
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as archive:
        archive.writestr("a", "b")
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, **state}))
    return folder


def test_a6_the_newest_is_the_newest_by_number(tmp_path: Path) -> None:
    for step in (900, 2600, 50):
        adapter(tmp_path / f"checkpoint-{step}", step)
    found = find(tmp_path)
    assert (found.step, found.folder.name, found.method, found.optimizer) == (2600, "checkpoint-2600", "lora", True)
    assert found.name == f"{tmp_path.name}/checkpoint-2600"
    assert find(tmp_path / "checkpoint-50").step == 50


def test_c2_one_that_is_not_whole_is_passed_over_and_named(tmp_path: Path) -> None:
    adapter(tmp_path / "checkpoint-1", 1)
    adapter(tmp_path / "checkpoint-2", None)
    tensors(adapter(tmp_path / "checkpoint-3", 3) / "adapter_model.safetensors", size=7)
    (adapter(tmp_path / "checkpoint-4", 4) / "optimizer.pt").write_bytes(b"PK\x03\x04")
    adapter(tmp_path / "checkpoint-5", 6)
    (adapter(tmp_path / "checkpoint-7", 7) / "trainer_state.json").write_text("{")
    found = find(tmp_path)
    assert found.step == 1
    for words in ("cut off", "bytes instead of", "optimizer.pt is cut off", "step 6", "checkpoint-7"):
        assert words in " ".join(found.passed_over)
    assert len(found.passed_over) == 5


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "neither"),
        ({"adapter_config.json": "{}"}, "adapter_model.safetensors is missing"),
        ({"adapter_config.json": "{}", "adapter_model.bin": ""}, "adapter_model.bin is a pickle"),
        ({"config.json": "{}"}, "model.safetensors is missing"),
        ({"config.json": "{}", "model.safetensors": ""}, "damaged"),
        ({"config.json": "{}", "model.safetensors.index.json": '{"weight_map": {"a": "x.safetensors"}}'}, "x.safe"),
        ({"adapter_config.json": "[]", "adapter_model.safetensors": None}, "no JSON object"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": None, "optimizer.pt": ""}, "trainer_state.json"),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_named(tmp_path: Path, files: dict[str, str | None], words: str) -> None:
    for name, content in files.items():
        if content is None:
            tensors(tmp_path / name)
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=words.replace(".", r"\.")):
        find(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        find(tmp_path / "away")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="no folder"):
        find(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_e15_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "out", 3)
    folder.chmod(0)
    try:
        with pytest.raises(CheckpointError, match="cannot be read"):
            find(folder)
    finally:
        folder.chmod(0o755)
