"""The loss curve: rows, cuts, and the rolled-up buckets that must always agree with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightschool.ledger import BucketRow, Ledger, StepRow, buckets

from .support import step

LOSSES = st.one_of(
    st.floats(0, 20, width=32), st.floats(), st.just(math.nan), st.just(math.inf), st.sampled_from([1e308, -1e308])
)
RECORD = st.tuples(
    st.just("record"), st.integers(0, 9000), st.lists(LOSSES, min_size=1, max_size=80), st.sampled_from([1, 1, 3, 64])
)
CUT = st.tuples(st.just("cut"), st.integers(-1, 9100))
CHANGES = st.lists(st.one_of(RECORD, RECORD, CUT), max_size=12)


def varied(number: int, loss: float) -> StepRow:
    """A row whose other columns follow from its number: some of them no numbers, some nonsense."""
    odd = number % 17
    seconds = {3: math.nan, 4: math.inf, 5: -1.0, 6: 1e300}.get(odd, number % 13 / 7)
    norm = {1: math.nan, 2: -math.inf, 7: 1e308, 8: 1.7e308}.get(odd, number % 19 / 3)
    rate = math.nan if odd == 9 else 1e-4 / (1 + number % 5)
    return StepRow(number, 0, loss, rate, norm, number * 7 % 1000, 80, seconds)


def play(ledger: Ledger, changes: list[Any]) -> dict[int, StepRow]:
    """Do the changes, and return which rows must be there afterwards."""
    wanted: dict[int, StepRow] = {}
    for change in changes:
        if change[0] == "record":
            _, first, losses, stride = change
            rows = [varied(first + at * stride, loss) for at, loss in enumerate(losses)]
            ledger.steps.record(rows)
            wanted.update((row.step, row) for row in rows)
        else:
            ledger.steps.delete_after(change[1])
            wanted = {number: row for number, row in wanted.items() if number <= change[1]}
    return wanted


def rolled_up(rows: dict[int, StepRow]) -> Iterator[BucketRow]:
    """The buckets, computed from nothing but the rows."""
    sums: dict[int, tuple[float, float]] = {}
    for span in (64, 4096):
        for bucket in sorted({number // span for number in rows}):
            inside = [rows[number] for number in sorted(rows) if number // span == bucket]
            losses = [row.loss for row in inside if math.isfinite(row.loss)]
            norms = [row.grad_norm for row in inside if math.isfinite(row.grad_norm)]
            times = [min(max(row.seconds, 0), 1e6) for row in inside if math.isfinite(row.seconds)]
            within = [sums[small] for small in sorted(sums) if small // 64 == bucket]
            parts = (losses, norms) if span == 64 else ([one for one, _ in within], [one for _, one in within])
            loss_sum, norm_sum = map(exact_sum, parts)
            if span == 64:
                sums[bucket] = (loss_sum, norm_sum)
            yield BucketRow(
                level=span,
                bucket=bucket,
                count=len(losses),
                bad=len(inside) - len(losses),
                loss_min=min(losses, default=None),
                loss_max=max(losses, default=None),
                loss_sum=loss_sum,
                first=inside[0].step,
                last=inside[-1].step,
                tokens=sum(row.tokens for row in inside),
                micros=sum(round(seconds * 1e6) for seconds in times),
                norm_count=len(norms),
                norm_max=max(norms, default=None),
                norm_sum=norm_sum,
                learning_rate=None if math.isnan(inside[-1].learning_rate) else inside[-1].learning_rate,
            )


def exact_sum(values: list[float]) -> float:
    total, largest = sum(map(Fraction, values)), Fraction(sys.float_info.max)
    return float(max(-largest, min(largest, total)))


def stored(ledger: Ledger) -> list[BucketRow]:
    return [row for span in (64, 4096) for row in ledger.steps.buckets(span, limit=1000)]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_buckets_equal_a_recomputation_after_any_changes(ledger: Ledger, changes: list[Any]) -> None:
    ledger.steps.delete_after(-1)
    wanted = play(ledger, changes)
    rows = [row for page in ledger.steps.losses(page=37) for row in page]
    assert [row.step for row in rows] == sorted(wanted)
    assert all(repr(row) == repr(wanted[row.step]) for row in rows)
    assert ledger.steps.count() == len(wanted)
    assert stored(ledger) == list(rolled_up(wanted))
    with ledger.transaction():
        buckets.make_all(ledger._database)
    assert stored(ledger) == list(rolled_up(wanted))


def forget_to_recompute_the_last(database: Any, last: int) -> None:
    for span in (64, 4096):
        database.write("DELETE FROM step_buckets WHERE level = ? AND bucket > ?", (span, last // span))


def add_instead_of_recomputing(real: Callable[..., None]) -> Callable[..., None]:
    def refresh(database: Any, steps: set[int]) -> None:
        before = {(row.level, row.bucket): row for row in buckets.read(database, 64, 0, 1000)}
        real(database, steps)
        for row in before.values():
            database.write("UPDATE step_buckets SET count = count + ? WHERE level = 64 AND bucket = ?", (1, row.bucket))

    return refresh


@pytest.mark.parametrize("broken", ["drop_after", "refresh"])
def test_control_buckets_that_are_kept_carelessly_are_found(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    changes = [("record", 0, [1.0] * 80, 1), ("record", 10, [2.0], 1), ("cut", 70)]
    wanted = play(ledger, changes)
    assert stored(ledger) == list(rolled_up(wanted))
    ledger.steps.delete_after(-1)
    if broken == "drop_after":
        monkeypatch.setattr(buckets, "drop_after", forget_to_recompute_the_last)
    else:
        monkeypatch.setattr(buckets, "refresh", add_instead_of_recomputing(buckets.refresh))
    wanted = play(ledger, changes)
    assert stored(ledger) != list(rolled_up(wanted))


def test_a_row_comes_back_as_it_was(ledger: Ledger, path: Path) -> None:
    row = StepRow(7, 2, 1.2345678901234567, 1e-4, 0.1 + 0.2, 4096, 1234, 0.5, "skipped split")
    ledger.steps.record([row])
    with Ledger.open(path) as other:
        assert other.steps.last() == row
    assert StepRow(1, 0, 1.0, 1e-4, 1.0, 1, 1, 0.1).flags == ""


def test_f2_a_loss_that_is_no_number_is_kept_as_such(ledger: Ledger) -> None:
    ledger.steps.record([step(1, math.nan), step(2, math.inf), step(3, 2.0), step(4, -math.inf)])
    assert [repr(row.loss) for row in ledger.steps.range(1, 4)] == ["nan", "inf", "2.0", "-inf"]
    (bucket,) = ledger.steps.buckets(64)
    assert (bucket.count, bucket.bad, bucket.loss_mean, bucket.first, bucket.last) == (1, 3, 2.0, 1, 4)


def test_a_bucket_without_a_number_has_no_mean(ledger: Ledger) -> None:
    ledger.steps.record([step(1, math.nan)])
    (bucket,) = ledger.steps.buckets(4096)
    assert (bucket.loss_min, bucket.loss_max, bucket.loss_mean, bucket.bad) == (None, None, None, 1)


def test_a_step_done_again_replaces_its_row(ledger: Ledger) -> None:
    ledger.steps.record([step(1, 3.0), step(2, 3.0)])
    ledger.steps.record([step(2, 1.0)])
    assert [row.loss for row in ledger.steps.range(0, 9)] == [3.0, 1.0]
    assert ledger.steps.delete_after(1) == 1
    assert ledger.steps.delete_after(1) == 0


def test_the_revision_tells_whether_what_was_read_still_holds(ledger: Ledger) -> None:
    before = ledger.steps.revision()
    ledger.steps.record([step(3), step(4)])
    ledger.steps.record([step(9)])
    assert ledger.steps.delete_after(9) == 0
    assert ledger.steps.revision() == before
    for change in (
        lambda: ledger.steps.record([step(9, 2.0), step(10)]),
        lambda: ledger.steps.record([step(5)]),
        lambda: ledger.steps.delete_after(9),
    ):
        change()
        assert ledger.steps.revision() > before
        before = ledger.steps.revision()


def test_an_empty_curve(ledger: Ledger) -> None:
    ledger.steps.record([])
    assert (ledger.steps.last(), ledger.steps.count(), list(ledger.steps.losses())) == (None, 0, [])
    assert ledger.steps.delete_after(0) == 0


@pytest.mark.parametrize("rows", [0, 9, 10, 11, 20, 21])
def test_pages_hold_every_row_once_whatever_their_number(ledger: Ledger, rows: int) -> None:
    ledger.steps.record([step(number) for number in range(rows)])
    pages = list(ledger.steps.losses(page=10))
    assert [row.step for page in pages for row in page] == list(range(rows))
    assert all(pages)
    assert [row.step for page in ledger.steps.losses(after=4) for row in page] == list(range(5, rows))


def test_ranges_include_both_ends_and_stop_at_the_limit(ledger: Ledger) -> None:
    ledger.steps.record([step(number) for number in range(1, 11)])
    assert [row.step for row in ledger.steps.range(3, 5)] == [3, 4, 5]
    assert [row.step for row in ledger.steps.range(3, 9, limit=2)] == [3, 4]
    with pytest.raises(ValueError, match="page by page"):
        ledger.steps.range(0, 9, limit=1_000_000)


def test_mistakes_are_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="start at 0"):
        ledger.steps.record([step(1), step(-1)])
    with pytest.raises(ValueError, match="rolled up by 64 and 4096"):
        ledger.steps.buckets(100)
    assert ledger.steps.count() == 0
