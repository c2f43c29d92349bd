from __future__ import annotations

import json

import pytest

from nightschool import logs
from nightschool.cli.common import plain
from nightschool.ledger import Arrival, HoldoutRow, Ledger
from nightschool.workspace import Layout
from tests.cli.conftest import Run


@pytest.fixture
def filled(layout: Layout) -> Layout:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival(name, f"/gone/{n}") for n, name in enumerate(("a\x1b[2J.jsonl", "b.jsonl"))])
        ledger.files.archived(2, "1" * 64, 5, "archive/b.jsonl")
        ledger.files.reject(1, "it is empty")
        ledger.checkpoints.publish(900, 0, "ab" * 32, "checkpoint-900", 1000, 2000, 1.25, 0.01)
        ledger.checkpoints.publish(2600, 0, "cd" * 32, "checkpoint-2600", 1000, 2000, 1.25, 0.01)
        ledger.checkpoints.retire(900, "3 newer ones")
    return layout


@pytest.mark.usefixtures("filled")
def test_files_show_what_was_measured_on_rows_held_out(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.holdouts.record([HoldoutRow(0, 2, 7, 90, 3.25, None), HoldoutRow(4, 2, 7, 90, 2.5, 1.125)])
    assert "2.500 → 1.125" in here("files").out
    first, second = here("files", "--json").json
    assert first["holdout_loss_after"] is None
    assert (second["holdout_rows"], second["holdout_loss_before"], second["holdout_loss_after"]) == (7, 2.5, 1.125)


@pytest.mark.usefixtures("filled")
def test_files(here: Run) -> None:
    text = here("files").out
    assert [line.split()[:2] for line in text.splitlines()[1:]] == [["1", "rejected"], ["2", "archived"]]
    assert "it is empty" in text
    assert [(row["id"], row["name"]) for row in here("files", "--json").json] == [(1, "a\x1b[2J.jsonl"), (2, "b.jsonl")]
    assert [row["id"] for row in here("files", "--state", "archived", "--json").json] == [2]


@pytest.mark.usefixtures("filled")
def test_e13_names_cannot_act_on_the_terminal(here: Run) -> None:
    for arguments in (["files"], ["files", "--json"]):
        assert "\x1b" not in here(*arguments).out


def test_listings_of_nothing(here: Run) -> None:
    assert here("files").out == "No files yet.\n"
    assert here("files", "--state", "learned").out == "No files are learned.\n"
    assert here("checkpoints").out == "No checkpoints yet.\n"
    assert here("files", "--json").json == here("checkpoints", "--json").json == []
    assert here("files", "--state", "nonsense").code == 2


@pytest.mark.usefixtures("filled")
def test_a6_checkpoints_are_in_the_order_of_their_numbers(here: Run) -> None:
    assert [row["step"] for row in here("checkpoints", "--json").json] == [900, 2600]
    lines = here("checkpoints").out.splitlines()
    assert lines[1].split()[:2] == ["900", "retired"]
    assert lines[2].split()[:2] == ["2,600", "published"]


def test_e16_more_files_than_a_page_are_listed_as_one_array(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival(f"{n}.jsonl", f"/gone/{n}") for n in range(5000)])
    assert len(here("files", "--json").json) == 5000


def test_log_shows_the_last_lines_also_across_rotation(here: Run, layout: Layout) -> None:
    assert here("log").out == ""
    logs.rotated(layout.log_file, 1).write_text("2026-11-22 22:00:00  one\n2026-11-22 22:00:01  two\n")
    layout.log_file.write_text("2026-11-22 22:00:02  three\n")
    assert [line[21:] for line in here("log", "-n", 2).out.splitlines()] == ["two", "three"]
    assert len(here("log").out.splitlines()) == 3
    (line,) = here("log", "-n", 1, "--json").out.splitlines()
    assert json.loads(line) == {"at": "2026-11-22 22:00:02", "text": "three"}


def test_log_follows_until_ctrl_c(here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightschool.cli import log

    rounds = []

    def sleep(_: float) -> None:
        rounds.append(1)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        with layout.log_file.open("a") as file:
            file.write("2026-11-22 22:00:00  new\n")

    monkeypatch.setattr(log.time, "sleep", sleep)
    result = here("log", "-f")
    assert (result.code, result.out) == (0, "2026-11-22 22:00:00  new\n")


def test_settings(here: Run, layout: Layout) -> None:
    text = layout.settings_file.read_text().replace("# epochs = 1", "epochs = 4").replace("# r = 16", "r = 8")
    layout.settings_file.write_text(text)
    rows = {row["name"]: row for row in here("settings", "--json").json}
    assert (rows["training.epochs"]["value"], rows["training.epochs"]["class"]) == (4, "entry")
    assert (rows["lora.r"]["value"], rows["lora.r"]["class"]) == (8, "run")
    assert rows["checkpoints.save_steps"]["class"] == "operational"
    assert all(row["class"] in ("run", "entry", "operational") and row["meaning"] for row in rows.values())
    assert rows["training.epochs"]["source"] == "nightschool.toml"
    lines = [line.split() for line in here("settings").out.splitlines()]
    assert [line[0] for line in lines if "nightschool.toml" in line] == ["model.name", "lora.r", "training.epochs"]
    assert ["training.epochs", "4", "nightschool.toml", "next", "file"] in lines


def test_a12_a_malformed_setting_is_an_error_with_a_hint(here: Run, layout: Layout) -> None:
    layout.settings_file.write_text(layout.settings_file.read_text().replace("# epochs = 1", "epoch = 1"))
    result = here("settings")
    assert result.code == 3
    assert "training.epochs" in result.err


def test_json_holds_no_nan() -> None:
    assert plain({"a": [float("nan"), 1.0, (float("-inf"),)]}) == {"a": [None, 1.0, [None]]}
