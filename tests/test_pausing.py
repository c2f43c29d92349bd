"""How long a pause lasts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nightschool import pausing

NOW = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("30m", 1800), ("1h30m", 5400), ("90s", 90), ("2d", 172_800), (" 1H 30M ", 5400), ("1d1s", 86_401)],
)
def test_a_length_of_time_is_read(text: str, seconds: float) -> None:
    assert pausing.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0m", "-1h", "1.5h", "30m1h", "2 weeks", "9999999d"])
def test_what_is_no_length_of_time_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="Write 2h, 30m, 1h30m"):
        pausing.seconds_of(text)


def test_a_pause_for_a_time_ends_by_the_clock_over_restarts_and_changes_of_zone() -> None:
    row = pausing.row(NOW, 7200)
    end = NOW + timedelta(hours=2)
    assert pausing.in_force(row, end - timedelta(seconds=1)) == pausing.Pause(end)
    assert pausing.in_force(row, end) is None
    assert pausing.in_force(row, end.astimezone()) is None


def test_what_earlier_versions_wrote_is_understood() -> None:
    assert pausing.in_force(True, NOW) == pausing.Pause(None)
    assert pausing.in_force(pausing.row(NOW, None), NOW) == pausing.Pause(None)
    assert pausing.in_force(False, NOW) is None
    assert pausing.in_force(None, NOW) is None
