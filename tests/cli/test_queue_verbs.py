"""Changing what waits: every verb, and every file that cannot be changed."""

from __future__ import annotations

import pytest

from nightschool import ordering
from nightschool.intake import accept
from nightschool.ledger import Arrival, Ledger, StepRow
from nightschool.ledger.files import REST, STATES
from nightschool.workspace import Layout
from tests.cli.conftest import Run
from tests.cli.test_queue import prepared


@pytest.fixture
def waiting(layout: Layout) -> Layout:
    """a.jsonl to e.jsonl: learned, skipped after 4 of 10 steps, ready, archived, arrived."""
    with Ledger.open(layout.ledger) as ledger:
        for name in "abcde":
            ledger.files.arrive([Arrival(f"{name}.jsonl", f"/gone/{name}", bytes=2000)])
        prepared(ledger, 1, 1000, 500, 20, "learned")
        prepared(ledger, 2, 1000, 500, 20, "ready")
        prepared(ledger, 3, 1000, 500, 20, "ready")
        ledger.files.archived(4, f"{4:064d}", 10, "archive/2026-11-22/d")
        ledger.entries.append([(1, "1", 20)], "{}", 10)
        ledger.entries.append([(2, "2", 20)], "{}", 10, 0, 4)
        ledger.steps.record([StepRow(n, n // 11, 1.0, 1e-4, 1.0, 50, 50, 0.5) for n in range(1, 15)])
        ledger.files.set_option(2, REST, "{}")
        ledger.files.set_state(2, "skipped")
        ledger.machine.set("intake", {"train_batch_size": 4, "epochs": 1, "gather_rows": 0})
    return layout


def order(here: Run) -> list[str]:
    return [one["name"][0] for one in here("queue", "--json").json["files"]]


def states(layout: Layout) -> dict[str, str]:
    with Ledger.open(layout.ledger) as ledger:
        return {row.name[0]: row.state for row in ledger.files.each()}


@pytest.mark.usefixtures("waiting")
def test_a_file_is_moved(here: Run) -> None:
    assert order(here) == ["b", "c", "d", "e"]
    assert here("queue", "move", "e.jsonl", "--first").out == "e.jsonl is the first of the queue now.\n"
    assert order(here) == ["e", "b", "c", "d"]
    assert here("queue", "move", 2, "--last").out == "b.jsonl is the last of priority normal now.\n"
    assert order(here) == ["e", "c", "d", "b"]
    assert here("queue", "move", 2, "--before", "d.jsonl").out == "b.jsonl comes right before d.jsonl now.\n"
    assert order(here) == ["e", "c", "b", "d"]


@pytest.mark.usefixtures("waiting")
def test_a_priority_is_changed(here: Run) -> None:
    assert here("queue", "priority", "d.jsonl", "e.jsonl", "high").out == "d.jsonl, e.jsonl: priority high.\n"
    assert order(here) == ["d", "e", "b", "c"]
    assert "at that one's priority, which is high" in here("queue", "move", "c.jsonl", "--before", "e.jsonl").out
    assert "is interrupted" in here("queue", "now", "b.jsonl").out
    assert order(here) == ["b", "d", "c", "e"]
    assert here("queue", "--json").json["files"][0]["priority"] == "now"


def test_the_rest_of_a_file_is_shown_with_its_steps(here: Run, waiting: Layout) -> None:
    first = here("queue", "--json").json["files"][0]
    assert (first["state"], first["steps"]) == ("skipped", 6)
    assert here("status", "--json").json["queued"] == 4
    with Ledger.open(waiting.ledger) as ledger:
        ledger.files.set_state(2, "set_aside")
    assert here("queue", "--json").json["waiting"] == 3, "control: it was counted"


def test_files_are_taken_out_and_put_back(here: Run, waiting: Layout) -> None:
    text = here("queue", "remove", "b.jsonl", "c.jsonl", "d.jsonl").out
    assert text.startswith("Taken out of the queue: b.jsonl, c.jsonl, d.jsonl. The bytes are kept")
    assert states(waiting) == {"a": "learned", "b": "set_aside", "c": "set_aside", "d": "set_aside", "e": "arrived"}
    reasons = {one["name"][0]: one["reason"] for one in here("files", "--json").json}
    assert reasons["b"] == "shelved after 4 of its 10 steps"
    assert reasons["c"].startswith("taken out of the queue by hand")
    with Ledger.open(waiting.ledger) as ledger:
        ledger.files.arrive([Arrival("f.jsonl", "/gone/f")])
    text = here("queue", "put-back", "c.jsonl", "b.jsonl").out
    assert text == "Back in the queue: c.jsonl, b.jsonl, with the 6 of its 10 steps that are left.\n"
    assert order(here) == ["e", "f", "c", "b"]
    assert states(waiting)["b"] == "skipped"
    assert states(waiting)["c"] == "archived", "prepared anew, by the settings of then"


def test_what_has_not_been_taken_from_the_inbox_is_set_aside_when_it_is(here: Run, waiting: Layout) -> None:
    dropped = waiting.inbox / "x.jsonl"
    dropped.write_text('{"text": "a"}\n')
    with Ledger.open(waiting.ledger) as ledger:
        (id,) = ledger.files.arrive([Arrival("x.jsonl", dropped)])
        here("queue", "remove", id)
        assert here("queue", "--json").json["files"][-1]["state"] == "leaving"
        assert dropped.exists(), "it would be a new file if the row went"
        assert accept.take(waiting, ledger, ledger.files.get(id), "2026-11-25") == "archived"
        row = ledger.files.get(id)
        assert (row.state, (waiting.root / str(row.archive)).exists(), dropped.exists()) == ("set_aside", True, False)
        here("queue", "put-back", id)
        assert ledger.files.get(id).state == "archived"
        assert accept.recover(waiting, ledger) == 0


@pytest.mark.usefixtures("waiting")
def test_what_was_taken_out_before_it_was_archived_can_be_put_back_before(here: Run, waiting: Layout) -> None:
    here("queue", "remove", "e.jsonl")
    assert here("queue", "put-back", "e.jsonl").code == 0
    with Ledger.open(waiting.ledger) as ledger:
        assert ledger.files.get(5).options == {}


@pytest.mark.parametrize("state", [s for s in STATES if s not in ("arrived", "archived", "ready", "skipped")])
def test_what_does_not_wait_is_not_changed_and_it_is_said_why(here: Run, waiting: Layout, state: str) -> None:
    with Ledger.open(waiting.ledger) as ledger:
        ledger.files.set_state(1, state)  # type: ignore[arg-type]
    for words in (
        ["move", 1, "--first"], ["move", 3, "--before", 1], ["priority", 3, 1, "high"], ["now", 1], ["remove", 3, 1],
    ):  # fmt: skip
        found = here("queue", *words)
        assert found.code != 0
        assert "a.jsonl (file 1) is not in the queue: it " in found.err
    assert order(here) == ["b", "c", "d", "e"]
    if state != "set_aside":
        found = here("queue", "put-back", 1)
        assert "a.jsonl (file 1) is not set aside: it " in found.err


def test_what_came_again_meanwhile_is_not_put_back(here: Run, waiting: Layout) -> None:
    here("queue", "remove", "c.jsonl")
    with Ledger.open(waiting.ledger) as ledger:
        (again,) = ledger.files.arrive([Arrival("again.jsonl", "/gone/again")])
        ledger.files.archived(again, f"{3:064d}", 10, "archive/2026-11-22/again")
    found = here("queue", "put-back", "c.jsonl")
    assert "the same bytes came again as again.jsonl (file 6)" in found.err
    assert states(waiting)["c"] == "set_aside"


@pytest.mark.usefixtures("waiting")
def test_a_command_line_that_makes_no_sense_is_refused(here: Run) -> None:
    for words in (
        ["a.jsonl"], ["list", "a.jsonl"], ["move", "a.jsonl"], ["move", 2, 3, "--first"],
        ["move", 2, "--first", "--last"], ["priority", 2], ["priority", 2, "urgent"], ["remove"],
        ["remove", 2, "--first"],
    ):  # fmt: skip
        assert here("queue", *words).code == 2, words
    assert here("queue", "now", "nowhere.jsonl").code != 2


def test_add_now_is_first_in_the_queue(here: Run, waiting: Layout) -> None:
    path = waiting.root.parent / "u.jsonl"
    path.write_text('{"text": "a"}\n')
    assert here("add", "--now", path).code == 0
    assert order(here)[0] == "u"


def test_skip_says_what_will_be(here: Run, waiting: Layout) -> None:
    found = here("skip")
    assert found.code != 0
    assert "No file is in training. `nightschool queue`" in found.err
    with Ledger.open(waiting.ledger) as ledger:
        ledger.entries.append([(3, "3", 20)], "{}", 10)
        ledger.files.set_state(3, "training")
    assert here("skip").out == (
        "c.jsonl goes to the back of the queue at the next step, with the steps that are left of it.\n"
        "The machine does not run; it is done when it is started.\n"
    )
    assert here("skip", "--shelve").out.startswith(
        "c.jsonl is set aside at the next step; what is learned of it stays."
    )
    with Ledger.open(waiting.ledger) as ledger:
        asked = ledger.machine.get(ordering.ORDERS)
    assert [(one["what"], one["file"], one["aside"]) for one in asked] == [("skip", 3, False), ("skip", 3, True)]
    assert len({one["nonce"] for one in asked}) == 2


def test_skip_says_that_nothing_else_waits(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("a.jsonl", "/gone/a")])
        prepared(ledger, 1, 1000, 500, 20, "training")
        ledger.entries.append([(1, "1", 20)], "{}", 10)
    assert "Nothing else waits, so it simply goes on" in here("skip").out
