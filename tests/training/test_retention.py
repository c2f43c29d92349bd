"""When to save, and what to keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.training.retention import retire, save_due

QUIET = {
    "done": 7, "saved": 3, "seconds_since_save": 30.0, "save_steps": 100, "save_minutes": 15.0,
    "file_ended": False, "more_waits": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({}, None),
        ({"done": 100}, "every 100 steps"),
        ({"seconds_since_save": 900.0}, "every 15 minutes"),
        ({"file_ended": True}, None),
        ({"file_ended": True, "more_waits": False}, "the end of a file"),
        ({"file_ended": True, "seconds_since_save": 61.0}, "the end of a file"),
        ({"done": 100, "saved": 100}, None),
    ],
)
def test_when_a_checkpoint_is_due(change: dict, due: str | None) -> None:
    assert save_due(**{**QUIET, **change}) == due


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=12), st.integers(2, 4), st.integers(0, 1000))
def test_retention_never_takes_the_newest_nor_the_way_back(steps: set[int], limit: int, began: int) -> None:
    gone = retire(list(steps), limit, began)
    kept = steps - set(gone)
    assert max(steps) in kept
    assert sorted(steps)[-limit:] == sorted(kept)[-min(limit, len(steps)) :]
    if any(step <= began for step in steps):
        assert max(step for step in steps if step <= began) in kept
    assert len(kept) <= limit + 1


def test_a6_retention_counts_by_number() -> None:
    assert set(retire([900, 2600, 1300, 2000], 2, 5000)) == {900, 1300}
