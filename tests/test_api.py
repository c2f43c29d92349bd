from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nightschool
from nightschool import Workspace, durable, errors
from nightschool.creation import create
from nightschool.ledger import Arrival, StepRow
from nightschool.settings import load_settings
from tests import tiny


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that looks like a base model."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def workspace(base: Path, tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "ws", str(base))


def stored(workspace: Workspace, id: int) -> str:
    with workspace.ledger() as ledger:
        return Path(ledger.files.get(id).source).read_text(encoding="utf-8")


def test_importing_the_package_or_its_workspace_imports_no_torch() -> None:
    code = (
        "import sys\nimport nightschool\nassert 'sqlite3' not in sys.modules\nfrom nightschool import Workspace\n"
        "sys.exit(', '.join({'torch', 'transformers', 'datasets', 'numpy', 'pydantic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="Workspce"):
        nightschool.Workspce  # noqa: B018


def test_create_takes_sections_of_settings(base: Path, tmp_path: Path) -> None:
    made = Workspace.create(
        tmp_path / "a", str(base), training={"method": "full"}, lora={"r": 4}, data={"packing": False}
    )
    assert made.settings.training.method == "full"
    assert (made.settings.lora["r"], made.settings.data.packing) == (4, False)
    assert load_settings(made.root / "nightschool.toml") == made.settings


def test_a12_none_means_not_set(base: Path, tmp_path: Path) -> None:
    made = Workspace.create(tmp_path / "a", str(base), lora={"modules_to_save": None, "r": 4}, data={"packing": None})
    assert (made.settings.lora, made.settings.data.packing) == ({"r": 4}, True)


def test_a12_what_toml_cannot_say_makes_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.SettingsError, match="TOML"):
        create(tmp_path / "a", str(base), {"model": {"chat_template_kwargs": {"x": [None]}}})
    assert not (tmp_path / "a").exists()


def test_a12_create_with_an_unknown_setting_makes_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.SettingsError, match=r"data\.max_length"):
        Workspace.create(tmp_path / "a", str(base), data={"max_seq_length": 5})
    assert not (tmp_path / "a").exists()


def test_open_finds_the_workspace_above(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root / "inbox" / "high")
    assert Workspace.open().root == workspace.root
    assert Workspace.open(workspace.root).root == workspace.root
    assert repr(workspace) == f"Workspace('{workspace.root}')"


def test_c10_open_refuses_a_workspace_with_a_missing_part(workspace: Workspace) -> None:
    (workspace.root / "archive").rename(workspace.root / "away")
    with pytest.raises(errors.WorkspaceError, match="archive"):
        Workspace.open(workspace.root)


def test_add_a_path(workspace: Workspace, tmp_path: Path) -> None:
    path = tiny.rows(tmp_path / "a.jsonl", 3)
    id = workspace.add(path, priority="low", epochs=2)
    assert stored(workspace, id) == path.read_text()
    (row,) = workspace.files()
    assert (row.name, row.priority, row.options) == ("a.jsonl", 2, {"epochs": 2})
    assert workspace.add(str(path), name="other.jsonl") == id + 1


def test_add_rows_keeps_them_as_jsonl(workspace: Workspace) -> None:
    rows: list[dict[str, Any]] = [{"text": "größe\u2028\n"}, {"messages": [{"role": "user", "content": "a"}]}]
    id = workspace.add(rows, name="mine")
    text = stored(workspace, id)
    assert text.count("\n") == 2
    assert [json.loads(line) for line in text.rstrip("\n").split("\n")] == rows
    (row,) = workspace.files()
    assert row.name == "mine.jsonl"
    assert not list(workspace.layout.tmp.iterdir())


def test_rows_without_a_name_get_one_each(workspace: Workspace) -> None:
    for _ in range(2):
        workspace.add(row for row in tiny.text_rows(2))
    names = [row.name for row in workspace.files()]
    assert len(set(names)) == 2
    assert all(name.startswith("rows-") and name.endswith(".jsonl") for name in names)


def test_add_a_dataset(workspace: Workspace) -> None:
    import datasets

    rows = tiny.text_rows(5)
    id = workspace.add(datasets.Dataset.from_list(rows))
    assert [json.loads(line) for line in stored(workspace, id).splitlines()] == rows
    with pytest.raises(errors.DataError, match="split"):
        workspace.add(datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"text": "a"}, "b"], "Row 2"),
        ([{"text": math.nan}], "Row 1"),
        ([{"text": object()}], "Row 1"),
        ([{"text": "\ud800"}], "Row 1"),
    ],
)
def test_e11_rows_that_are_no_json_are_refused_whole(workspace: Workspace, rows: list[Any], message: str) -> None:
    with pytest.raises(errors.DataError, match=message):
        workspace.add(rows)
    assert list(workspace.files()) == []
    assert not list(workspace.layout.tmp.iterdir())
    assert not list(workspace.layout.incoming.iterdir())


@pytest.mark.parametrize("name", ["../escape.jsonl", "a/b", "a\nb.jsonl"])
def test_e13_a_name_is_only_a_name(workspace: Workspace, name: str) -> None:
    with pytest.raises(errors.DataError):
        workspace.add([{"text": "a"}], name=name)


def test_what_a_caller_got_wrong_is_a_value_error(workspace: Workspace) -> None:
    for wrong in ({"priority": "urgent"}, {"epochs": 0}):
        with pytest.raises(ValueError):
            workspace.add([{"text": "a"}], **wrong)  # type: ignore[arg-type]


def test_adding_while_processes_start_and_sweep(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    # The trainer and the intake worker clear unfinished copies out of these two folders when they start.
    real = os.readv

    def readv(*args: Any) -> int:
        durable.sweep(workspace.layout.tmp)
        durable.sweep(workspace.layout.incoming)
        return real(*args)

    monkeypatch.setattr(os, "readv", readv)
    id = workspace.add([{"text": "a"}])
    assert stored(workspace, id) == '{"text": "a"}\n'


def test_losses_are_one_curve_over_all_files(workspace: Workspace) -> None:
    with workspace.ledger() as ledger:
        ledger.files.arrive([Arrival("a.jsonl", "/a"), Arrival("b.jsonl", "/b")])
        for file in (1, 2):
            ledger.entries.append([(file, "digest", 3)], "{}", 3)
        ledger.steps.record([StepRow(s, (s - 1) // 3, 5.0 - s, 1e-4, 1.0, 10, 9, 0.1) for s in range(1, 7)])
    found = list(workspace.losses())
    assert [(loss.step, loss.loss, loss.file) for loss in found] == [
        (s, 5.0 - s, "a.jsonl" if s <= 3 else "b.jsonl") for s in range(1, 7)
    ]
    assert [loss.step for loss in workspace.losses(after=4)] == [5, 6]


def test_status_pause_and_resume(workspace: Workspace) -> None:
    workspace.pause()
    assert workspace.status().paused
    workspace.resume()
    status = workspace.status()
    assert not status.paused
    assert json.loads(json.dumps(status.to_dict()))["state"] == "stopped"
    with workspace.ledger() as ledger:
        assert [event.kind for event in ledger.events.since()] == ["pause", "resume"]


def test_load_before_anything_was_saved(workspace: Workspace) -> None:
    with pytest.raises(errors.CheckpointError, match="nothing has been saved"):
        workspace.load()
    with pytest.raises(errors.CheckpointError, match="There is none yet"):
        workspace.load(at=5)


def save_adapter(base: Path, folder: Path, value: float) -> None:
    """What training leaves: an adapter whose B is `value` everywhere."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(value)
    adapted.save_pretrained(str(folder))


def lora_b(model: Any) -> set[float]:
    return {float(x) for name, p in model.named_parameters() if "lora_B" in name for x in p.flatten().tolist()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with an adapter in `current_model/` and a checkpoint at step 5, as training leaves them."""
    root = tmp_path_factory.mktemp("trained")
    base = tiny.make_model(root / "base")
    made = Workspace.create(root / "ws", str(base))
    current = made.layout.current_model
    tiny.make_tokenizer(current)
    save_adapter(base, current, 0.5)
    save_adapter(base, current / ".tmp-5", 0.25)
    durable.seal(current / ".tmp-5")
    durable.publish(current / ".tmp-5", made.layout.checkpoint(5))
    return made


def test_a5_load_gives_the_adapter_that_was_trained(trained: Workspace) -> None:
    model, tokenizer = trained.load()
    assert lora_b(model) == {0.5}
    assert not model.training
    assert tokenizer.chat_template
    ids = tokenizer("the night", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3).shape[1] > ids["input_ids"].shape[1]
    model, _ = trained.load(at=5)
    assert lora_b(model) == {0.25}
    with pytest.raises(errors.CheckpointError, match="There are checkpoints at 5"):
        trained.load(at=6)


def test_a7_load_refuses_another_base_model(trained: Workspace) -> None:
    with trained.ledger() as ledger:
        ledger.machine.set("root", {"base": {"model.safetensors": "0" * 64}})
    try:
        with pytest.raises(errors.ModelError, match="is not the one"):
            trained.load()
    finally:
        with trained.ledger() as ledger:
            ledger.machine.delete("root")


def test_c2_load_refuses_a_damaged_checkpoint(trained: Workspace) -> None:
    path = trained.layout.checkpoint(5) / "adapter_model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        with pytest.raises(errors.CheckpointError, match="damaged"):
            trained.load(at=5)
    finally:
        path.write_bytes(good)
    assert lora_b(trained.load(at=5)[0]) == {0.25}


def test_load_a_fully_trained_model(tmp_path: Path) -> None:
    base = tiny.make_model(tmp_path / "base")
    made = Workspace.create(tmp_path / "ws", str(base), training={"method": "full"})
    current = made.layout.current_model
    tiny.make_tokenizer(current)
    tiny.make_model(made.layout.checkpoint(5), seed=7)
    (current / "latest").symlink_to("checkpoint-5")
    model, _ = made.load()
    import transformers

    for folder, equal in ((made.layout.checkpoint(5), True), (base, False)):
        other = transformers.AutoModelForCausalLM.from_pretrained(folder)
        same = [bool((a == b).all()) for a, b in zip(model.parameters(), other.parameters(), strict=True)]
        assert all(same) is equal
    assert not hasattr(model, "peft_config")
