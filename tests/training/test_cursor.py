"""The cursor's rule: what of the reported curve is still the run's history. No tracker is needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.ledger import EntryRow, HoldoutRow, StepRow
from nightschool.training.cursor import Cursor, common, curve, mean, span_of, spans


def entry(position: int, digest: str, stop: int = 10, start: int = 0, recipe: str = "{}") -> EntryRow:
    return EntryRow(position, ((position + 1, digest, 10),), recipe, 10, start, stop, "")


def history(*digests: str) -> list[EntryRow]:
    return [entry(position, digest) for position, digest in enumerate(digests)]


def told(rows: Sequence[EntryRow], steps: int) -> Cursor:
    cursor, found = Cursor("run"), spans(rows)
    for step in range(1, steps + 1):
        span = span_of(step, found)
        assert span is not None
        cursor = cursor.reported(step, span)
    return cursor


@pytest.mark.parametrize(
    ("then", "now", "steps", "same"),
    [
        (history("a", "b"), history("a", "b"), 15, 15),
        (history("a", "b"), history("a", "b", "c"), 20, 20),
        (history("a", "b"), history("a"), 15, 10),
        (history("a", "b"), history("a", "c"), 15, 10),
        (history("a", "b"), history("c", "b"), 15, 0),
        (history("a", "b"), history("b"), 15, 0),
        (history("a"), [], 5, 0),
        # A file that ended earlier: its first steps stand, and no more, whatever came then.
        (history("a", "b"), [entry(0, "a", 7), entry(1, "b")], 15, 7),
        (history("a"), [entry(0, "a", 7), entry(1, "b")], 5, 5),
        (history("a"), [entry(0, "a", 7)], 9, 7),
        ([entry(0, "a", 7), entry(1, "b")], history("a", "b"), 12, 7),
        # The same file with other settings, or from elsewhere in it, is another training.
        (history("a"), [entry(0, "a", recipe='{"x": 1}')], 5, 0),
        (history("a", "b"), [entry(0, "a"), entry(1, "b", 10, 5)], 15, 10),
        # A repair of the ledger may leave the list without what nobody has trained.
        ([entry(0, "a"), entry(1, "b", 0), entry(2, "c")], history("a", "c"), 15, 15),
    ],
)
def test_so_much_of_what_was_told_stands(then: list[EntryRow], now: list[EntryRow], steps: int, same: int) -> None:
    assert common(told(then, steps), spans(now)) == same


def test_a_crash_takes_nothing_back_since_the_steps_that_come_again_are_the_same() -> None:
    rows = history("a", "b")
    assert common(told(rows, 20), spans(rows)) == 20  # whatever the ledger's last row is now


def test_after_going_back_the_cursor_is_as_it_was_then() -> None:
    rows = history("a", "b", "c")
    later = replace(told(rows, 25), settled=20)
    assert replace(later.back_to(15), settled=0) == told(rows, 15)
    assert later.back_to(15).settled == 14
    # Of the file that ends there it is told once more what it has taught: it may end there only now.
    assert later.back_to(10).settled == 9
    assert later.back_to(0) == Cursor("run")


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6), st.integers(0, 60))
def test_what_stands_was_told_the_same_and_the_next_step_was_not(old: list[int], new: list[int], steps: int) -> None:
    """Against the plain way: what each step is of, step by step."""

    def each(files: list[int]) -> list[tuple[int, ...]]:
        return [(*files[:at], file, local) for at, file in enumerate(files) for local in range(10)]

    then, now = history(*map(str, old)), history(*map(str, new))
    steps = min(steps, len(then) * 10)
    wanted = 0
    while wanted < min(steps, len(now) * 10) and each(old)[wanted] == each(new)[wanted]:
        wanted += 1
    assert common(told(then, steps), spans(now)) == wanted


def test_the_cursor_survives_its_file_and_nothing_else_is_taken_for_one() -> None:
    cursor = replace(told(history("a", "b"), 12), id="x", configured=True, settled=10, run=2)
    assert Cursor.from_json(cursor.to_json()) == cursor
    for text in ("", "[]", "{}", '{"marks": [], "what": 1}', '{"marks": 1, "name": "x"}'):
        with pytest.raises(ValueError):
            Cursor.from_json(text)


def test_what_is_told_of_a_step() -> None:
    row = StepRow(7, 0, 2.5, 1e-4, 0.5, 300, 200, 0.25)
    assert curve(row) == {
        "train/loss": 2.5, "train/learning_rate": 1e-4, "train/grad_norm": 0.5, "train/tokens_per_second": 1200,
    }  # fmt: skip
    nan = float("nan")
    assert curve(replace(row, loss=nan)).keys() == curve(row).keys()  # that is news
    for seconds in (0.0, nan):
        taken_over = replace(row, seconds=seconds, grad_norm=nan, tokens=0)
        assert curve(taken_over) == {"train/loss": 2.5, "train/learning_rate": 1e-4}


def test_held_out_losses_of_several_files_weigh_as_many_tokens_as_they_have() -> None:
    rows = [HoldoutRow(0, 1, 5, 30, 2.0, 1.0), HoldoutRow(0, 2, 5, 10, 4.0, None)]
    assert mean(rows, "loss_before") == 2.5
    assert mean(rows, "loss_after") == 1.0
    assert mean([], "loss_before") is None
