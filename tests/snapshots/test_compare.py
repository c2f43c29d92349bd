"""What lies between two states, in values and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightschool import Workspace, curriculum, errors
from nightschool.curriculum import Entry, Part
from nightschool.record import Record, root_digest
from nightschool.settings import canonical
from nightschool.snapshots.compare import Difference, Given, Known, compare
from nightschool.workspace import Layout
from tests.cli.conftest import Run, cli  # noqa: F401 - a fixture
from tests.rebuilding import making

ROOT: dict[str, Any] = {"seed": 1, "method": "lora"}
FILES = {1: Known("da", "a.jsonl", 30), 2: Known("db", "b.jsonl", 40), 3: Known("dc", "c.jsonl", 50)}


def entry(id: int, steps: int, **settings: Any) -> Entry:
    recipe = {"train_batch_size": 1, "epochs": 1, "data": {"max_length": 64}, **settings}
    return curriculum.whole([Part(id, f"d{chr(96 + id)}", steps)], canonical(recipe))


A, B, C = entry(1, 3), entry(2, 4), entry(3, 5)


def given(name: str, step: int, *entries: Entry, root: dict[str, Any] = ROOT, **changes: Any) -> Given:
    lineage = curriculum.lineage(root_digest(root), entries, step)
    record = Record(step, 0, lineage, root, curriculum.to_record(entries), {"torch": "1"}, [], {}, None)
    return Given(name, replace(record, **changes), 10, lambda first, last: float(first + last))


def only(found: Difference) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    a, b = ([(one.name, one.first, one.last) for one in side.only] for side in (found.a, found.b))
    return a, b


def test_one_goes_on_from_the_other() -> None:
    found = compare(given("x", 5, A, B), given("y", 9, A, B, C), FILES)
    assert (found.relation, found.common, found.within) == ("onward", 5, None)
    assert only(found) == ([], [("b.jsonl", 6, 7), ("c.jsonl", 8, 9)])
    assert found.words() == "y goes on from x."
    back = compare(given("y", 9, A, B, C), given("x", 5, A, B), FILES)
    assert (back.relation, back.words()) == ("back", "y goes on from x.")
    assert only(back) == only(found)[::-1]


def test_the_same_history_is_the_same_state() -> None:
    found = compare(given("x", 5, A, B), given("y", 5, A, B, C), FILES)
    assert (found.relation, only(found)) == ("same", ([], []))


def test_they_part_at_the_end_of_a_file() -> None:
    found = compare(given("x", 7, A, B), given("y", 8, A, C), FILES)
    assert (found.relation, found.common) == ("parted", 3)
    assert only(found) == ([("b.jsonl", 4, 7)], [("c.jsonl", 4, 8)])
    assert found.words() == "x and y part after step 3, at the end of a file."


def test_they_part_in_the_middle_of_a_file() -> None:
    short = replace(B, stop=2)
    found = compare(given("x", 7, A, B), given("y", 9, A, short, C), FILES)
    assert (found.common, found.within) == (5, "b.jsonl")
    assert found.words() == "x and y part after step 5, in the middle of b.jsonl."
    assert only(found) == ([("b.jsonl", 6, 7)], [("c.jsonl", 6, 9)])


def test_settings_that_differ_are_named() -> None:
    found = compare(given("x", 7, A, B), given("y", 11, A, entry(2, 4, epochs=2)), FILES)
    assert found.settings == {"epochs": ([1], [2])}
    # Of a side that has nothing of its own, the last file stands.
    found = compare(given("x", 3, A), given("y", 7, A, entry(2, 4, data={"max_length": 32})), FILES)
    assert found.settings == {"data.max_length": ([64], [32])}
    assert compare(given("x", 3, A), given("y", 7, A, B), FILES).settings == {}


def test_different_runs_share_nothing_whatever_they_learned() -> None:
    found = compare(given("x", 3, A), given("y", 3, A, root={**ROOT, "seed": 2}), FILES)
    assert (found.relation, found.common, found.root) == ("foreign", 0, {"seed": (1, 2)})
    assert "different runs" in found.words()


def test_they_part_at_the_base_model() -> None:
    assert "base model" in compare(given("x", 3, A), given("y", 4, B), FILES).words()


def test_numerics_changes_of_one_side_are_its_own() -> None:
    change = {"step": 4, "changes": ["torch: 1 before, 2 now"]}
    b = given("y", 7, A, B, numerics={"torch": "2"}, numerics_changes=[change])
    found = compare(given("x", 5, A, B), b, FILES)
    assert (found.a.numerics, found.b.numerics) == ([], ["step 4: torch: 1 before, 2 now"])
    assert found.numerics == {"torch": ("1", "2")}
    assert (found.a.loss, found.b.loss) == (1 + 5, 1 + 7)


def test_a_number_that_is_another_files_now_names_no_file() -> None:
    files = {**FILES, 2: Known("other", "z.jsonl", 1)}
    found = compare(given("x", 3, A), given("y", 7, A, B), files)
    assert found.b.only[0].name == "file 2 (not known any more)"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = making.workspace(tmp_path / "ws")
    for name in ("a\u202e.jsonl", "b.jsonl"):
        making.begin(layout, making.drop(layout, name))
    making.save(layout, 2)
    making.snapshot(layout, making.DAY, 2)
    making.save(layout, 5)
    return layout


def test_the_command_says_it_in_words_and_json(layout: Layout, cli: Run) -> None:  # noqa: F811
    shown = cli("-C", layout.root, "diff", making.DAY)
    assert shown.code == 0
    assert f"checkpoint-5 goes on from {making.DAY}." in shown.out
    assert "The first 2 steps are the same." in shown.out
    assert "b.jsonl" in shown.out
    assert "\u202e" not in shown.out
    told = cli("-C", layout.root, "diff", "5", "2", "--json").json
    assert (told["relation"], told["common"]) == ("back", 2)
    # Losses of steps 1 to 5 from the ledger.
    assert told["a"]["loss"] == sum(making.loss(step) for step in range(1, 6)) / 5
    assert json.dumps(told)
    missing = cli("-C", layout.root, "diff", "7")
    assert (missing.code, "no saved state" in missing.err) == (errors.CheckpointError.exit_code, True)


def test_losses_of_another_history_are_not_taken_for_its_own(layout: Layout) -> None:
    """The ledger has the losses of today's history only."""
    from nightschool.ledger import Ledger

    with Ledger.open(layout.ledger) as ledger:
        rows = ledger.entries.all()
        ledger.entries.replace_all(rows[1:])
    found = Workspace(layout).diff("2", "5")
    assert (found.a.loss, found.b.loss) == (None, None)
