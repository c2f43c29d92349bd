"""`rollback` and `forget` as people type them: what they show, what they ask, and what they say when done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightschool import api
from nightschool.curriculum import Entry, Part
from nightschool.ledger import Ledger
from nightschool.snapshots.cut import Cut
from nightschool.snapshots.purge import Trace
from nightschool.snapshots.rollback import Plan, Undone
from nightschool.workspace import Layout
from tests.cli.conftest import Run

ENTRY = Entry((Part(1, "d", 40),), '{"train_batch_size":4,"epochs":1}', 0, 10)
UNDONE = [Undone(1, "mon\x1bday.jsonl", 4, 10), Undone(2, "tuesday.jsonl", 7, 7)]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was carried out; plans come from here, not from a run."""
    calls: list[tuple[str, Any]] = []

    def plan(what: str, redo: int = 11, later: Any = "again") -> Plan:
        return Plan(Cut(what, [ENTRY], None), 17, 6, 6, "checkpoint-6", UNDONE, later, redo, 40_000.0)

    def rollback(_: object, to: str, later: str, *, dry_run: bool = False, waiting: Any = None) -> Plan:
        if not dry_run:
            calls.append(("rollback", (to, later)))
        return plan("rollback to checkpoint-6", later=later)

    def forget(_: object, files: list[str], *, dry_run: bool = False, waiting: Any = None, **more: Any) -> Plan:
        if not dry_run:
            calls.append(("forget", (files, more)))
        return plan("forgetting tuesday.jsonl")

    monkeypatch.setattr(api.Workspace, "rollback", rollback)
    monkeypatch.setattr(api.Workspace, "forget", forget)
    monkeypatch.setattr(api.Workspace, "traces", lambda *_: [Trace(Path("/a/b"), "undone/0/checkpoint-9")])
    return calls


def test_a_dry_run_says_what_would_be_undone_and_does_nothing(here: Run, done: list) -> None:
    result = here("rollback", "6", "--dry-run")
    assert (result.code, done) == (0, [])
    assert "Back to checkpoint-6 (step 6); the run stands at step 17 now." in result.out
    assert "11 steps undone, of 2 files:" in result.out
    assert r"mon\x1bday.jsonl: 4 of 10 steps" in result.out
    assert "Then 11 steps to train, about 11 h 7 min." in result.out
    assert here("rollback", "6", "--dry-run", "--json").json["undone"][1]["name"] == "tuesday.jsonl"


@pytest.mark.parametrize("command", [("rollback", "6"), ("forget", "tuesday.jsonl"), ("forget", "2", "--purge")])
def test_where_nobody_can_be_asked_nothing_is_done(here: Run, done: list, command: tuple[str, ...]) -> None:
    result = here(*command)
    assert (result.code, done) == (2, [])
    assert "say --yes" in result.err


@pytest.mark.parametrize(("answer", "times"), [("n", 0), ("y", 1)])
def test_it_asks_once(here: Run, done: list, monkeypatch: pytest.MonkeyPatch, answer: str, times: int) -> None:
    import typer

    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text: asked.append(text) or answer == "y")
    assert here("rollback", "6", "--later", "shelve").code == 0
    assert (asked, len(done)) == (["Go back?"], times)
    assert done in ([], [("rollback", ("6", "shelve"))])


def test_forget_tells_the_nights_and_what_a_purge_removes_and_cannot_reach(here: Run, done: list) -> None:
    result = here("forget", "tuesday.jsonl", "--purge", "--yes")
    assert result.code == 0
    assert "That is 2 nights of 9 hours." in result.out
    assert "undone/0/checkpoint-9" in result.out
    assert "backups made with other programs" in result.out
    assert done == [("forget", (["tuesday.jsonl"], {"replace": None, "purge": True}))]
    result = here("forget", "2", "--yes")
    assert "The model in use stays as it is until the new one has caught up." in result.out
    assert "`nightschool rollback undo` takes this back." in result.out


def test_what_there_is_nothing_of_is_said(here: Run, layout: Layout) -> None:
    result = here("rollback", "latest", "--yes")
    assert result.code == 6
    assert "Nothing has been learned here yet" in result.err
    result = here("forget", "x", "--yes")
    assert result.code == 7
    assert "There is no file x" in result.err


def test_forgetting_what_only_waits_speaks_of_no_way_back(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Plan(Cut("forgetting x", [ENTRY], None), 17, 17, 17, "checkpoint-6", [], "again", 0, None, undoable=False)
    monkeypatch.setattr(api.Workspace, "forget", lambda *_, **__: waits)
    result = here("forget", "x", "--dry-run")
    assert result.out.splitlines() == ["Forgetting x: it was not begun yet.", "Nothing that was learned is undone."]


def test_what_is_undone_is_trained_again_before_what_waits(here: Run, layout: Layout) -> None:
    """`queue` and `status` go by the curriculum, not by the order of the files' numbers."""
    from nightschool.ledger import Arrival

    with Ledger.open(layout.ledger) as ledger:
        ids = ledger.files.arrive([Arrival(name, f"/x/{name}") for name in ("a", "b", "c")])
        for id in ids:
            ledger.files.archived(id, str(id), 1, f"archive/{id}")
            ledger.files.prepared_as(
                id, str(id), shape="text", rows_good=4, rows_bad=0, tokens=9, label_tokens=9, sequences=4,
                data_digest=str(id),
            )  # fmt: skip
        for id in (ids[1], ids[0]):
            ledger.entries.append([(id, str(id), 4)], '{"train_batch_size":1,"epochs":1}', 4)
            ledger.files.begin(id)
    found = here("queue", "--json").json
    assert [(file["name"], file["state"], file["steps"]) for file in found["files"][:2]] == [
        ("b", "training", 4), ("a", "again", 4),
    ]  # fmt: skip
    assert here("status", "--json").json["current_file"] == "b"
