"""The night's summary: once for each local date, whatever the clock does, and what is in it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from nightschool.ledger import EventRow
from nightschool.telling import morning, policy
from nightschool.telling.message import Draft
from nightschool.telling.morning import Figures
from nightschool.telling.policy import Memory

FIGURES = Figures("idle", "", 100, 2.0, 5000, 0, None)
ON = ("morning",)


class Machine:
    """What the teller does with the policy, and nothing else."""

    def __init__(self, at: str = "07:00", restarts: bool = False) -> None:
        self.at = at
        self.restarts = restarts
        self.memory: Memory | None = None
        self.sent: list[tuple[str, datetime]] = []

    def tick(self, now: datetime) -> None:
        if self.memory is None:
            self.memory = Memory(0)
            morning.first(self.memory, now, self.at)
        day = morning.is_due(self.memory, now, self.at)
        if day is not None:
            draft = morning.settle(self.memory, day, FIGURES, ON)
            assert draft is not None
            self.sent.append((draft.fields["date"], now))
        if self.restarts:
            self.memory = Memory.from_row(json.loads(json.dumps(self.memory.to_row())))

    def run(self, start: datetime, end: datetime, zone: ZoneInfo, minutes: int) -> None:
        now = start.astimezone(UTC)
        while now < end.astimezone(UTC):
            self.tick(now.astimezone(zone))
            now += timedelta(minutes=minutes)

    @property
    def dates(self) -> list[str]:
        return [day for day, _ in self.sent]


YEAR = [(date(2026, 1, 1) + timedelta(days=n)).isoformat() for n in range(365)]


@pytest.mark.parametrize(
    ("zone", "at"),
    [("Europe/Helsinki", "07:00"), ("America/New_York", "02:30"), ("Australia/Lord_Howe", "01:45")],
)
def test_d1_a_whole_year_has_one_summary_for_each_day(zone: str, at: str) -> None:
    machine, place = Machine(at, restarts=True), ZoneInfo(zone)
    machine.run(datetime(2025, 12, 31, 12, tzinfo=place), datetime(2026, 12, 31, 12, tzinfo=place), place, 23)
    assert machine.dates == YEAR


def test_control_a_memory_that_is_lost_at_each_restart_sends_none_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the settled dates the year is not right."""
    place = ZoneInfo("Europe/Helsinki")
    machine = Machine()
    monkeypatch.setattr(morning.due, "noted", lambda done, *_: dict(done))
    machine.run(datetime(2026, 1, 1, 12, tzinfo=place), datetime(2026, 1, 3, 12, tzinfo=place), place, 23)
    assert len(machine.dates) > len(set(machine.dates))


def test_a_machine_that_was_off_sends_it_once_when_it_is_back() -> None:
    place = ZoneInfo("Europe/Helsinki")
    machine = Machine()
    machine.run(datetime(2026, 5, 1, 12, tzinfo=place), datetime(2026, 5, 1, 20, tzinfo=place), place, 5)
    machine.run(datetime(2026, 5, 4, 15, tzinfo=place), datetime(2026, 5, 4, 23, tzinfo=place), place, 5)
    assert [(day, now.hour) for day, now in machine.sent] == [("2026-05-04", 15)]


def test_another_time_on_the_same_day_sends_no_second_one() -> None:
    place = ZoneInfo("Europe/Helsinki")
    machine = Machine()
    machine.run(datetime(2026, 5, 1, 6, tzinfo=place), datetime(2026, 5, 1, 8, tzinfo=place), place, 5)
    machine.at = "09:00"
    machine.run(datetime(2026, 5, 1, 8, tzinfo=place), datetime(2026, 5, 1, 23, tzinfo=place), place, 5)
    assert machine.dates == ["2026-05-01"]


def test_where_it_is_not_wanted_the_day_is_settled_all_the_same() -> None:
    memory = Memory(0)
    assert morning.settle(memory, date(2026, 5, 1), FIGURES, ["trouble"]) is None
    assert morning.is_due(memory, datetime(2026, 5, 1, 22, tzinfo=UTC), "07:00") is None


def a_night() -> Memory:
    memory = Memory(0)
    memory.night.step, memory.night.loss = 60, 2.5
    events = [
        ("file-learned", "Learned a.jsonl.", {"name": "a.jsonl"}),
        ("file-learned", "Learned b.jsonl.", {"name": "b.jsonl"}),
        ("file-rejected", "c.jsonl: empty", {}),
        ("snapshot", "", {"name": "2026-05-01"}),
        ("accident", "", {"then": "restart"}),
        ("accident", "", {"then": "busy"}),
        ("cut", "Setting d.jsonl aside: it crashes.", {"set_aside": [4]}),
        ("copy-failed", "the disk is away", {}),
    ]
    for number, (kind, text, fields) in enumerate(events, start=1):
        policy.take(memory, EventRow(number, "", kind, text, fields), ON, 0.0)
    return memory


def told(memory: Memory, figures: Figures) -> Draft:
    draft = morning.settle(memory, date(2026, 5, 1), figures, ON)
    assert draft is not None
    return draft


def test_what_a_summary_says() -> None:
    memory = a_night()
    draft = told(memory, Figures("training", "e.jsonl", 100, 2.0, 123456, 3, 7200.0))
    assert draft.title == "2026-05-01: 2 files learned"
    assert draft.text.splitlines() == [
        "Learned 2 files: a.jsonl",
        "b.jsonl",
        "Steps: 40, with 123,456 tokens; the run stands at step 100.",
        "Loss: 2, 2.5 before.",
        "Rejected: c.jsonl: empty",
        "Snapshots: 2026-05-01.",
        "Restarts after accidents: 1.",
        "Trouble: Setting d.jsonl aside: it crashes.",
        "The second place is not up to date: the disk is away",
        "Not over yet: The second place is not up to date: the disk is away",
        "3 files wait, about 2 h of training.",
        "Now: training (e.jsonl).",
    ]
    assert draft.fields == {
        "date": "2026-05-01", "learned": 2, "files": ["a.jsonl", "b.jsonl"], "rejected": 1,
        "rejected_files": ["c.jsonl: empty"], "step": 100, "steps": 40, "tokens": 123456, "loss": 2.0,
        "loss_before": 2.5, "snapshots": ["2026-05-01"], "restarts": 1,
        "trouble": ["Setting d.jsonl aside: it crashes.", "The second place is not up to date: the disk is away"],
        "trouble_open": ["The second place is not up to date: the disk is away"], "waiting": 3, "seconds_left": 7200.0,
        "state": "training", "reason": "e.jsonl",
    }  # fmt: skip


def test_the_next_summary_begins_where_this_one_ended() -> None:
    memory = a_night()
    told(memory, Figures("idle", "", 100, 2.0, 0, 0, None))
    assert (memory.night.step, memory.night.loss, memory.night.learned.count) == (100, 2.0, 0)
    memory.close("copy")
    text = told(memory, Figures("idle", "", 100, 2.0, 0, 0, None)).text
    assert text.splitlines() == [
        "No file was learned.", "Steps: 0, with 0 tokens; the run stands at step 100.", "Snapshots: none.",
        "Trouble: none.", "Nothing waits.", "Now: idle.",
    ]  # fmt: skip


def test_a_run_that_went_back_says_so() -> None:
    memory = a_night()
    assert "stands at step 20; the last time it was 60" in told(memory, Figures("idle", "", 20, 2.0, 0, 0, None)).text
