"""Saved states as the page shows them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.dashboard import saved, shapes
from nightschool.dashboard.services import Services
from nightschool.ledger import Ledger
from nightschool.settings import SnapshotSettings
from nightschool.snapshots import acts, due, second, verified
from nightschool.snapshots.retention import Rules
from nightschool.supervisor.night import DONE
from nightschool.workspace import Layout
from tests.dashboard.looking import ask, services_of
from tests.snapshots import made

EAST = timezone(timedelta(hours=2))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Checkpoints at 10, 20 and 30; a snapshot of 20."""
    found = made.workspace(tmp_path / "ws", steps=35)
    made.checkpoint(found, 10)
    made.checkpoint(found, 20)
    made.snapshot(found)
    made.checkpoint(found, 30)
    return found


@pytest.fixture
def services(layout: Layout) -> Iterator[Services]:
    with services_of(layout) as found:
        yield found


def look(services: Services) -> dict[str, Any]:
    return ask(services, saved.ENDPOINTS, "/api/saved")


def at(services: Services, now: datetime) -> shapes.Saved:
    return asyncio.run(saved.saved_of(services, now))


def test_all_states_are_told_newest_first(services: Services) -> None:
    found = look(services)
    assert [(one["step"], one["state"], one["there"]) for one in found["checkpoints"]] == [
        (30, "published", True), (20, "published", True), (10, "published", True),
    ]  # fmt: skip
    assert [(one["name"], one["step"], one["kind"]) for one in found["snapshots"]] == [("2026-11-22", 20, "daily")]
    assert (found["undo"], found["second_place"]) == (False, None)


def test_what_a_checkpoint_shares_with_a_snapshot_is_told_apart(layout: Layout, services: Services) -> None:
    found = {one["step"]: one for one in look(services)["checkpoints"]}
    size = sum(path.stat().st_size for path in layout.checkpoint(20).iterdir())
    assert (found[20]["own_bytes"], found[20]["shared_bytes"]) == (0, size)
    assert found[10]["shared_bytes"] == 0
    assert found[10]["own_bytes"] > 0


def test_what_retention_has_removed_is_told_and_is_not_there(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.checkpoints.retire(10, "there are newer ones")
    shutil.rmtree(layout.checkpoint(10))
    (gone,) = [one for one in look(services)["checkpoints"] if one["step"] == 10]
    assert (gone["state"], gone["reason"], gone["there"], gone["own_bytes"]) == (
        "retired", "there are newer ones", False, None,
    )  # fmt: skip


def test_a_checkpoint_that_the_ledger_does_not_know_is_told_too(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger._database.write("DELETE FROM checkpoints WHERE step = 10")
    (layout.current_model / "checkpoint-5").mkdir()
    found = {one["step"]: one for one in look(services)["checkpoints"]}
    assert (found[10]["state"], found[10]["there"], found[10]["reason"]) == (saved.FOUND, True, None)
    assert found[5]["reason"], "one without a record says what is wrong with it"


def test_many_checkpoints_that_are_gone_do_not_hide_those_that_are_there(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        for step in range(100, 800):
            ledger.checkpoints.publish(step, 0, "l", f"checkpoint-{step}", 1, 1)
            ledger.checkpoints.retire(step, "there are newer ones")
    found = look(services)["checkpoints"]
    assert [one["step"] for one in found if one["there"]] == [30, 20, 10]
    assert len(found) == 3 + saved.PAST


def test_a_cut_can_be_undone_and_what_it_took_out_is_where_it_lies(layout: Layout, services: Services) -> None:
    acts.go_back(layout, "20", waiting=lambda _: None)
    found = look(services)
    assert found["undo"]
    (out,) = [one for one in found["checkpoints"] if one["step"] == 30]
    assert (out["state"], out["there"]) == ("undone", True)
    shutil.rmtree(layout.undone)
    with services_of(layout) as later:
        found = look(later)
    assert not found["undo"], "control: without what the cut kept there is nothing to undo"
    assert [one["there"] for one in found["checkpoints"] if one["step"] == 30] == [False]


@pytest.mark.parametrize("path", ["../../outside", "undone/../../../outside", "/etc"])
def test_h5_a_path_in_the_ledger_does_not_lead_out_of_the_workspace(
    layout: Layout, services: Services, path: str
) -> None:
    (layout.root.parent / "outside").mkdir()
    with Ledger.open(layout.ledger) as ledger:
        ledger.checkpoints.retire(10, "a cut", state="undone", path=path)
    shutil.rmtree(layout.checkpoint(10))
    (found,) = [one for one in look(services)["checkpoints"] if one["step"] == 10]
    assert not found["there"]


def test_what_verify_read_is_told_until_the_state_is_another_one(layout: Layout) -> None:
    began = datetime.now(UTC) + timedelta(seconds=5)
    folders = {layout.checkpoint(20): None, layout.snapshots / "2026-11-22": "a file is damaged"}
    verified.record(layout, folders, began)
    with services_of(layout) as services:
        found = look(services)
    told = {one["step"]: one["verified_at"] for one in found["checkpoints"]}
    assert told == {30: None, 20: began.isoformat(timespec="seconds"), 10: None}
    (snapshot,) = found["snapshots"]
    assert (snapshot["problem"], snapshot["verified_at"]) == ("a file is damaged", told[20])
    os.utime(layout.checkpoint(20) / durable.MANIFEST, ns=(1, 1))
    with services_of(layout) as services:
        assert {one["verified_at"] for one in look(services)["checkpoints"]} == {None}


def test_the_folders_are_walked_once_in_a_while_but_a_new_checkpoint_is_seen_at_once(
    layout: Layout, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked, real = [], saved.room_of
    monkeypatch.setattr(saved, "room_of", lambda folder: (walked.append(folder.name), real(folder))[1])
    look(services)
    look(services)
    assert sorted(walked) == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    made.checkpoint(layout, 35)
    assert look(services)["checkpoints"][0]["step"] == 35


def test_the_next_snapshot_is_told_in_utc(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set(DONE, due.to_row({date(2026, 11, 22): "taken"}))
    assert at(services, datetime(2026, 11, 22, 22, tzinfo=EAST)).next_snapshot == "2026-11-23T01:00:00+00:00"
    assert at(services, datetime(2026, 11, 23, 9, tzinfo=EAST)).next_snapshot == "2026-11-23T01:00:00+00:00", "overdue"
    layout.settings_file.write_text(made.TOML + '[snapshots]\nat = ""\n')
    assert at(services, datetime(2026, 11, 22, 22, tzinfo=EAST)).next_snapshot is None


def test_before_the_machine_ran_for_the_first_time_nothing_is_overdue(services: Services) -> None:
    assert at(services, datetime(2026, 11, 22, 22, tzinfo=EAST)).next_snapshot == "2026-11-23T01:00:00+00:00"


@pytest.mark.parametrize("content", ["[snapshots]\nat = 7\n", "not TOML", None])
def test_saved_states_are_told_also_where_the_settings_cannot_be_read(
    layout: Layout, services: Services, content: str | None
) -> None:
    layout.settings_file.unlink()
    if content is not None:
        layout.settings_file.write_text(content)
    assert len(look(services)["snapshots"]) == 1
    assert saved.settings_of(layout) is None


def test_how_the_second_place_stands_is_said_in_words(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    layout.settings_file.write_text(f'{made.TOML}[snapshots]\ncopy_to = "{place}"\n')

    def told() -> str:
        with services_of(layout) as services:
            return look(services)["second_place"]

    assert "is not there" in told()
    place.mkdir()
    assert told() == f"{place}: nothing was copied there yet"
    with Ledger.open(layout.ledger) as ledger:
        options = SnapshotSettings()
        rules = Rules(options.keep_daily, options.keep_weekly, options.keep_monthly)
        second.copy(layout, ledger, place, rules, made.DAY)
        assert told().startswith(f"{place}: last copied 20")
        second.want(ledger, str(place))
    assert told().endswith(", and a copy is to be made")


def test_a_second_place_that_does_not_answer_holds_nobody_up(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    go = Event()
    layout.settings_file.write_text(f'{made.TOML}[snapshots]\ncopy_to = "{tmp_path}"\n')
    monkeypatch.setattr(saved, "PLACE_PATIENCE", 0.01)
    monkeypatch.setattr(second, "problem_of", lambda *_: go.wait(60) and None)

    async def ask_twice(services: Services) -> list[str | None]:
        found = [(await saved.saved_of(services)).second_place for _ in range(2)]
        go.set()
        return found

    with services_of(layout) as services:
        found = asyncio.run(ask_twice(services))
    assert [text is not None and "does not answer" in text for text in found] == [True, True]
