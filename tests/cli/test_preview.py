"""`nightschool preview FILE`."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool.workspace import Layout
from tests import tiny
from tests.cli.conftest import Run

KEYS = {"container", "shape", "rows_good", "rows_bad", "bad_rows", "tokens", "steps"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a tokenizer that works."""
    folder = tiny.make_tokenizer(tmp_path / "base")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("{}")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("ask,reply\nWhat?,This\nWho?,\x1b[31mNobody\n")
    return path


def test_a_link_is_looked_at_under_its_own_name_as_add_takes_it(cli: Run, model: Path, table: Path) -> None:
    """The cache of Hugging Face is made of links to files without endings."""
    blob = table.rename(table.with_name("0123abc"))
    table.symlink_to(blob)
    table.with_name("rows.csv.toml").write_text('[columns]\nprompt = "ask"\ncompletion = "reply"\n')
    found = cli("preview", table, "--model", model, "--json").json
    assert (found["name"], found["container"], found["rows_good"]) == ("rows.csv", "csv", 2)


def test_it_works_without_a_workspace(cli: Run, model: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    found = cli("preview", table, "--model", model, "--map", "prompt=ask", "--map", "completion=reply", "--json")
    assert found.code == 0
    assert found.json.keys() >= KEYS
    assert (found.json["container"], found.json["shape"], found.json["rows_good"]) == ("csv", "prompt+completion", 2)
    nowhere = cli("preview", table)
    assert nowhere.code == 4
    assert "--model NAME" in nowhere.err


def test_in_a_workspace_it_takes_its_settings_and_leaves_the_inbox(cli: Run, layout: Layout, table: Path) -> None:
    layout.settings_file.write_text(
        layout.settings_file.read_text() + '\n[inbox.columns]\nprompt = "ask"\ncompletion = "reply"\n'
    )
    (layout.inbox / "rows.csv").write_bytes(table.read_bytes())
    found = cli("-C", layout.root, "preview", layout.inbox / "rows.csv")
    assert found.code == 0
    assert (layout.inbox / "rows.csv").read_bytes() == table.read_bytes()
    assert "2 good; 0 bad" in found.out
    assert "⟦This<eos>⟧" in found.out
    assert "\x1b" not in found.out
    assert "\\x1b[31mNobody" in found.out


def test_settings_beside_the_file_count(cli: Run, layout: Layout, table: Path) -> None:
    table.with_name("rows.csv.toml").write_text('epochs = 5\n[columns]\nprompt = "ask"\ncompletion = "reply"\n')
    assert cli("-C", layout.root, "preview", table, "--json").json["steps"] == 5


def test_what_would_be_rejected_is_said(cli: Run, layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"odd": 1}\n')
    found = cli("-C", layout.root, "preview", path)
    assert found.code == 0
    assert "the keys of the row are not known" in found.out
    assert "It would be rejected: its one row cannot be used" in found.out
    assert cli("-C", layout.root, "preview", tmp_path / "none.jsonl").code == 7
