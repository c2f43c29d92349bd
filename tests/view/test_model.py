"""What is read for the view."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from nightschool.hardware import Hardware
from nightschool.ledger import Arrival, Ledger, StepRow
from nightschool.view import model
from nightschool.workspace import Layout

NOW = datetime(2026, 11, 24, 22, 0, tzinfo=UTC)


def steps(ledger: Ledger, count: int, loss: float | None = None) -> None:
    ledger.steps.record(
        [StepRow(n, 0, n / 1000 if loss is None else loss, 1e-4, 1.0, 100, 90, 0.5) for n in range(1, count + 1)]
    )


def test_a_new_workspace_has_a_view(layout: Layout) -> None:
    view = model.Reader(layout).read(NOW, Hardware())
    assert (view.status.state, view.file_steps, view.trend, view.next) == ("stopped", 0, (), ())


def test_the_trend_is_even_early_and_from_buckets_later(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        steps(ledger, 100)
        means, over = model.trend_of(ledger, 100)
        assert (len(means), over) == (model.TREND, 100)
        assert list(means) == sorted(means)
        assert math.isclose(math.fsum(means) / len(means), 0.0505, rel_tol=0.05)
        steps(ledger, 5000)
        means, over = model.trend_of(ledger, 5000)
        assert len(means) == model.TREND
        assert 23 * 64 < over <= 24 * 64
        assert list(means) == sorted(means)
        assert means[-1] > 4.9


def test_losses_that_are_no_numbers_leave_the_trend(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        steps(ledger, 30, loss=math.nan)
        assert model.trend_of(ledger, 30) == ((), 0)


def test_waiting_files_are_looked_at_again_when_they_change_or_after_a_while(layout: Layout) -> None:
    now = 0.0
    reader = model.Reader(layout, clock=lambda: now)
    with Ledger.open(layout.ledger) as ledger:
        (first,) = ledger.files.arrive([Arrival("a.jsonl", "/gone/a")])
        assert [one.name for one in reader.read(NOW, Hardware()).next] == ["a.jsonl"]
        ledger.files.arrive([Arrival("b.jsonl", "/gone/b")])
        assert [one.name for one in reader.read(NOW, Hardware()).next] == ["a.jsonl", "b.jsonl"]
        ledger.files.set_state(first, "rejected")
        ledger.files.arrive([Arrival("c.jsonl", "/gone/c")])
        assert [one.name for one in reader.read(NOW, Hardware()).next] == ["a.jsonl", "b.jsonl"]
        now = model.NEXT_SECONDS
        assert [one.name for one in reader.read(NOW, Hardware()).next] == ["b.jsonl", "c.jsonl"]


def test_the_number_of_waiting_files_that_are_read_is_bounded(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival(f"{n}.jsonl", f"/gone/{n}") for n in range(200)])
    assert len(model.Reader(layout).read(NOW, Hardware()).next) == model.NEXT
