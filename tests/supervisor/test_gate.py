"""What keeps the trainer from being run: which reason is told, and when it may go on."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from nightschool import pausing
from nightschool.supervisor.gate import Gate, Rest
from nightschool.supervisor.unloading import Unloading

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=ZoneInfo("Europe/Helsinki"))


class Clock:
    now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_outside_the_hours_it_rests_and_says_until_when(clock: Clock) -> None:
    said: list[str] = []
    gate = Gate("22:00-07:00", said.append, now=clock)
    gate.look({})
    assert gate.rest == ("outside hours", "training begins at 22:00 (machine.hours)")
    clock.now += timedelta(hours=10)
    gate.look({})
    assert gate.rest is None
    clock.now += timedelta(hours=9)
    gate.look({})
    assert gate.rest is not None
    assert said == [
        "Outside hours: training begins at 22:00 (machine.hours).",
        "Training may go on.",
        "Outside hours: training begins at 22:00 (machine.hours).",
    ]


def test_control_without_hours_or_with_ignore_hours_it_does_not(clock: Clock) -> None:
    for gate in (Gate("", print, now=clock), Gate("22:00-07:00", print, now=clock, ignore_hours=True)):
        gate.look({})
        assert gate.rest is None


def test_other_hours_count_at_once(clock: Clock) -> None:
    gate = Gate("22:00-07:00", lambda _: None, now=clock)
    gate.apply("08:00-18:00")
    gate.look({})
    assert gate.rest is None


def test_a_pause_goes_before_hours_and_hours_before_what_others_do(clock: Clock) -> None:
    asked: list[str] = []

    def reason(word: str, holds: bool) -> Rest | None:
        asked.append(word)
        return (word, "because") if holds else None

    disk, gpu = True, True
    gate = Gate(
        "22:00-07:00", lambda _: None, now=clock,
        others=(lambda: reason("waiting for disk", disk), lambda: reason("waiting for GPU", gpu)),
    )  # fmt: skip
    words = []
    told = {pausing.ROW: pausing.row_for(3600, NOON)}
    for hours_later, full in ((0, True), (2, True), (12, True), (12, False)):
        disk = full
        clock.now = NOON + timedelta(hours=hours_later)
        gate.look(told)
        assert gate.rest is not None
        words.append(gate.rest[0])
    assert words == ["paused", "outside hours", "waiting for disk", "waiting for GPU"]
    assert asked == ["waiting for disk", "waiting for disk", "waiting for GPU"], (
        "a reason that is not needed is not asked"
    )
    gpu = False
    gate.look(told)
    assert gate.rest is None


def test_a_reason_that_only_changes_its_words_is_not_said_again(clock: Clock) -> None:
    said: list[str] = []
    room = iter(("1 GB is free", "2 GB are free"))
    gate = Gate("", said.append, now=clock, others=(lambda: ("waiting for disk", next(room)),))
    gate.look({})
    gate.look({})
    assert gate.rest == ("waiting for disk", "2 GB are free")
    assert len(said) == 1


def test_an_idle_trainer_is_unloaded_after_a_while_and_only_then() -> None:
    seconds = [0.0]
    unloading = Unloading(lambda: seconds[0])
    due = []
    for now, idle in ((0, True), (100, True), (119, False), (120, True), (239, True), (240, True)):
        seconds[0] = now
        due.append(unloading.due(idle, 2))
    assert due == [False, False, False, False, False, True]
    seconds[0] = 1e9
    assert unloading.due(True, 0) is False, "0 is never"
