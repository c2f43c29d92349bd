"""Workspace paths and the base model's folder."""

from pathlib import Path

import pytest

from nightschool import basemodel, words
from nightschool.creation import check_model
from nightschool.errors import ModelError, WorkspaceError
from nightschool.workspace import Layout, checkpoints_in, find_workspace


def test_a6_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    for name in ("checkpoint-900", "checkpoint-2600", "checkpoint-10", "checkpoint-x", ".tmp-5-a", "checkpoint-7.bak"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-9999").write_text("a file is no checkpoint")
    assert [step for step, _ in checkpoints_in(tmp_path)] == [10, 900, 2600]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir())[-2:] != ["checkpoint-900", "checkpoint-2600"]


def test_the_workspace_is_found_from_below(tmp_path: Path) -> None:
    (tmp_path / "nightschool.toml").touch()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_workspace(inner).root == tmp_path


def test_no_workspace_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="nightschool init"):
        find_workspace(tmp_path)


def test_c10_a_missing_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    layout.settings_file.touch()
    layout.ledger.touch()
    layout.require()
    layout.current_model.rmdir()
    with pytest.raises(WorkspaceError, match="current_model is missing"):
        layout.require()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, text in {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "{}"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a7_any_changed_file_changes_the_fingerprint(model: Path) -> None:
    before = basemodel.fingerprint(basemodel.model_files(model))
    assert set(before) == {"config.json", "model.safetensors"}
    for name in before:
        (model / name).write_text("changed")
        after = basemodel.fingerprint(basemodel.model_files(model))
        assert after[name] != before[name]
        before = after


def test_the_cache_is_used_only_while_the_file_is_untouched(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    files = basemodel.model_files(model)
    first = basemodel.fingerprint(files, cache)
    # A cache that claims something else for an untouched file is believed: so it is really used.
    cache.write_text(cache.read_text().replace(first["model.safetensors"], "0" * 64))
    assert basemodel.fingerprint(files, cache)["model.safetensors"] == "0" * 64
    (model / "model.safetensors").write_text("v")
    assert basemodel.fingerprint(files, cache)["model.safetensors"] not in ("0" * 64, first["model.safetensors"])


def test_messages_of_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        basemodel.resolve(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        basemodel.resolve(str(tmp_path))
    with pytest.raises(ModelError, match="holds no tokenizer"):
        basemodel.tokenizer_digest(tmp_path)


def test_a_hub_name_that_is_not_cached_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hf download some/model"):
        basemodel.resolve("some/model")


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.model",
        "tokenizer.model.v3",
        "tekken.json",
        "spiece.model",
        "sentencepiece.bpe.model",
        "qwen.tiktoken",
    ],
)
def test_a7_whatever_counts_as_a_tokenizer_is_in_its_digest(tmp_path: Path, name: str) -> None:
    for other in ("config.json", "model.safetensors", "tokenizer_config.json"):
        (tmp_path / other).write_text("{}")
    with pytest.raises(ModelError, match="holds no tokenizer"):
        check_model(str(tmp_path))
    (tmp_path / name).write_text("a")
    assert check_model(str(tmp_path)) == tmp_path.resolve()
    before = basemodel.tokenizer_digest(tmp_path)
    (tmp_path / name).write_text("b")
    assert basemodel.tokenizer_digest(tmp_path) != before


def test_passwords_in_addresses_are_not_quoted() -> None:
    said = "no answer from https://me:s3cret@host:5000/api?x=a@b and http://plain/ok"
    assert words.without_passwords(said) == "no answer from https://***@host:5000/api?x=a@b and http://plain/ok"
