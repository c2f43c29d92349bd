"""Which rows of a file are never trained on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake.holdout import LEAST_ROWS, MOST_ROWS, Holdout
from nightschool.intake.tokenise import Encoded


def rows(*texts: str) -> list[Encoded]:
    return [
        Encoded(number, "text", np.frombuffer(text.encode(), np.uint8).astype(np.int32), np.ones(len(text), np.int8))
        for number, text in enumerate(texts, 1)
    ]


def numbered(count: int, start: int = 0) -> list[Encoded]:
    return rows(*(f"row {start + number}" for number in range(count)))


def split(found: list[Encoded], share: float) -> tuple[list[Encoded], list[Encoded]]:
    held = Holdout(share)
    return list(held.rest(iter(found))), held.rows


def texts(found: list[Encoded]) -> list[bytes]:
    return [row.ids.astype(np.uint8).tobytes() for row in found]


@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=300), st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_every_row_is_on_one_side_and_copies_are_on_the_same(found: list[str], share: float) -> None:
    kept, held = split(rows(*found), share)
    assert sorted(row.number for row in kept + held) == list(range(1, len(found) + 1))
    assert not set(texts(kept)) & set(texts(held))
    assert len(held) <= MOST_ROWS
    assert kept or not found
    assert not held or len(found) >= LEAST_ROWS


def test_about_the_share_is_held_out() -> None:
    _, held = split(numbered(4000), 0.01)
    assert 20 <= len(held) <= 60
    assert [row.number for row in held] == sorted(row.number for row in held)


def test_no_more_than_64_of_a_large_file_and_those_that_make_room_are_trained_on() -> None:
    kept, held = split(numbered(20_000), 0.01)
    assert len(held) == MOST_ROWS
    assert len(kept) == 20_000 - MOST_ROWS


def test_none_of_a_file_under_100_rows() -> None:
    assert split(numbered(99), 0.5)[1] == []
    assert split(numbered(100), 0.5)[1]  # control


def test_the_same_row_is_on_the_same_side_in_another_file_and_another_order() -> None:
    _, held = split(numbered(500), 0.05)
    _, reversed_held = split(numbered(500)[::-1], 0.05)
    assert sorted(texts(held)) == sorted(texts(reversed_held))
    _, longer = split(numbered(700), 0.05)
    assert set(texts(held)) <= set(texts(longer))


def test_a_file_of_one_row_over_and_over_is_trained_on() -> None:
    for text in (f"row {number}" for number in range(40)):
        kept, held = split(rows(*[text] * 200), 0.5)
        assert (len(kept), held) == (200, [])
