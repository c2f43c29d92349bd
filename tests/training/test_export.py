"""What `export` gives away: loaded by others, it says what the run's own model says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nightschool import Workspace, durable, errors
from nightschool.exporting import asking, folder
from nightschool.record import read_record
from nightschool.training import export
from nightschool.workspace import Layout
from tests.training import rig

TRAINING: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 2}


def made(root: Path, kind: str = "llama", method: str = "lora", **lora: Any) -> Layout:
    base = rig.make_base(root / "base", kind)
    (base / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7, "eos_token_id": 258}))
    layout = rig.workspace(
        root / "run", base, training={**TRAINING, "method": method}, **({"lora": {"r": 4, **lora}} if lora else {})
    )
    rig.add(layout, "a|b.jsonl", rig.sequences(12, 1))
    rig.add(layout, "c.jsonl", rig.sequences(12, 2), epochs=2)
    rig.run(layout)
    return layout


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return made(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return made(tmp_path_factory.mktemp("full"), method="full")


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids = torch.randint(97, 123, (2, 20), generator=torch.Generator().manual_seed(3))
    return model.eval()(input_ids=ids, use_cache=False).logits


def loaded(source: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)


def base_of(layout: Layout) -> Path:
    return layout.root.parent / "base"


def test_the_adapter_gives_the_very_logits_of_the_run(lora: Layout, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoTokenizer

    room = Workspace(lora)
    told = room.export(tmp_path / "out")
    wanted = logits(room.load()[0])
    assert torch.equal(logits(PeftModel.from_pretrained(loaded(base_of(lora)), tmp_path / "out")), wanted)
    # Control: without it they are others.
    assert not torch.allclose(logits(loaded(base_of(lora))), wanted, atol=1e-3)
    assert (told["kind"], told["step"]) == ("adapter", 9)
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (tmp_path / "out", base_of(lora)))
    assert ours("Why?")["input_ids"] == theirs("Why?")["input_ids"]
    assert ours.chat_template
    assert durable.check(tmp_path / "out") == []
    text = (tmp_path / "out/README.md").read_text()
    assert read_record(lora.checkpoint(9)).lineage in text
    assert "a&#124;b.jsonl" in text
    assert "| c.jsonl | 1 |" in text
    assert "4–9" in text
    assert "epochs = 1" in text
    assert not set(told["files"]) & {"optimizer.pt", "scheduler.pt", "trainer_state.json"}


def test_an_earlier_state_is_exported_by_its_step(lora: Layout, tmp_path: Path) -> None:
    told = Workspace(lora).export(tmp_path / "out", "5")
    assert (told["step"], told["lineage"]) == (5, read_record(lora.checkpoint(5)).lineage)
    assert "4–5 of its 6" in (tmp_path / "out/README.md").read_text()
    first = load_file(tmp_path / "out/adapter_model.safetensors")
    last = load_file(lora.checkpoint(9) / "adapter_model.safetensors")
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_the_merged_model_says_what_the_adapter_says_and_is_cut_into_shards(lora: Layout, tmp_path: Path) -> None:
    told = export.export(lora, None, tmp_path / "out", "50KB")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    merged = loaded(tmp_path / "out")
    wanted = logits(Workspace(lora).load()[0])
    assert torch.allclose(logits(merged), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(loaded(base_of(lora))), wanted, atol=1e-3)
    assert merged.generation_config.max_new_tokens == 7
    assert told["kind"] == "merged"
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert (tmp_path / "out/chat_template.jinja").is_file()
    assert not (tmp_path / "out" / folder.STATE).exists()
    assert durable.check(tmp_path / "out") == []


def test_control_a_merge_that_says_something_else_is_refused(
    lora: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import LoraModel

    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda self, **_: self.unload())
    with pytest.raises(errors.CheckpointError, match="does not say"):
        export.export(lora, None, tmp_path / "out", "5GB")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("forked")
def test_a_model_trained_in_full_is_exported_through_the_child_process(full: Layout, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    told = Workspace(full).export(tmp_path / "out", shard_size="100KB")
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(Workspace(full).load()[0]))
    assert not torch.equal(logits(loaded(base_of(full))), logits(loaded(tmp_path / "out")))
    assert told["kind"] == "model"
    assert sum(name.startswith("model-") for name in told["files"]) > 1


def test_the_base_must_be_that_of_the_run(lora: Layout, tmp_path: Path) -> None:
    config = base_of(lora) / "config.json"
    before = config.read_bytes()
    try:
        config.write_bytes(before + b"\n")
        with pytest.raises(errors.ModelError, match=r"config\.json changed"):
            Workspace(lora).export(tmp_path / "out", merged=True)
        with pytest.raises(errors.ModelError, match=r"config\.json changed"):
            export.export(lora, None, tmp_path / "out", "5GB")
    finally:
        config.write_bytes(before)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_child_process_keep_their_kind_and_words(
    lora: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    code = errors.CheckpointError.exit_code
    child.write_text(f"#!/bin/sh\necho a warning >&2\necho It is damaged. >&2\nexit {code}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    with pytest.raises(errors.CheckpointError, match=r"^It is damaged\.$"):
        Workspace(lora).export(tmp_path / "out", merged=True)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt"])
def test_c2_a_damaged_state_is_refused(lora: Layout, tmp_path: Path, name: str) -> None:
    copy = Layout(tmp_path / "copy")
    shutil.copytree(lora.root, copy.root)
    path = copy.checkpoint(9) / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    with pytest.raises(errors.CheckpointError, match=name):
        Workspace(copy).export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # Control: the one before it is whole.
    assert Workspace(copy).export(tmp_path / "out", "5")["step"] == 5


def test_c2_a_state_that_changes_meanwhile_is_refused(
    lora: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Layout(tmp_path / "copy")
    shutil.copytree(lora.root, copy.root)
    real = folder.find

    def find(*told: Any) -> Any:
        found = real(*told)
        weights = found.folder / "adapter_model.safetensors"
        save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
        return found

    monkeypatch.setattr(folder, "find", find)
    with pytest.raises(errors.CheckpointError, match="changed while"):
        asking.export(copy, tmp_path / "out", None, False, "5GB")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_the_folder_must_be_free(lora: Layout, tmp_path: Path) -> None:
    room = Workspace(lora)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    for place in (tmp_path / "out", lora.archive / "x", lora.root, tmp_path / "out/mine"):
        with pytest.raises(errors.WorkspaceError):
            room.export(place)
    with pytest.raises(errors.CheckpointError, match="no saved state"):
        room.export(tmp_path / "new", "1999-01-01")
    with pytest.raises(errors.SettingsError, match="5GB"):
        room.export(tmp_path / "new", merged=True, shard_size="much")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_removed_by_the_next(lora: Layout, tmp_path: Path) -> None:
    from tests.durable.faults import killed_at

    room = Workspace(lora)
    point = 0
    while killed_at(point, lambda: room.export(tmp_path / "out")):
        assert not (tmp_path / "out").exists() or durable.check(tmp_path / "out") == []
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
        point += 7
    assert point > 15
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
