"""The curve against a naive computation, at every zoom; gaps, nonsense, cuts, and what is kept in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightschool.dashboard import curve as curve_module
from nightschool.dashboard import history as module
from nightschool.dashboard import rows as rolled
from nightschool.dashboard import smoothing
from nightschool.dashboard.curve import window
from nightschool.dashboard.history import History
from nightschool.dashboard.shapes import Curve
from nightschool.ledger import Ledger, StepRow, buckets
from nightschool.ledger.buckets import micros_of
from nightschool.ledger.steps import LOST

from .made import fill, fill_with, row

LOSSES = st.one_of(st.floats(0, 20, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 1e9]))
STRETCH = st.tuples(st.integers(0, 3000), st.lists(LOSSES, min_size=1, max_size=150))
FIELDS = ("loss", "loss_min", "loss_max", "grad_norm", "grad_norm_max", "tokens_per_second", "learning_rate")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.db") as made:
        yield made


def odd(step: int, loss: float) -> StepRow:
    """Columns that follow from the step, among them some that are no numbers."""
    seconds = {0: math.nan, 1: math.inf}.get(step % 29, step % 13 / 7)
    norm = {2: math.nan, 3: math.inf}.get(step % 29, step % 19 / 3)
    return StepRow(step, 0, loss, 1e-4 / (1 + step % 5), norm, step * 7 % 1000, 80, seconds)


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def naive(rows: dict[int, StepRow], found: Curve) -> dict[str, list[Any]]:
    """The columns for the same window and span, from nothing but the rows."""
    columns: dict[str, list[Any]] = {}
    first, stop = found.first // found.span, found.last // found.span
    for cell in sorted({step // found.span for step in rows if first <= step // found.span <= stop}):
        inside = [rows[step] for step in sorted(rows) if step // found.span == cell]
        until = [rows[step] for step in rows if step <= inside[-1].step]
        losses = [one.loss for one in inside if math.isfinite(one.loss)]
        norms = [one.grad_norm for one in inside if math.isfinite(one.grad_norm)]
        micros = sum(micros_of(one.seconds) for one in inside)
        for name, value in {
            "step": inside[-1].step,
            "tokens": sum(one.tokens for one in until),
            "hours": round(sum(micros_of(one.seconds) for one in until) / 3.6e9, 6),
            "loss": mean(losses),
            "loss_min": min(losses, default=None),
            "loss_max": max(losses, default=None),
            "bad": len(inside) - len(losses),
            "learning_rate": inside[-1].learning_rate,
            "grad_norm": mean(norms),
            "grad_norm_max": max(norms, default=None),
            "tokens_per_second": sum(one.tokens for one in inside) / (micros / 1e6) if micros else None,
        }.items():
            columns.setdefault(name, []).append(value)
    return columns


def check(found: Curve, rows: dict[int, StepRow]) -> None:
    wanted = naive(rows, found)
    for name in ("step", "tokens", "hours", "bad"):
        assert getattr(found, name) == wanted.get(name, []), name
    for name in FIELDS:
        digits = 1e-3 if name == "tokens_per_second" else 1e-6
        for got, value in zip(getattr(found, name), wanted.get(name, []), strict=True):
            assert got == (value if value is None else pytest.approx(value, rel=digits)), name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stretches=st.lists(STRETCH, min_size=1, max_size=6),
    views=st.lists(
        st.tuples(st.integers(0, 3200), st.one_of(st.none(), st.integers(0, 3200)), st.integers(10, 400)), max_size=4
    ),
)
def test_the_curve_equals_a_naive_computation_at_any_zoom(
    ledger: Ledger, stretches: list[Any], views: list[Any]
) -> None:
    ledger.steps.delete_after(-1)
    rows: dict[int, StepRow] = {}
    history = History()  # kept over all changes
    for first, losses in stretches:
        new = [odd(first + at, loss) for at, loss in enumerate(losses)]
        ledger.steps.record(new)
        rows.update((one.step, one) for one in new)
        for low, high, points in [(0, None, 1200), *views]:
            found = history.curve(ledger, 3, low, high, points)
            assert len(found.step) <= points
            assert (found.generation, found.steps_done) == (3, max(rows))
            check(found, rows)


def test_control_a_mean_of_means_is_found(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {step: odd(step, float(step)) for step in range(4000) if step < 100 or step > 300}
    fill(ledger, rows.values())
    check(History().curve(ledger, 0, points=20), rows)
    real = rolled.together

    def careless(array: rolled.Rows, span: int) -> rolled.Rows:
        once = real(array, span)
        once["loss_sum"] = real(array, span // 2)["loss_sum"][: len(once)]
        return once

    monkeypatch.setattr(curve_module, "together", careless)
    with pytest.raises(AssertionError):
        check(History().curve(ledger, 0, points=20), rows)


MILLION = 1_000_000


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, int]]:
    """A million steps, one of them a spike."""
    spike = 654_321
    with Ledger.create(tmp_path_factory.mktemp("long") / "ledger.db") as made:
        fill_with(made, MILLION, spike)
        yield made, spike


def test_one_spike_in_a_million_steps_is_seen_at_every_zoom(long: tuple[Ledger, int]) -> None:
    ledger, spike = long
    history, width, spans = History(), MILLION, set()
    while width > 4:
        first = max(0, spike - width // 3)
        found = history.curve(ledger, 0, first, first + width - 1)
        spans.add(found.span)
        assert max(one for one in found.loss_max if one is not None) == 99.0
        at = found.loss_max.index(99.0)
        assert found.step[at] - found.span < spike <= found.step[at]
        assert found.tokens[at] == 100 * found.step[at]
        assert found.hours[at] == round(found.step[at] * 0.25 / 3600, 6)
        assert 2.0 < (found.smooth[at] or 0) < 99.0
        width = width * 2 // 3
    assert spans == {2**power for power in range(11)}


def test_a_long_curve_is_read_in_short_pages_and_only_once(
    long: tuple[Ledger, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = long
    read: list[int] = []
    real = type(ledger._database).rows

    def counted(self: Any, sql: str, parameters: Any = ()) -> list[Any]:
        found = real(self, sql, parameters)
        read.append(len(found))
        return found

    monkeypatch.setattr(type(ledger._database), "rows", counted)
    history = History()
    for first, last in ((0, None), (500_000, 538_000)):
        history.curve(ledger, 0, first, last)
        assert max(read) == module.PAGE
        assert sum(read) > 10_000
        read.clear()
        history.curve(ledger, 0, first, last)
        assert sum(read) < 10
        read.clear()


def test_the_curve_grows_with_the_ledger_without_reading_it_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger, (row(step) for step in range(1, 10_001)))
    history = History()
    assert history.curve(ledger, 0).steps_done == 10_000
    history.curve(ledger, 0, 9_900)
    asked: list[int] = []
    real = ledger.steps.figures
    monkeypatch.setattr(ledger.steps, "figures", lambda *a: asked.append(a[0]) or real(*a))
    ledger.steps.record([row(10_001, 5.0), row(10_002, 7.0)])
    found = history.curve(ledger, 0, 9_900)
    assert asked == [10_001]
    assert (found.step[-2:], found.loss[-2:], found.tokens[-1]) == ([10_001, 10_002], [5.0, 7.0], 1_000_200)
    assert history.curve(ledger, 0).loss_max[-1] == 7.0


@pytest.mark.parametrize("span_of", [100, 1200])
def test_after_a_cut_nothing_of_the_old_past_is_shown(ledger: Ledger, span_of: int) -> None:
    fill(ledger, (row(step, 9.0) for step in range(1, 1001)))
    history = History()
    history.curve(ledger, 0, points=span_of)
    ledger.steps.delete_after(500)
    # It is past the old end before the page looks again.
    ledger.steps.record([row(step, 1.0) for step in range(501, 1101)])
    found = history.curve(ledger, 1, points=span_of)
    rows = {step: row(step, 9.0 if step <= 500 else 1.0) for step in range(1, 1101)}
    check(found, rows)
    assert found.smooth[-1] == pytest.approx(1.0, abs=0.01)


def test_control_what_is_kept_goes_stale_unless_the_revision_is_looked_at(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ledger.steps), "revision", lambda self: 0)
    with pytest.raises(AssertionError):
        test_after_a_cut_nothing_of_the_old_past_is_shown(ledger, 1200)


def test_a_cut_between_two_pages_is_noticed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ledger, (row(step, 9.0) for step in range(1, 1001)))
    real, cut = ledger.steps.figures, [True]

    def cutting(first: int, last: int, limit: int) -> Any:
        if cut and cut.pop():
            ledger.steps.delete_after(500)
            ledger.steps.record([row(step, 1.0) for step in range(501, 601)])
        return real(first, last, limit)

    monkeypatch.setattr(ledger.steps, "figures", cutting)
    found = History().curve(ledger, 0)
    assert (found.steps_done, found.last, found.step[-1], len(found.step)) == (600, 600, 600, 600)


def test_lost_steps_are_a_gap_and_steps_that_never_were_are_none(ledger: Ledger) -> None:
    # What another program had logged every tenth step, then ours, of which some are lost.
    steps = [*range(10, 101, 10), *range(101, 201), *range(301, 401)]
    fill(ledger, (row(step) for step in steps))
    ledger.machine.set(LOST, [[201, 300]])
    found = History().curve(ledger, 0)
    assert found.step == [*range(10, 101, 10), *range(101, 202), *range(301, 401)]
    at = found.step.index(201)
    for name in ("loss", "loss_min", "loss_max", "smooth", "learning_rate", "grad_norm", "tokens_per_second"):
        assert [one is None for one in getattr(found, name)] == [n == at for n in range(len(found.step))], name
    assert found.bad[at] == 0
    assert found.tokens[at - 1 : at + 2] == [11_000, 11_000, 11_100]
    wide = History().curve(ledger, 0, points=50)
    assert (wide.span, wide.loss.count(None)) == (8, 1)


def test_a_run_that_was_taken_over_begins_where_it_began(ledger: Ledger) -> None:
    ledger.steps.record([row(step) for step in range(50_001, 50_101)])
    found = History().curve(ledger, 0)
    assert (found.first, found.last, found.span, len(found.step)) == (50_001, 50_100, 1, 100)
    assert found.tokens[0] == 100


def test_f2_steps_without_a_number_are_counted_and_hide_nothing(ledger: Ledger) -> None:
    ledger.steps.record([row(1, math.nan), row(2, 3.0), row(3, math.inf), row(4, 1e308), row(5, 1e308)])
    found = History().curve(ledger, 0)
    assert found.bad == [1, 0, 1, 0, 0]
    assert found.loss == [None, 3.0, None, 1e308, 1e308]
    assert found.smooth[:3] == [None, 3.0, 3.0]
    fill_up = [row(step, math.nan) for step in range(64, 128)]
    ledger.steps.record(fill_up)
    wide = History().curve(ledger, 0, points=10)
    assert sum(wide.bad) == 66


@pytest.mark.parametrize(("first", "last"), [(0, None), (5, None), (5, 3), (7, 7)])
def test_an_empty_ledger_or_window_gives_an_empty_curve(ledger: Ledger, first: int, last: int | None) -> None:
    found = History().curve(ledger, 0, first, last)
    assert (found.step, found.loss, found.steps_done) == ([], [], 0)
    ledger.steps.record([row(1), row(2)])
    assert History().curve(ledger, 0, 50, 60).step == []
    assert History().curve(ledger, 0, 0, 0).step == []


def test_new_steps_are_told_one_by_one_unless_they_are_too_many(ledger: Ledger) -> None:
    fill(ledger, (row(step, 2.0 + step % 3) for step in range(1, 2001)))
    history = History()
    found = history.since(ledger, 0, 1990)
    assert found is not None
    assert (found.span, found.step) == (1, list(range(1991, 2001)))
    nothing = history.since(ledger, 0, 2000)
    assert nothing is not None
    assert nothing.step == []
    assert history.since(ledger, 0, 1500) is not None
    assert history.since(ledger, 0, 1499) is None
    whole = history.curve(ledger, 0, points=5000)
    assert found.smooth == pytest.approx(whole.smooth[-10:], rel=1e-2)


def test_what_is_made_quickly_is_what_would_have_been_made(ledger: Ledger) -> None:
    fill_with(ledger, 5000, 300)
    quick = [row for span in buckets.SPANS for row in ledger.steps.buckets(span)]
    with ledger.transaction():
        buckets.make_all(ledger._database)
    assert [row for span in buckets.SPANS for row in ledger.steps.buckets(span)] == quick


# --- the smooth line


def slow_mean(losses: list[float | None], half_life: int) -> list[float | None]:
    found: list[float | None] = []
    for at in range(len(losses)):
        weighed = [(2.0 ** (-(at - n) / half_life), one) for n, one in enumerate(losses[: at + 1]) if one is not None]
        weight = sum(w for w, _ in weighed)
        found.append(sum(w * one for w, one in weighed) / weight if weight else None)
    return found


@given(
    losses=st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=60),
    half=st.sampled_from([1, 2, 4, 16]),
)
def test_the_smooth_line_is_the_weighted_mean_of_what_came_before(losses: list[float | None], half: int) -> None:
    points = [(at, int(one is not None), one or 0.0) for at, one in enumerate(losses)]
    for got, value in zip(smoothing.smooth(points, half), slow_mean(losses, half), strict=True):
        assert got == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-300))


def test_the_smooth_line_begins_at_the_first_loss_and_not_at_nothing() -> None:
    assert smoothing.smooth([(1, 1, 5.0), (2, 1, 5.0)], 1000) == pytest.approx([5.0, 5.0])
    biased = [5.0 * (1 - 2 ** (-1 / 1000))]
    assert biased != pytest.approx([5.0])


def test_the_smooth_line_hardly_depends_on_how_steps_are_put_together() -> None:
    losses = [3.0 + math.sin(step / 400) + (step * 7919 % 13) / 13 for step in range(8192)]
    single = smoothing.smooth([(step, 1, loss) for step, loss in enumerate(losses)], 256)
    for span in (16, 64):
        parts = [(at + span - 1, span, sum(losses[at : at + span])) for at in range(0, 8192, span)]
        wide = smoothing.smooth(parts, 256)
        for at, value in enumerate(wide):
            assert value == pytest.approx(single[(at + 1) * span - 1], abs=0.06)


@pytest.mark.parametrize("width", [300, 3000, 30_000])
def test_the_smooth_line_does_not_change_when_the_view_is_moved(long: tuple[Ledger, int], width: int) -> None:
    ledger, spike = long
    history = History()
    one = history.curve(ledger, 0, spike - width // 2, spike + width // 2)
    other = history.curve(ledger, 0, spike - width // 4, spike + 3 * width // 4)
    assert one.span == other.span
    values = dict(zip(other.step, other.smooth, strict=True))
    both = [(value, values[step]) for step, value in zip(one.step, one.smooth, strict=True) if step in values]
    assert len(both) > 100
    assert all(a == pytest.approx(b, rel=1e-6) for a, b in both)


def test_half_lives_are_powers_of_two_near_a_fiftieth() -> None:
    for steps in (1, 10, 50, 100, 12_345, 10**6, 10**9):
        half = smoothing.half_life(steps)
        assert half & (half - 1) == 0
        assert half == 1 or 0.7 <= half / (steps / 50) <= 1.42


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(10, 5000))
def test_a_window_has_at_most_so_many_points_and_not_far_fewer(first: int, steps: int, points: int) -> None:
    seen = window(first, first + steps - 1, points)
    cells = seen.last // seen.span - seen.first // seen.span + 1
    assert cells <= points
    assert seen.span == 1 or cells >= points // 2 - 1
    assert seen.begin <= seen.first <= seen.last <= seen.end


# --- numbers


@given(st.lists(st.one_of(st.floats(), st.floats(0, 20)), max_size=20))
def test_numbers_are_rounded_to_seven_digits_and_the_rest_is_null(values: list[float]) -> None:
    found = rolled.numbers(rolled.np.array(values, "f8"))
    for got, value in zip(found, values, strict=True):
        assert got == (pytest.approx(value, rel=1e-6, abs=5e-324) if math.isfinite(value) else None)


def test_numbers_are_short() -> None:
    assert rolled.numbers(rolled.np.array([0.0, 2.123456789, 1e-4 / 3, 123456.789])) == [
        0.0, 2.123457, 3.333333e-05, 123456.8,
    ]  # fmt: skip


@given(st.lists(st.one_of(st.none(), st.floats(), st.floats(0, 5)), max_size=30))
def test_steps_take_the_time_that_buckets_count(seconds: list[float | None]) -> None:
    given_ = [None if one is not None and math.isnan(one) else one for one in seconds]
    array = rolled.of_steps([(at, 1.0, 1, one, 1.0, 1.0) for at, one in enumerate(given_)])
    assert array["micros"].tolist() == [micros_of(one) for one in given_]
