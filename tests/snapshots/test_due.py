"""When a snapshot is due: over whole years of clock, and over clocks that jump."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.snapshots import due

HELSINKI = ZoneInfo("Europe/Helsinki")
AT = "03:00"


class Machine:
    """What the supervisor does with the policy, and nothing else; `runs` tells when it is switched on."""

    def __init__(self, at: str = AT) -> None:
        self.at = at
        self.done: dict[date, str] = {}
        self.taken: list[tuple[date, datetime]] = []

    def tick(self, now: datetime) -> None:
        if not self.done:
            self.done = due.first(now, self.at)
        found = due.due(now, self.at, self.done)
        if found is not None:
            self.taken.append((found.date, now))
            self.done = due.from_row(due.to_row(due.noted(self.done, found.date, "taken")))

    def run(self, start: datetime, end: datetime, zone: ZoneInfo, minutes: int = 7) -> None:
        now = start.astimezone(UTC)
        while now < end.astimezone(UTC):
            self.tick(now.astimezone(zone))
            now += timedelta(minutes=minutes)

    @property
    def dates(self) -> list[date]:
        return [day for day, _ in self.taken]


def helsinki(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=HELSINKI)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("zone", "at"),
    [("Europe/Helsinki", AT), ("America/New_York", "02:30"), ("Australia/Lord_Howe", "01:45"), ("Asia/Tokyo", AT)],
)
def test_d1_a_whole_year_has_one_snapshot_for_each_day(zone: str, at: str) -> None:
    machine, place = Machine(at), ZoneInfo(zone)
    machine.run(datetime(2025, 12, 31, 12, tzinfo=place), datetime(2026, 12, 31, 12, tzinfo=place), place, 13)
    assert machine.dates == [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]
    late = Counter(
        (now.replace(tzinfo=None) - datetime.combine(day, time.fromisoformat(at))) >= timedelta(minutes=13)
        for day, now in machine.taken
    )
    assert late[True] <= 1  # where the clock leaps over it, the first moment after


def test_d1_where_three_o_clock_does_not_exist_the_snapshot_comes_at_four() -> None:
    machine = Machine()
    machine.run(helsinki(2026, 3, 28, 12), helsinki(2026, 3, 29, 23), HELSINKI)
    ((day, now),) = machine.taken
    assert (day, now.hour) == (date(2026, 3, 29), 4)


@pytest.mark.parametrize("at", ["03:00", "03:30", "04:00"])
def test_d1_where_three_o_clock_comes_twice_there_is_one(at: str) -> None:
    machine = Machine(at)
    machine.run(helsinki(2026, 10, 24, 12), helsinki(2026, 10, 25, 23), HELSINKI, 1)
    assert machine.dates == [date(2026, 10, 25)]


def test_d1_the_hour_that_comes_twice_after_days_off() -> None:
    machine = Machine("03:30")
    machine.run(helsinki(2026, 10, 20, 12), helsinki(2026, 10, 21, 12), HELSINKI)
    machine.run(datetime(2026, 10, 25, 0, 35, tzinfo=UTC), helsinki(2026, 10, 25, 23), HELSINKI, 1)
    assert machine.dates == [date(2026, 10, 21), date(2026, 10, 25)]


def test_control_d1_an_order_of_dates_instead_of_a_set_loses_days() -> None:
    taken, last = [], date(2026, 1, 1)
    for now in (datetime(2030, 1, 1, 4), *(datetime(2026, 1, day, 4) for day in range(2, 6))):  # a clock gone wrong
        day = due.stands_for(now, time(3))
        if day > last:
            taken.append(day)
            last = day
    assert len(taken) == 1


def test_d2_off_for_days_is_made_up_for_once_under_the_last_date_that_was_due() -> None:
    machine = Machine()
    machine.run(helsinki(2026, 11, 1, 12), helsinki(2026, 11, 3, 12), HELSINKI)
    machine.run(helsinki(2026, 11, 9, 1, 30), helsinki(2026, 11, 10, 12), HELSINKI)
    assert machine.dates == [date(2026, 11, 2), date(2026, 11, 3), date(2026, 11, 8), date(2026, 11, 9),
                             date(2026, 11, 10)]  # fmt: skip
    found = due.due(helsinki(2026, 11, 20, 9), AT, machine.done)
    assert found is not None
    assert "stands for it" in found.why


def test_d2_at_the_very_first_start_nothing_is_made_up_for() -> None:
    machine = Machine()
    machine.run(helsinki(2026, 11, 1, 23), helsinki(2026, 11, 2, 2, 50), HELSINKI)
    assert machine.dates == []
    assert list(machine.done.values()) == [due.FIRST]
    machine.run(helsinki(2026, 11, 2, 2, 50), helsinki(2026, 11, 2, 12), HELSINKI)
    assert machine.dates == [date(2026, 11, 2)]


def test_d3_a_clock_set_forward_and_put_right_costs_no_day() -> None:
    machine = Machine()
    machine.run(helsinki(2026, 11, 1, 12), helsinki(2026, 11, 3, 12), HELSINKI)
    machine.tick(helsinki(2031, 5, 5, 12))
    machine.run(helsinki(2026, 11, 3, 13), helsinki(2026, 11, 6, 12), HELSINKI)
    assert machine.dates == [
        date(2026, 11, 2), date(2026, 11, 3), date(2031, 5, 5), date(2026, 11, 4), date(2026, 11, 5), date(2026, 11, 6)
    ]  # fmt: skip


def test_d3_a_clock_set_back_makes_no_second_snapshot_of_a_day() -> None:
    machine = Machine()
    machine.run(helsinki(2026, 11, 1, 12), helsinki(2026, 11, 5, 12), HELSINKI)
    machine.run(helsinki(2026, 11, 3, 1), helsinki(2026, 11, 7, 12), HELSINKI)
    assert machine.dates == [date(2026, 11, day) for day in range(2, 8)]


def test_d4_what_is_settled_in_the_future_does_not_settle_today() -> None:
    done = due.noted({}, date(2031, 1, 1), "taken")
    found = due.due(helsinki(2026, 11, 3, 12), AT, done)
    assert found is not None
    assert found.date == date(2026, 11, 3)


def test_no_time_of_day_means_never() -> None:
    assert due.due(helsinki(2026, 11, 3, 12), "", {}) is None
    assert due.first(helsinki(2026, 11, 3, 12), "") == {}


@given(st.lists(st.dates(date(1990, 1, 1), date(2090, 1, 1)), max_size=40))
def test_a_date_that_was_noted_is_settled_and_few_are_kept(days: list[date]) -> None:
    done: dict[date, str] = {}
    for day in days:
        done = due.noted(done, day, "taken")
        assert done[day] == "taken"
        assert due.due(datetime.combine(day, time(3)), AT, done) is None
        assert len(done) <= due.MOST_DONE
    assert due.from_row(due.to_row(done)) == done


@given(st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 30)), st.sampled_from([AT, "03:30", "00:00", "23:59"]))
def test_when_the_next_one_comes_is_the_first_moment_at_which_it_is_due(naive: datetime, at: str) -> None:
    now = naive.replace(tzinfo=HELSINKI)
    done = due.noted({}, due.stands_for(now, time.fromisoformat(at)), "taken")
    following = due.comes(now, at, done)
    assert following is not None
    assert following.tzinfo is HELSINKI
    assert following.replace(tzinfo=None) > naive
    assert due.due(following, at, done) is not None
    assert due.due(following - timedelta(minutes=1), at, done) is None


def test_one_that_is_due_already_came_in_the_past_and_without_a_time_none_comes() -> None:
    now = helsinki(2026, 11, 20, 9)
    taken = due.noted({}, date(2026, 11, 18), "taken")
    assert due.comes(now, AT, taken) == helsinki(2026, 11, 20, 3)
    assert due.comes(now, AT, None) == helsinki(2026, 11, 21, 3)
    assert due.comes(now, "", taken) is None
