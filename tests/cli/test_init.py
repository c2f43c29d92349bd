from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.settings import load_settings, sections
from nightschool.workspace import Layout
from tests.cli.conftest import Run


def test_init_makes_folders_ledger_and_explained_settings(cli: Run, model: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "new" / "deep")
    result = cli("init", layout.root, "--model", model, "--method", "full")
    assert (result.code, result.err) == (0, "")
    layout.require()
    settings = load_settings(layout.settings_file)
    assert (settings.model.name, settings.training.method) == (str(model), "full")
    with Ledger.open(layout.ledger) as ledger:
        assert not any(ledger.files.counts().values())
    text = layout.settings_file.read_text()
    for section, kind in sections().items():
        assert f"[{section}]" in text
        for key, field in kind.model_fields.items():
            assert f"# {field.description}" in text
            assert f"{key} = " in text


def test_a_relative_model_folder_is_written_in_full(
    cli: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("init", "ws", "--model", "base").code == 0
    written = tomllib.loads((tmp_path / "ws" / "nightschool.toml").read_text())
    assert written["model"]["name"] == str(model)


def test_a10_a_folder_that_holds_something_is_refused_and_left_alone(cli: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "thesis.txt").write_text("dear")
    result = cli("init", folder, "--model", model)
    assert result.code == 4
    assert "thesis.txt" in result.err
    assert sorted(p.name for p in folder.rglob("*")) == ["sub", "thesis.txt"]


def test_a_workspace_is_not_made_twice_nor_inside_another(cli: Run, model: Path, layout: Layout) -> None:
    before = layout.settings_file.read_text()
    for folder in (layout.root, layout.inbox):
        assert cli("init", folder, "--model", model).code == 4
    assert layout.settings_file.read_text() == before


def test_an_init_that_was_cut_off_may_be_done_again(cli: Run, model: Path, layout: Layout) -> None:
    # The settings file is written last; without it nothing else takes the folder for a workspace.
    layout.settings_file.unlink()
    assert cli("-C", layout.root, "status").code == 4
    assert cli("init", layout.root, "--model", model).code == 0
    assert cli("-C", layout.root, "status").code == 0


def test_c10_a_ledger_with_files_is_never_taken_over(
    cli: Run, model: Path, layout: Layout, here: Run, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    assert here("add", tmp_path / "a.jsonl").code == 0
    for path in layout.incoming.iterdir():
        path.unlink()
    layout.settings_file.unlink()
    result = cli("init", layout.root, "--model", model)
    assert result.code == 4
    assert "Put nightschool.toml back" in result.err


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_lacks_something_is_refused(cli: Run, model: Path, tmp_path: Path, missing: str) -> None:
    (model / missing).unlink()
    result = cli("init", tmp_path / "ws", "--model", model)
    assert result.code == 9
    assert str(model) in result.err
    assert not (tmp_path / "ws").exists()


def test_a_hub_name_that_is_not_cached_says_how_to_get_it(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    result = cli("init", tmp_path / "ws", "--model", "somebody/some-model")
    assert result.code == 9
    assert "hf download somebody/some-model" in result.err


def test_a_model_folder_that_does_not_exist(cli: Run, tmp_path: Path) -> None:
    result = cli("init", tmp_path / "ws", "--model", tmp_path / "nowhere")
    assert result.code == 9
    assert "nowhere" in result.err


def test_settings_to_begin_with(cli: Run, model: Path, tmp_path: Path) -> None:
    given = tmp_path / "mine.toml"
    given.write_text(f'[model]\nname = "{model}"\ndtype = "float32"\n[training]\nseed = 7\n[lora]\nr = 4\n')
    assert cli("init", tmp_path / "ws", "--settings", given, "--method", "lora").code == 0
    settings = load_settings(tmp_path / "ws" / "nightschool.toml")
    assert (settings.model.name, settings.model.dtype, settings.training.seed) == (str(model), "float32", 7)
    assert settings.lora == {"r": 4}
    for text, words in (
        ("a = 1", "no section"),
        ("[model", "cannot be read"),
        ("[training]\nsed = 1", "training.seed"),
    ):
        given.write_text(text)
        result = cli("init", tmp_path / "other", "--model", model, "--settings", given)
        assert result.code == 3
        assert words in result.err
