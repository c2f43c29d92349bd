"""Pauses: how long they last, and when they are over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from nightschool import pausing
from nightschool.errors import SettingsError

NOW = datetime(2026, 11, 25, 23, 30, tzinfo=ZoneInfo("Europe/Helsinki"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("30m", 1800), ("30min", 1800), ("1h30m", 5400), ("1h 30m", 5400), ("90s", 90), ("2d", 172_800),
     ("1.5h", 5400), ("1D2H", 93_600)],
)  # fmt: skip
def test_times_that_are_understood(text: str, seconds: float) -> None:
    assert pausing.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "2 hours and a bit", "-1h", "30m1h", "400d", "1w"])
def test_times_that_are_not(text: str) -> None:
    with pytest.raises(SettingsError, match="--for"):
        pausing.seconds_of(text)


def test_a_pause_ends_by_itself_and_one_without_an_end_does_not() -> None:
    row = pausing.row_for(7200, NOW)
    found = pausing.in_force(row, NOW)
    assert found is not None
    assert found.reason(NOW) == "until tomorrow at 01:30; `nightschool resume` goes on earlier"
    assert pausing.in_force(row, NOW + timedelta(seconds=7199)) is not None
    assert pausing.in_force(row, NOW + timedelta(seconds=7200)) is None
    endless = pausing.in_force(pausing.row_for(None, NOW), NOW + timedelta(days=3000))
    assert endless is not None
    assert endless.reason(NOW) == "`nightschool resume` goes on"


@pytest.mark.parametrize("row", [None, False, {}])
def test_no_pause(row: object) -> None:
    assert pausing.in_force(row, NOW) is None


def test_a_pause_of_an_earlier_version_is_one_without_an_end() -> None:
    assert pausing.in_force(True, datetime.now(UTC)) == pausing.Pause(None)
