"""`snapshot` and `snapshots`, on a workspace made by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from nightschool import Workspace, checkup, durable
from nightschool.ledger import Ledger
from nightschool.snapshots import asking, second
from nightschool.snapshots.holding import way_back
from nightschool.workspace import Layout
from tests.cli.conftest import Result, Run
from tests.snapshots import made

ASKED = Callable[..., Result]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = made.workspace(tmp_path / "ws")
    made.checkpoint(found, 30)
    return found


def test_a_snapshot_by_hand_says_what_was_taken(here: Run, layout: Layout) -> None:
    said = here("snapshot", "--name", "before-the-fair")
    assert said.code == 0
    assert said.out.startswith("Took the snapshot before-the-fair of step 30 in ")
    assert "shared with the checkpoint" in said.out
    found = here("snapshots", "--json").json
    (one,) = found
    assert (one["name"], one["step"], one["kind"], one["file"]) == ("before-the-fair", 30, "named", "3.jsonl")
    assert (one["problem"], one["keep"], one["why"]) == (None, True, "it was taken by hand")
    state = sum(copied.bytes for copied in durable.read_manifest(layout.checkpoint(30)).files.values())
    assert one["shared_bytes"] >= state > one["own_bytes"] - layout.ledger.stat().st_size
    again = here("snapshot", "--name", "before-the-fair")
    assert again.code == 8
    assert "already" in again.err
    assert here("snapshot", "--name", "latest").code == 3
    assert here("snapshot", "--json").json["name"][:2] == "20"
    status = here("status", "--json").json["last_snapshot"]
    assert set(status) == {"name", "step", "path", "taken_at"}
    assert (layout.root / status["path"]).is_dir()
    assert "snapshot" in here("status").out


def test_what_retention_of_the_checkpoints_lets_go_of_becomes_its_own(here: Run, layout: Layout) -> None:
    here("snapshot", "--name", "a")
    before = here("snapshots", "--json").json[0]
    durable.remove_tree(layout.checkpoint(30))
    after = here("snapshots", "--json").json[0]
    assert after["shared_bytes"] == 0
    assert after["own_bytes"] == before["own_bytes"] + before["shared_bytes"]


def test_pruning_is_shown_before_it_is_done(here: Run, layout: Layout) -> None:
    layout.settings_file.write_text(made.TOML + "[snapshots]\nkeep_daily = 2\nkeep_weekly = 0\nkeep_monthly = 0\n")
    today = date.today()
    for back in range(4):
        made.snapshot(layout, (today - timedelta(days=back)).isoformat(), day=today - timedelta(days=back))
    assert "goes: older than the newest 2 days" in here("snapshots").out
    said = here("snapshots", "--prune", "--dry-run").out
    assert said.count("Would remove") == 2
    assert len(list(layout.snapshots.iterdir())) == 4
    assert here("snapshots", "--prune").out.endswith("2 snapshots removed.\n")
    assert len(list(layout.snapshots.iterdir())) == 2
    assert here("snapshots", "--dry-run").code == 2


def test_a_damaged_one_is_shown(here: Run, layout: Layout) -> None:
    folder = made.snapshot(layout).folder
    (folder / "ledger.db").unlink()
    assert "DAMAGED: ledger.db is missing" in here("snapshots").out


def test_nothing_there_is_said(here: Run, layout: Layout) -> None:
    assert "No snapshots yet" in here("snapshots").out
    durable.remove_tree(layout.checkpoint(30))
    assert here("snapshot").code == 6


def test_status_finds_the_one_before_if_the_last_was_removed(here: Run, layout: Layout) -> None:
    made.snapshot(layout, "2026-11-21")
    made.checkpoint(layout, 40)
    durable.remove_tree(made.snapshot(layout, "2026-11-22").folder)
    assert here("status", "--json").json["last_snapshot"]["name"] == "2026-11-21"


def test_with_a_trainer_at_work_it_waits_for_its_save(layout: Layout) -> None:
    """The trainer is a thread here that holds the lock and answers once it has saved."""
    lock = durable.Lock(layout.trainer_lock, "the trainer")
    lock.acquire()

    def train() -> None:
        with Ledger.open(layout.ledger) as ledger:
            while (word := ledger.machine.get(asking.ASKED)) is None:
                time.sleep(0.01)
            made.checkpoint(layout, 33)
            ledger.machine.set("trainer", {asking.ANSWERED: word})

    trainer = threading.Thread(target=train)
    trainer.start()
    told: list[str] = []
    try:
        taken = Workspace.open(layout.root).snapshot("a", told=told.append)
    finally:
        trainer.join()
    assert (taken.step, told) == (33, ["The trainer saves a checkpoint first."])
    try:
        taken = Workspace.open(layout.root).snapshot("b", told=told.append, patience=0.2)
    finally:
        lock.release()
    assert taken.step == 33
    assert "did not save in time" in told[-1]


def test_it_says_who_is_at_the_saved_states(here: Run, layout: Layout) -> None:
    with way_back(layout, "a rollback"):
        assert here("snapshots", "--prune").code == 5
    with pytest.raises(Exception, match="already at work"), way_back(layout, "a rollback"):
        Workspace.open(layout.root).snapshot(patience=0.1)


def test_the_second_place_is_brought_up_to_date_and_the_doctor_looks_at_it(
    here: Run, layout: Layout, tmp_path: Path
) -> None:
    place = tmp_path / "disk"
    layout.settings_file.write_text(made.TOML + f'[snapshots]\ncopy_to = "{place}"\n')
    assert here("snapshot", "--name", "a").code == 8
    assert "is not there, and is not made" in here("doctor").out.replace("\n" + " " * 20, " ")
    place.mkdir()
    assert "The second place is up to date" in here("snapshot", "--name", "b").out
    assert sorted(path.name for path in (place / "snapshots").iterdir()) == ["a", "b"]
    (found,) = [one for one in here("doctor", "--json").json if one["what"] == "copies"]
    assert found["verdict"] == "good"


@pytest.mark.parametrize("hangs", [True, False])
def test_the_doctor_does_not_wait_for_a_second_place_that_does_not_answer(
    here: Run, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """One that answers late, the control, is waited for."""
    answers = threading.Event()
    layout.settings_file.write_text(made.TOML + f'[snapshots]\ncopy_to = "{tmp_path}"\n')
    monkeypatch.setattr(checkup, "PLACE_PATIENCE", 0.05 if hangs else 60)
    monkeypatch.setattr(second, "problem_of", lambda *_: answers.wait(60 if hangs else 0.3) and "it answered")
    (found,) = [one for one in here("doctor", "--json").json if one["what"] == "copies"]
    answers.set()
    assert found["verdict"] == ("bad" if hangs else "good")
    assert (f"{tmp_path} (snapshots.copy_to) does not answer: its disk may be gone" == found["found"]) == hangs
