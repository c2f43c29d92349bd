"""What the machine does now, what happened, and what waits."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool import forecast
from nightschool.dashboard import looks
from nightschool.dashboard.services import Services
from nightschool.forecast import Rates, Work
from nightschool.hardware import Hardware
from nightschool.ledger import Arrival, EntryRow, FileRow, Ledger, StepRow
from nightschool.record import write_generation
from nightschool.status import progress_of, status_of
from nightschool.view import model
from nightschool.workspace import Layout
from tests.dashboard.looking import ask, longest_read, services_of
from tests.snapshots import made

NOW = datetime(2026, 11, 24, 22, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A workspace in which nothing happened yet."""
    found = Layout(tmp_path)
    found.create()
    found.settings_file.write_text(made.TOML)
    Ledger.create(found.ledger).close()
    return found


@pytest.fixture
def services(layout: Layout) -> Iterator[Services]:
    with services_of(layout) as found:
        yield found


def now(services: Services) -> dict:
    return ask(services, looks.ENDPOINTS, "/api/now")


# --- now ---------------------------------------------------------------------------------------------------------


def test_an_empty_workspace_says_so_until_something_is_dropped(layout: Layout, services: Services) -> None:
    assert now(services)["empty"]
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("a.jsonl", "/gone/a")])
    assert not now(services)["empty"]


@pytest.mark.parametrize("state", ["rejected", "forgotten", "set_aside", "duplicate"])
def test_a_workspace_is_not_empty_where_all_that_was_dropped_is_out(
    layout: Layout, services: Services, state: str
) -> None:
    with Ledger.open(layout.ledger) as ledger:
        (id,) = ledger.files.arrive([Arrival("a.jsonl", "/gone/a")])
        ledger.files.set_state(id, state)  # type: ignore[arg-type]
    assert not now(services)["empty"]


def test_the_time_here_is_told_with_its_distance_from_utc(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        found = looks.now_of(layout, ledger, NOW)
    assert (found.at, found.utc_offset) == ("2026-11-24T20:00:00.000+00:00", 7200)


def test_how_far_the_file_is_agrees_with_the_view_in_the_terminal(tmp_path: Path) -> None:
    layout = made.workspace(tmp_path, steps=25)
    view = model.Reader(layout).read(NOW, Hardware())
    with Ledger.open(layout.ledger) as ledger:
        found = looks.now_of(layout, ledger, NOW)
    assert (found.file_step, found.file_steps, found.file_seconds) == (5, 10, None)
    assert (view.file_step, view.file_steps, view.file_seconds) == (5, 10, None)
    assert found.status["current_file"] == "3.jsonl"
    assert found.status["step"] == 25


def test_time_to_the_end_of_the_file_is_told_while_it_is_trained(tmp_path: Path) -> None:
    layout = made.workspace(tmp_path, steps=25)
    with Ledger.open(layout.ledger) as ledger:
        status, unfinished = status_of(layout, ledger), ledger.entries.unfinished(25)
    training = replace(status, state="training")
    told = {"phase": "training", "seconds_left": 12.5}
    assert progress_of(training, unfinished, told).seconds == 12.5
    assert progress_of(status, unfinished, told).seconds is None
    assert progress_of(training, unfinished, {**told, "phase": "saving"}).seconds is None
    assert progress_of(training, unfinished, {**told, "seconds_left": math.inf}).seconds is None


def test_losses_that_are_no_numbers_are_null(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.steps.record([StepRow(1, 0, math.nan, math.inf, 1.0, 10, 10, 0.1)])
    status = now(services)["status"]
    assert (status["step"], status["loss"], status["learning_rate"]) == (1, None, None)


def test_generation_and_newest_event_are_told(layout: Layout, services: Services) -> None:
    before = now(services)
    with Ledger.open(layout.ledger) as ledger:
        event = ledger.events.add("cut", "Went back.")
    write_generation(layout, 3)
    after = now(services)
    assert (before["generation"], before["event"]) == (0, 0)
    assert (after["generation"], after["event"]) == (3, event)


def test_what_waits_is_looked_at_each_time_while_that_is_quick_and_seldom_while_it_is_slow(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, takes, looked = 0.0, 0.0, []

    def work_waiting(ledger: Ledger, rates: Rates) -> Work:
        nonlocal clock
        del ledger, rates
        clock += takes
        looked.append(clock)
        return Work(len(looked), None, False)

    monkeypatch.setattr(forecast, "work_waiting", work_waiting)
    remembered = looks.WaitingWork(clock=lambda: clock)
    with Ledger.open(layout.ledger) as ledger:
        rates = forecast.read_rates(ledger, {})
        assert [remembered(ledger, rates).steps for _ in range(3)] == [1, 2, 3]
        takes = 0.2
        assert remembered(ledger, rates).steps == 4
        for _ in range(9):
            clock += 1.0
            assert remembered(ledger, rates).steps == 4
        clock += 1.0
        assert remembered(ledger, rates).steps == 5
        takes = 60.0
        clock += 10.0
        assert remembered(ledger, rates).steps == 6
        clock += looks.LONGEST
        assert remembered(ledger, rates).steps == 7


ready_files = st.lists(
    st.tuples(
        st.sampled_from([None, 1, 2, 3]),
        st.one_of(st.none(), st.integers(0, 40)),
        st.integers(0, 1000),
        st.one_of(st.none(), st.integers(0, 100)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(files=ready_files, batch=st.integers(1, 9), gather=st.integers(0, 30), epochs=st.integers(1, 3))
def test_sums_over_ready_files_are_those_of_going_through_them(
    files: list, batch: int, gather: int, epochs: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Ledger.create(tmp_path_factory.mktemp("ledger") / "ledger.db") as ledger:
        with ledger.transaction():
            for number, (own, rows, tokens, sequences) in enumerate(files):
                options = {} if own is None else {"epochs": own}
                (id,) = ledger.files.arrive([Arrival(str(number), f"/gone/{number}", options=options)])
                row = ledger.files.get(id)
                ledger.files.restore([replace(row, state="ready", rows_good=rows, tokens=tokens, sequences=sequences)])
        rates = Rates(batch, epochs, gather, 10.0, 1.0, {})
        assert forecast.work_waiting(ledger, rates) == one_by_one(ledger.files.listing("ready"), rates)


def one_by_one(rows: list[FileRow], rates: Rates) -> Work:
    """What all ready files take, told from each."""
    steps, small, tokens = 0, 0, 0
    for row in rows:
        epochs = row.options.get("epochs") or rates.epochs
        tokens += epochs * (row.tokens or 0)
        if (row.rows_good or 0) < rates.gather:
            small += epochs * (row.sequences or 0)
        else:
            steps += epochs * -(-(row.sequences or 0) // (rates.batch or 1))
    seconds = tokens / rates.speed if rates.speed and tokens else 0.0
    return Work(steps + math.ceil(small / (rates.batch or 1)), seconds, False)


def test_h7_with_thousands_of_files_no_read_fetches_more_than_a_page(
    layout: Layout, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ids = ledger.files.arrive([Arrival(f"{n}.jsonl", f"/gone/{n}", bytes=10) for n in range(3000)])
        with ledger.transaction():
            for id in ids[:1500]:
                ledger.files.set_state(id, "ready")
        ledger.machine.set("intake", {"train_batch_size": 8, "epochs": 1})
    assert longest_read(monkeypatch, lambda: now(services)) <= 500
    assert longest_read(monkeypatch, lambda: ask(services, looks.ENDPOINTS, "/api/queue", limit=500)) <= 500
    # Control: whoever fetches all at once is found out.
    with Ledger.open(layout.ledger) as ledger:
        assert longest_read(monkeypatch, lambda: ledger.files.listing(limit=3000)) == 3000


# --- the sum over the history ------------------------------------------------------------------------------------


def test_the_steps_of_all_entries_are_remembered_and_follow_every_change(layout: Layout) -> None:
    def append(ledger: Ledger, steps: int) -> None:
        ledger.entries.append([(1, "d", steps)], made.RECIPE, steps)

    with Ledger.open(layout.ledger) as ledger, Ledger.open(layout.ledger) as other:
        assert ledger.entries.steps() == 0
        append(other, 10)
        assert ledger.entries.steps() == 10
        append(other, 5)
        assert ledger.entries.steps() == 15
        # The last range ends early: same positions, fewer steps.
        other.entries.replace_from(1, [replace(other.entries.get(1), stop=2)])
        assert ledger.entries.steps() == 12
        other.entries.replace_all([])
        assert ledger.entries.steps() == 0


def test_steps_that_never_came_about_are_not_remembered(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.entries.append([(1, "d", 10)], made.RECIPE, 10)
        with suppress(RuntimeError), ledger.transaction():
            ledger.entries.append([(1, "d", 7)], made.RECIPE, 7)
            assert ledger.entries.steps() == 17
            raise RuntimeError
        ledger.entries.append([(1, "d", 1)], made.RECIPE, 1)
        assert ledger.entries.steps() == 11
        assert ledger.entries.steps_between(0, 1) == 10
        assert ledger.entries.steps_between(1, 2) == 1


# --- events and queue --------------------------------------------------------------------------------------------


def test_pages_of_events_joined_are_all_of_them(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ids = [ledger.events.add("state", f"<script>{n}</script>", n=n, bad=math.nan) for n in range(7)]
    found, after, pages = [], 0, 0
    while after is not None:
        page = ask(services, looks.ENDPOINTS, "/api/events", after=after, limit=3)
        found += [event["id"] for event in page["events"]]
        assert page["next"] in (None, found[-1])
        after, pages = page["next"], pages + 1
    assert (found, pages) == (ids, 3)
    full = ask(services, looks.ENDPOINTS, "/api/events", after=ids[3], limit=3)
    assert ([event["id"] for event in full["events"]], full["next"]) == (ids[4:], None)


def test_without_a_place_to_begin_the_newest_events_are_given_in_order(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ids = [ledger.events.add("state", f"{n}") for n in range(7)]
    found = ask(services, looks.ENDPOINTS, "/api/events", limit=2)
    assert ([event["id"] for event in found["events"]], found["next"]) == (ids[-2:], None)
    assert ask(services, looks.ENDPOINTS, "/api/events", after=2**62)["events"] == []


def test_h4_texts_of_events_are_passed_on_as_they_are(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.events.add("file-rejected", "<script>alert(1)</script>: bad", name="<b>")
    (event,) = ask(services, looks.ENDPOINTS, "/api/events")["events"]
    assert event["text"] == "<script>alert(1)</script>: bad"
    assert event["fields"] == {"name": "<b>"}


def test_the_queue_is_that_of_the_command(tmp_path: Path) -> None:
    layout = made.workspace(tmp_path, steps=25)
    with services_of(layout) as services:
        found = ask(services, looks.ENDPOINTS, "/api/queue")
        first = ask(services, looks.ENDPOINTS, "/api/queue", limit=1)
    assert found == forecast.read_queue(layout, 50).to_dict()
    assert [file["name"] for file in found["files"]] == ["3.jsonl", "4.jsonl"]
    assert found["waiting"] == 1
    assert first == {**found, "files": found["files"][:1]}


def test_h7_after_a_rollback_over_thousands_of_files_only_the_first_are_read(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("a", "/gone/a")])
        ledger.files.set_state(1, "training")
        with ledger.transaction():
            ledger.entries.replace_all([
                EntryRow(0, ((1, "d", 1),), made.RECIPE, 1, 0, 1, "2026-11-20T00:00:00+00:00") for _ in range(1200)
            ])  # fmt: skip
        ledger.steps.record([StepRow(n, 0, 1.0, 1e-3, 1.0, 10, 10, 0.1) for n in range(1, 11)])
        got, real = [], type(ledger.entries).get
        monkeypatch.setattr(type(ledger.entries), "get", lambda self, at: (got.append(at), real(self, at))[1])
        found = looks.now_of(layout, ledger)
        assert (found.file_step, found.file_steps, got) == (0, 1, [10, 10])
        assert len(looks.queue_of(ledger, 5).files) == 5
        assert len(got) == 2 + 6
        assert [steps for _, steps in ledger.entries.unfinished(10)] == [1] * 1190
        assert looks.queue_of(ledger, 500).steps == 1190


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from nightschool.dashboard import files, findings, health, log, looks, saved; "
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'datasets', 'apprise') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_utc_is_used_where_no_time_is_given(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        at = datetime.fromisoformat(looks.now_of(layout, ledger).at)
    assert at.utcoffset() == timedelta()
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
