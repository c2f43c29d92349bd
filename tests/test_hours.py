"""`machine.hours`: what is read, what is refused, and the answer at every minute of a year in four zones."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool import hours
from nightschool.errors import SettingsError
from nightschool.settings import parse_settings

ZONES = ("Europe/Helsinki", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
MINUTE = timedelta(minutes=1)
YEAR = 2026
HELSINKI = ZoneInfo("Europe/Helsinki")


def at(text: str, zone: str = "Europe/Helsinki") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def simply(pieces: list[tuple[list[int], int, int]], wall: datetime) -> bool:
    """The rule as one would say it: the day it begins on, and over midnight the morning after it."""
    minute = wall.hour * 60 + wall.minute
    for days, begin, end in pieces:
        if begin < end:
            if wall.weekday() in days and begin <= minute < end:
                return True
        elif (wall.weekday() in days and minute >= begin) or ((wall.weekday() - 1) % 7 in days and minute < end):
            return True
    return False


def written(pieces: list[tuple[list[int], int, int]]) -> str:
    def clock(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    return ", ".join(
        f"{' '.join(hours.DAYS[day][:3] for day in days)} {clock(begin)}-{clock(end)}" for days, begin, end in pieces
    )


PIECES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True),
        # Coarse, so that ranges touch, and fall together with the changes of the clock.
        st.integers(0, 95).map(lambda n: n * 15),
        st.integers(1, 96).map(lambda n: n * 15),
    ).filter(lambda piece: piece[1] != piece[2]),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=60, deadline=None)
@given(pieces=PIECES, minute=st.integers(0, 365 * 1440), seconds=st.integers(0, 59))
def test_open_at_equals_looking_at_the_wall_clock_minute_by_minute(
    zone: str, pieces: list[tuple[list[int], int, int]], minute: int, seconds: int
) -> None:
    read = hours.parse(written(pieces))
    first = datetime(YEAR, 1, 1, tzinfo=UTC) + timedelta(minutes=minute, seconds=seconds)
    now = first.astimezone(ZoneInfo(zone))
    found = hours.open_at(now, read)
    assert found.open == simply(pieces, now)
    whole = first.replace(second=0)
    change = next(
        (
            moment
            for n in range(1, 15 * 1440)
            if simply(pieces, (moment := whole + n * MINUTE).astimezone(now.tzinfo)) != found.open
        ),
        None,
    )
    assert (None if found.until is None else found.until.astimezone(UTC)) == change


TEXT = "mon-thu 22:00-02:30, fri 21:15-03:00, sat sun 00:00-24:00, wed 01:45-02:15"
PARTS = [([0, 1, 2, 3], 1320, 150), ([4], 1275, 180), ([5, 6], 0, 1440), ([2], 105, 135)]


@pytest.mark.parametrize("zone", ZONES)
def test_a_whole_year_of_changes_and_of_laid_out_work_equals_counting_minutes(zone: str) -> None:
    """Follows `until` from change to change over a year, and lays work into it, beside a count of every minute."""
    read, where = hours.parse(TEXT), ZoneInfo(zone)
    moment, end = datetime(YEAR, 1, 1, tzinfo=UTC), datetime(YEAR + 1, 1, 1, tzinfo=UTC)
    begin, changes, opened, state = moment, [], 0, None
    worked: dict[int, datetime] = {}
    while moment < end:
        now = simply(PARTS, moment.astimezone(where))
        if state is not None and now != state:
            changes.append(moment)
        state = now
        opened += now
        if now:
            worked[opened] = moment + MINUTE
        moment += MINUTE
    followed, place = [], begin.astimezone(where)
    while True:
        found = hours.open_at(place, read)
        assert found.until is not None
        if found.until.astimezone(UTC) >= end:
            break
        followed.append(found.until.astimezone(UTC))
        place = found.until
    assert followed == changes
    for minutes in (1, 149, 150, 20_000, 60_000, opened):
        assert hours.finish(begin.astimezone(where), minutes * 60, read) == worked[minutes].astimezone(where)


def test_control_counting_on_the_wall_clock_alone_is_wrong_where_it_jumps() -> None:
    """What plain arithmetic on local times would say, on the night the hour after 03:00 is left out."""
    read = hours.parse("22:00-07:00")
    now = at("2026-03-28T22:00")
    naive = now + timedelta(seconds=9 * 3600 - 60)
    assert naive == at("2026-03-29T06:59")
    assert hours.finish(now, 9 * 3600 - 60, read) == at("2026-03-29T22:59")


def test_control_without_looking_for_changes_of_the_clock_the_closing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "_turn", lambda *_: None)
    assert hours.open_at(at("2026-03-29T02:59"), hours.parse("22:00-03:30")).until != at("2026-03-29T04:00")


@pytest.mark.parametrize(
    ("text", "now", "open", "until"),
    [
        # 03:00 to 04:00 does not come on this day: what lies in it is left out, what reaches into it ends at its edge.
        ("22:00-03:30", "2026-03-29T02:59", True, "2026-03-29T04:00"),
        ("03:00-04:00", "2026-03-29T02:59", False, "2026-03-30T03:00"),
        ("03:30-05:00", "2026-03-29T02:59", False, "2026-03-29T04:00"),
        ("sun 03:00-04:00", "2026-03-22T04:00", False, "2026-04-05T03:00"),
        # It comes twice here.
        ("22:00-03:30", "2026-10-25T03:29", True, "2026-10-25T03:30"),
        ("03:30-05:00", "2026-10-25T03:29", False, "2026-10-25T03:30"),
        ("22:00-04:00", "2026-10-25T02:00", True, "2026-10-25T04:00"),
    ],
)
def test_d1_the_night_that_the_clocks_change(text: str, now: str, open: bool, until: str) -> None:
    found = hours.open_at(at(now), hours.parse(text))
    assert (found.open, found.until) == (open, at(until))


def test_d1_the_hour_that_comes_twice_is_open_twice() -> None:
    read = hours.parse("03:00-03:30")
    first = at("2026-10-25T03:00")
    closed = hours.open_at(first, read).until
    assert closed == at("2026-10-25T03:30")
    assert closed is not None
    again = hours.open_at(closed, read).until
    assert again is not None
    assert again.astimezone(UTC) - first.astimezone(UTC) == timedelta(hours=1)
    assert again.fold == 1


@pytest.mark.parametrize(
    ("text", "now", "why"),
    [
        ("22:00-07:00", "2026-11-25T12:00", "training begins at 22:00"),
        ("22:00-07:00", "2026-11-25T23:00", "training goes on until tomorrow at 07:00"),
        ("22:00-07:00", "2026-11-26T06:00", "training goes on until 07:00"),
        ("01:00-07:00", "2026-11-25T12:00", "training begins tomorrow at 01:00"),
        ("sat-sun 00:00-24:00", "2026-11-25T12:00", "training begins on Saturday at 00:00"),
        ("wed 00:00-12:00", "2026-11-25T12:00", "training begins on 2026-12-02 at 00:00"),
        ("", "2026-11-25T12:00", "always"),
        ("00:00-24:00", "2026-11-25T12:00", "always"),
        ("mon-wed 00:00-24:00, thu-sun 00:00-12:00, thu-sun 12:00-24:00", "2026-11-25T12:00", "always"),
    ],
)
def test_why_is_in_local_words(text: str, now: str, why: str) -> None:
    assert hours.open_at(at(now), hours.parse(text)).why == why


def test_a_range_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    read = hours.parse("fri 22:00-07:00")
    assert hours.open_at(at("2026-11-28T06:59"), read).open  # Saturday morning
    assert not hours.open_at(at("2026-11-27T06:59"), read).open  # Friday morning
    # From Sunday on it goes into Monday, over the end of the week.
    assert hours.open_at(at("2026-11-30T06:59"), hours.parse("sun 22:00-07:00")).open


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mon-fri 22:00-07:00", "MON - Fri  22:00 - 07:00"),
        ("fri-mon 1:00-2:00", "friday saturday sun mon 01:00-02:00"),
        ("daily 22:00-07:00", "22:00-07:00"),
        ("22:00-24:00,00:00-07:00", "22:00-07:00"),
        ("22:00-00:00", "22:00-24:00"),
    ],
)
def test_ways_of_writing_the_same(one: str, other: str) -> None:
    assert hours.parse(one) == hours.parse(other)


@pytest.mark.parametrize(
    ("text", "piece", "says"),
    [
        ("22-07", "'22-07'", "22:00-07:00"),
        ("mon, wed 22:00-07:00", "'mon'", "joined by spaces"),
        ("22:00-07:00,", "''", "between two commas"),
        ("funday 22:00-07:00", "'funday 22:00-07:00'", "'funday' is no day"),
        ("mo 22:00-07:00", "'mo 22:00-07:00'", "no day"),
        ("22:00-25:00", "'22:00-25:00'", "25:00 is no time of day"),
        ("22:60-23:00", "'22:60-23:00'", "22:60 is no time of day"),
        ("24:00-07:00", "'24:00-07:00'", "begin at 00:00"),
        ("07:00-07:00", "'07:00-07:00'", "00:00-24:00"),
        ("mon-fri 22:00-07:00, 12:00-13:00", "'12:00-13:00'", "daily 12:00-13:00"),
        ("mon- 22:00-07:00", "'mon- 22:00-07:00'", "no day"),
        ("always", "'always'", "no times"),
    ],
)
def test_what_cannot_be_read_names_the_setting_and_the_piece(text: str, piece: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"model": {"name": "m"}, "machine": {"hours": text}})
    message = str(caught.value)
    assert "`machine.hours`" in message
    assert piece in message
    assert says in message


def test_work_is_laid_into_open_hours() -> None:
    read = hours.parse("mon-fri 22:00-07:00")
    now = at("2026-11-27T12:00")  # Friday
    assert hours.finish(now, 0, read) == at("2026-11-27T22:00")
    assert hours.finish(now, 3600, read) == at("2026-11-27T23:00")
    assert hours.finish(now, 9 * 3600, read) == at("2026-11-28T07:00")
    assert hours.finish(now, 9 * 3600 + 60, read) == at("2026-11-30T22:01")
    assert hours.finish(now, 3600, hours.parse("")) == at("2026-11-27T13:00")
    assert hours.finish(now, float("inf"), read) is None
    assert hours.finish(now, 1e9, read) is None


def test_d3_the_answer_follows_the_clock_wherever_it_jumps() -> None:
    read = hours.parse("22:00-07:00")
    assert [hours.open_at(at(f"2026-11-25T{clock}"), read).open for clock in ("23:00", "12:00", "23:00")] == [
        True, False, True,
    ]  # fmt: skip


def test_the_zone_of_this_computer_knows_the_changes_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("TZ")
    try:
        for zone in ZONES:
            monkeypatch.setenv("TZ", zone)
            assert hours.local_now().utcoffset() == datetime.now(ZoneInfo(zone)).utcoffset()
            moment, named = datetime(YEAR, 1, 1, tzinfo=UTC), ZoneInfo(zone)
            for _ in range(365 * 48):
                here, there = moment.astimezone(hours.LocalZone()), moment.astimezone(named)
                assert (here.replace(tzinfo=None), here.fold) == (there.replace(tzinfo=None), there.fold)
                assert here.utcoffset() == there.utcoffset()
                assert here.astimezone(UTC) == moment
                moment += timedelta(minutes=30)
    finally:
        monkeypatch.setenv("TZ", before) if before is not None else monkeypatch.delenv("TZ")
        time.tzset()


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        hours.open_at(datetime(YEAR, 1, 1), hours.parse("22:00-07:00"))
