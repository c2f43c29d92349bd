"""`nightschool settings`: what is in force, and what the file in training may still take."""

from __future__ import annotations

import pytest

from nightschool import durable, inforce, ordering
from nightschool.ledger import Arrival, Ledger
from nightschool.ledger.machine import SETTINGS_PROBLEM
from nightschool.settings import canonical, load_settings
from nightschool.workspace import Layout
from tests.cli.conftest import Run
from tests.cli.test_queue import prepared


@pytest.fixture
def training(layout: Layout) -> Layout:
    """a.jsonl is in training, begun under the defaults."""
    settings = load_settings(layout.settings_file)
    recipe = canonical(settings.entry_recipe({**settings.data_recipe(), "tokenizer": "t"}, {}))
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("a.jsonl", "/gone/a")])
        prepared(ledger, 1, 1000, 500, 20, "training")
        ledger.entries.append([(1, "1", 20)], recipe, 10)
    return layout


def write(layout: Layout, **lines: str) -> None:
    text = layout.settings_file.read_text()
    for key, value in lines.items():
        before = next(line for line in text.splitlines() if line.startswith(f"# {key} = "))
        text = text.replace(before, f"{key} = {value}", 1)
    layout.settings_file.write_text(text)


def asked(layout: Layout) -> list[dict]:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get(ordering.ORDERS) or []


def test_what_does_not_decide_the_steps_counts_at_once(here: Run, training: Layout) -> None:
    write(training, learning_rate="5e-5", warmup_steps="7", max_length="512", epochs="3")
    text = here("settings", "--now").out
    assert "a.jsonl goes on with other settings from its next step on: " in text
    assert "training.learning_rate 0.0001 → 5e-05, training.warmup_steps 100 → 7." in text
    assert "data.max_length, training.epochs decide what the steps of a file train on" in text
    (order,) = asked(training)
    assert (order["what"], order["file"], order["values"]) == (
        "settings",
        1,
        {"learning_rate": 5e-5, "warmup_steps": 7},
    )


def test_what_decides_the_steps_alone_is_refused(here: Run, training: Layout) -> None:
    write(training, max_length="512")
    found = here("settings", "--now")
    assert found.code == 3
    assert "data.max_length decides what the steps of a file train on: nothing of that is changed" in found.err
    assert "it counts from the file after a.jsonl on" in found.err
    assert asked(training) == []


def test_nothing_differs(here: Run, training: Layout) -> None:
    assert here("settings", "--now").out == "a.jsonl is trained by these settings already.\n"
    assert asked(training) == []


def test_no_file_is_in_training(here: Run) -> None:
    assert "No file is in training" in here("settings", "--now").err


def rows(here: Run) -> dict:
    return {row["name"]: row for row in here("settings", "--json").json}


def test_what_the_file_in_training_goes_by_is_shown(here: Run, training: Layout) -> None:
    write(training, learning_rate="5e-5")
    row = rows(here)["training.learning_rate"]
    assert (row["value"], row["in_force"], row["in_force_by"]) == (5e-5, 1e-4, "the file in training")
    assert "0.0001 (the file in training)" in here("settings").out
    assert rows(here)["training.weight_decay"]["in_force_by"] is None


def test_what_the_running_machine_goes_by_is_shown(here: Run, layout: Layout) -> None:
    inforce.accept(layout, layout.settings_file.read_bytes())
    write(layout, save_steps="7")
    assert rows(here)["checkpoints.save_steps"]["in_force_by"] is None, "nothing runs: the file counts"
    with durable.Lock(layout.supervisor_lock, "a machine"):
        row = rows(here)["checkpoints.save_steps"]
        assert (row["value"], row["in_force"], row["in_force_by"]) == (7, 1250, "the machine")
        layout.settings_file.write_text("[model\n")
        with Ledger.open(layout.ledger) as ledger:
            ledger.machine.set(SETTINGS_PROBLEM, "It is broken.")
        assert here("settings").out.startswith("It is broken.\n")
        assert (rows(here)["checkpoints.save_steps"]["value"], here("status", "--json").json["settings_problem"]) == (
            1250,
            "It is broken.",
        )
        assert "It is broken." in here("status").out
    assert here("settings").code == 3, "nothing runs: it has to be put right before anything can"
    assert here("status", "--json").json["settings_problem"] is None


def test_a_file_that_a_running_machine_refuses_gives_no_rates_either(here: Run, training: Layout) -> None:
    inforce.accept(training, training.settings_file.read_bytes())
    write(training, learning_rate="5e-5", seed="7")
    with durable.Lock(training.supervisor_lock, "a machine"):
        found = here("settings", "--now")
    assert found.code == 3
    assert "training.seed 42 → 7 (new run): that is fixed for a run, so nothing in the file is taken" in found.err
    assert not asked(training)
