"""The curve in TensorBoard, for real: event files are written over restarts, crashes and cuts, and read back."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightschool import logs, trackers
from nightschool.errors import SettingsError, StorageError
from nightschool.ledger import HoldoutRow, Ledger, StepRow
from nightschool.settings import Settings, load_settings
from nightschool.snapshots import acts
from nightschool.training import destinations, tracking
from nightschool.training.stopping import Stop
from nightschool.training.tracking import Book, Reporter
from nightschool.workspace import Layout
from tests.snapshots import made

SERIES = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four files of ten steps, of which nothing is recorded yet."""
    found = made.workspace(tmp_path / "my-model")
    with Ledger.open(found.ledger) as ledger:
        ledger.steps.delete_after(0)
        ledger.entries.replace_all(ledger.entries.all()[:2])
    return found


@pytest.fixture
def ledger(layout: Layout) -> Iterator[Ledger]:
    with Ledger.open(layout.ledger) as found:
        yield found


def loss_of(step: int, history: int = 0) -> float:
    return 4.0 / step + history


def train(ledger: Ledger, first: int, last: int, history: int = 0) -> None:
    ledger.steps.record(
        [
            StepRow(step, (step - 1) // 10, loss_of(step, history), 1e-3 * step, 0.5 + step, 100 + step, 80, 0.25)
            for step in range(first, last + 1)
        ]
    )


class Life:
    """One life of the tracking process, in this one."""

    def __init__(self, layout: Layout, ledger: Ledger, name: str = "tensorboard") -> None:
        self.now = 0.0
        settings = load_settings(layout.settings_file)
        self.reporter = Reporter(name, layout, settings, Book(ledger), lambda: self.now)

    def tell(self) -> None:
        for _ in range(100):
            if not self.reporter.tend():
                return
        pytest.fail("it always says that there is more")

    def end(self) -> None:
        self.reporter.close()

    def kill(self) -> None:
        """What was written stays; what it would have written at its end does not come."""
        tracker = self.reporter._tracker
        if tracker is not None:
            tracker.finish()


def life(layout: Layout, ledger: Ledger, *, killed: bool = False) -> None:
    one = Life(layout, ledger)
    one.tell()
    one.kill() if killed else one.end()


class Shown:
    """What TensorBoard makes of the event files: what its page is drawn from, and for scalars its older reader too."""

    def __init__(self, layout: Layout, run: str = "nightschool") -> None:
        from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

        folder = str(layout.runs / run)
        self._page = plugin_event_accumulator.EventAccumulator(folder, tensor_size_guidance={"scalars": 0, "text": 0})
        self._page.Reload()
        self._older = event_accumulator.EventAccumulator(folder, size_guidance={"scalars": 0})
        self._older.Reload()

    def _tensors(self, tag: str) -> list[tuple[int, Any]]:
        from tensorboard.util.tensor_util import make_ndarray

        if tag not in self._page.Tags()["tensors"]:
            return []
        return [(event.step, make_ndarray(event.tensor_proto)) for event in self._page.Tensors(tag)]

    def scalars(self, tag: str) -> list[tuple[int, float]]:
        found = [(step, float(value)) for step, value in self._tensors(tag)]
        known = tag in self._older.Tags()["scalars"]
        assert found == ([(event.step, event.value) for event in self._older.Scalars(tag)] if known else [])
        return found

    def texts(self, tag: str) -> list[tuple[int, str]]:
        return [(step, value.item().decode()) for step, value in self._tensors(f"{tag}/text_summary")]


def problems(layout: Layout, ledger: Ledger) -> list[str]:
    """What is wrong with the curve: each step of the ledger is to be there once, in order, with its values."""
    shown, found = Shown(layout), []
    rows = ledger.steps.range(1, 10_000)
    wanted: dict[str, list[float]] = {
        "train/loss": [row.loss for row in rows],
        "train/learning_rate": [row.learning_rate for row in rows],
        "train/grad_norm": [row.grad_norm for row in rows],
        "train/tokens_per_second": [row.tokens / row.seconds for row in rows],
    }
    for tag, values in wanted.items():
        have = shown.scalars(tag)
        if [step for step, _ in have] != [row.step for row in rows]:
            found.append(f"{tag}: steps {[step for step, _ in have]}")
        elif [value for _, value in have] != pytest.approx(values, rel=1e-6):
            found.append(f"{tag}: values")
    return found


def cut(ledger: Ledger, kept: int, step: int, then: int) -> None:
    """Go back to `step` in one of the first `kept` entries, and train on file `then` after them."""
    rows = ledger.entries.all()[:kept]
    rows[-1] = replace(rows[-1], stop=step - 10 * (kept - 1))
    new = replace(rows[-1], parts=((then, f"d{then}", 10),), start=0, stop=10)
    with ledger.transaction():
        ledger.steps.delete_after(step)
        ledger.entries.replace_all([*rows, new])
        ledger.holdouts.delete_from(kept - 1)


def test_one_curve_over_files_and_restarts(layout: Layout, ledger: Ledger) -> None:
    for first, last in ((1, 4), (5, 10), (11, 11), (12, 20)):
        train(ledger, first, last)
        life(layout, ledger)
    assert problems(layout, ledger) == []
    assert Shown(layout).scalars("train/loss") == [(step, pytest.approx(loss_of(step))) for step in range(1, 21)]
    assert len(list((layout.runs / "nightschool").glob("events*"))) == 4


def test_files_are_marked_at_their_first_steps_and_what_they_taught_at_first_and_last(
    layout: Layout, ledger: Ledger
) -> None:
    one = Life(layout, ledger)
    ledger.holdouts.record([HoldoutRow(0, 1, 5, 30, 2.0, None)])
    train(ledger, 1, 10)
    one.tell()
    assert Shown(layout).scalars("holdout/after") == []
    # Measured a good while after the last step was recorded, and with nothing behind it.
    ledger.holdouts.record([HoldoutRow(0, 1, 5, 30, 2.0, 1.5)])
    one.tell()
    ledger.holdouts.record([HoldoutRow(1, 2, 5, 30, 3.0, None)])
    train(ledger, 11, 20)
    one.tell()
    # The next file begins: what the one before it has taught is told first, though no look came in between.
    ledger.holdouts.record([HoldoutRow(1, 2, 5, 30, 3.0, 2.5)])
    ledger.entries.append([(3, "d3", 10)], made.RECIPE, 10)
    train(ledger, 21, 22)
    one.tell()
    one.end()
    shown = Shown(layout)
    assert shown.scalars("file/number") == [(1, 1.0), (11, 2.0), (21, 3.0)]
    assert shown.texts("file/name") == [(1, "1.jsonl"), (11, "2.jsonl"), (21, "3.jsonl")]
    assert shown.scalars("holdout/before") == [(1, 2.0), (11, 3.0)]
    assert shown.scalars("holdout/after") == [(10, 1.5), (20, 2.5)]
    assert problems(layout, ledger) == []


def test_a_file_whose_first_steps_have_no_rows_is_marked_at_the_first_that_has(layout: Layout, ledger: Ledger) -> None:
    """So it is with what was taken over from a Trainer, which logs now and then."""
    ledger.steps.record([StepRow(step, 0, 1.0, 1e-3, float("nan"), 0, 0, float("nan"), "") for step in (5, 10)])
    train(ledger, 11, 12)
    life(layout, ledger)
    shown = Shown(layout)
    assert shown.scalars("file/number") == [(5, 1.0), (11, 2.0)]
    assert [step for step, _ in shown.scalars("train/loss")] == [5, 10, 11, 12]
    assert [step for step, _ in shown.scalars("train/grad_norm")] == [11, 12]


@pytest.mark.parametrize("seconds", [0.0, tracking.SAVE_SECONDS])
def test_a_tracker_that_is_killed_tells_nothing_twice(layout: Layout, ledger: Ledger, seconds: float) -> None:
    """Its cursor is written now and then only: what lies behind it is purged and told again."""
    ledger.holdouts.record([HoldoutRow(0, 1, 5, 30, 2.0, 1.5)])
    for first, last in ((1, 4), (5, 10), (11, 13), (14, 20)):
        one = Life(layout, ledger)
        one.tell()
        train(ledger, first, last)
        one.now += seconds
        one.tell()
        one.kill()
    life(layout, ledger)
    assert problems(layout, ledger) == []
    assert Shown(layout).scalars("holdout/after") == [(10, 1.5)]
    assert Shown(layout).scalars("file/number") == [(1, 1.0), (11, 2.0)]


def test_control_a_forgotten_cursor_without_a_purge_is_seen_as_duplicates(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.tracking import TensorBoardTracker

    train(ledger, 1, 8)
    life(layout, ledger)
    (layout.cursors / "tensorboard.json").unlink()
    life(layout, ledger)
    assert problems(layout, ledger) == []  # everything was purged, and told again
    (layout.cursors / "tensorboard.json").unlink()

    def without(run: str, folder: Path, purge_step: int) -> TensorBoardTracker:
        return TensorBoardTracker(run, folder)

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", without)
    life(layout, ledger)
    found = problems(layout, ledger)
    assert len(found) == len(SERIES)
    assert "[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]" in found[0]


def test_after_a_crash_of_the_trainer_the_steps_that_come_again_are_not_told_again(
    layout: Layout, ledger: Ledger
) -> None:
    one = Life(layout, ledger)
    train(ledger, 1, 17)
    one.tell()
    ledger.steps.delete_after(8)  # as `resume.repair` does, to the newest checkpoint
    one.tell()
    train(ledger, 9, 14)
    one.tell()
    train(ledger, 15, 20)
    one.tell()
    one.end()
    assert problems(layout, ledger) == []
    assert len(list((layout.runs / "nightschool").glob("events*"))) == 1


@pytest.mark.parametrize("while_it_runs", [True, False])
@pytest.mark.parametrize("step", [14, 20])
def test_after_a_rollback_the_later_steps_are_the_new_ones(
    layout: Layout, ledger: Ledger, step: int, while_it_runs: bool
) -> None:
    ledger.entries.append([(3, "d3", 10)], made.RECIPE, 10)
    ledger.holdouts.record([HoldoutRow(at, at + 1, 5, 30, 2.0 + at, 1.0 + at) for at in (0, 1)])
    train(ledger, 1, 26)
    one = Life(layout, ledger)
    one.tell()
    if not while_it_runs:
        one.end()
        one = Life(layout, ledger)
    cut(ledger, 2, step, then=4)
    one.tell()
    # Also while nothing new is trained, what was taken back is no longer shown.
    assert problems(layout, ledger) == []
    train(ledger, step + 1, step + 8, history=100)
    ledger.holdouts.record([HoldoutRow(1, 2, 5, 30, 3.0, 7.0)])
    one.tell()
    one.end()
    assert problems(layout, ledger) == []
    shown = Shown(layout)
    assert shown.scalars("train/loss")[step:] == [
        (at, pytest.approx(loss_of(at, 100))) for at in range(step + 1, step + 9)
    ]
    assert shown.scalars("file/number") == [(1, 1.0), (11, 2.0), (step + 1, 3.0)]
    assert [name for _, name in shown.texts("file/name")] == ["1.jsonl", "2.jsonl", "4.jsonl"]
    assert shown.scalars("holdout/after") == [(10, 1.0), (step, 7.0)]


def test_a_rollback_as_people_ask_for_it_and_its_undoing(layout: Layout, tmp_path: Path) -> None:
    layout = made.workspace(tmp_path / "another")
    for step in (14, 40):
        made.checkpoint(layout, step)
    with Ledger.open(layout.ledger) as ledger:
        one = Life(layout, ledger)
        one.tell()
        for word, step, files in (("14", 14, 2), ("undo", 40, 4)):
            assert acts.go_back(layout, word, later="shelve", waiting=lambda *_: None).then == step
            one.tell()
            assert one.reporter.cursor.step == step
            assert problems(layout, ledger) == []
            assert len(Shown(layout).texts("file/name")) == files
        one.end()


@pytest.mark.parametrize("told", [0, 9])
def test_a_cut_while_rows_are_told_is_seen(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, told: int
) -> None:
    """Rows that were read before it are not taken for those of the new history, though a file began just then."""
    train(ledger, 1, 20)
    one = Life(layout, ledger)
    one.tell()
    ledger.entries.append([(3, "d3", 10)], made.RECIPE, 10)
    train(ledger, 21, 30)
    real, left = one.reporter._book.span_of, [told]

    def span_of(step: int) -> Any:
        left[0] -= 1
        if left[0] == -1:
            cut(ledger, 2, 14, then=4)
            ledger.entries.append([(3, "d3", 10)], made.RECIPE, 10)
            train(ledger, 15, 34, history=100)
        return real(step)

    monkeypatch.setattr(one.reporter._book, "span_of", span_of)
    one.tell()
    one.tell()  # a second later
    one.end()
    assert problems(layout, ledger) == []


def test_control_a_cut_that_nobody_tells_of_is_seen(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(ledger, 1, 20)
    one = Life(layout, ledger)
    one.tell()
    monkeypatch.setattr("nightschool.training.cursor.common", lambda cursor, spans: cursor.step)
    cut(ledger, 2, 14, then=4)
    train(ledger, 15, 24, history=100)
    one.tell()
    one.end()
    assert "train/loss: values" in problems(layout, ledger)


def test_a_clock_that_was_set_back_changes_nothing(layout: Layout, ledger: Ledger) -> None:
    """TensorBoard reads event files in the order of their names, and those begin with the time."""
    train(ledger, 1, 20)
    life(layout, ledger)
    (before,) = (layout.runs / "nightschool").glob("events*")
    before.rename(before.with_name(before.name.replace(before.name.split(".")[3], "4000000000")))
    cut(ledger, 2, 14, then=4)
    train(ledger, 15, 18, history=100)
    life(layout, ledger)
    assert problems(layout, ledger) == []


def test_control_in_the_order_of_such_names_the_old_steps_are_seen(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "in_order", lambda folder, now: None)
    with pytest.raises(AssertionError):
        test_a_clock_that_was_set_back_changes_nothing(layout, ledger)


class Broken:
    """A tracker whose server is away for the first so many attempts."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.told: list[tuple[int, dict[str, Any]]] = []
        self.opened: list[str] = []

    def open(self, name: str, layout: Layout, project: str, cursor: Any) -> tuple[Any, Any]:
        if self.left:
            self.left -= 1
            raise ConnectionError("nobody answers")
        self.opened.append(cursor.title)
        return self, replace(cursor, id=cursor.title)

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.left:
            self.left -= 1
            raise TimeoutError
        self.told.append((step, values))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append((0, values))

    def finish(self) -> None:
        pass


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Broken]:
    def make(times: int) -> Broken:
        found = Broken(times)
        monkeypatch.setattr(destinations, "open_tracker", found.open)
        return found

    return make


def test_a_tracker_that_is_away_is_told_everything_later_and_that_is_said_once(
    layout: Layout, ledger: Ledger, broken: Callable[[int], Broken]
) -> None:
    logs.setup(layout, load_settings(layout.settings_file), "tracker")
    there = broken(4)
    one = Life(layout, ledger, "mlflow")
    train(ledger, 1, 5)
    for _ in range(3):
        one.tell()
        one.tell()  # not due: nothing is tried
        one.now += tracking.LONGEST_DELAY
    assert there.left == 1
    one.tell()
    one.now += tracking.LONGEST_DELAY
    train(ledger, 6, 12)
    one.tell()
    there.left = 1  # in the middle of it
    train(ledger, 13, 20)
    one.tell()
    one.now += tracking.LONGEST_DELAY
    one.tell()
    one.end()
    assert [step for step, _ in there.told] == list(range(21))
    said = layout.log_file.read_text()
    assert said.count("MLflow does not take the curve: nobody answers (ConnectionError).") == 1
    assert said.count("does not take the curve") == said.count("MLflow takes the curve again.") == 2
    assert there.told[1][1].keys() >= {"file/number", "train/loss"}
    assert "file/name" not in there.told[1][1]  # it takes numbers only


def test_a_tracker_that_cannot_take_back_gets_a_new_run_with_the_whole_curve(
    layout: Layout, ledger: Ledger, broken: Callable[[int], Broken]
) -> None:
    there = broken(0)
    one = Life(layout, ledger, "wandb")
    train(ledger, 1, 18)
    one.tell()
    cut(ledger, 2, 14, then=4)
    train(ledger, 15, 20, history=100)
    one.tell()
    one.end()
    Life(layout, ledger, "wandb").tell()
    first, second = there.opened
    assert second == f"{first}-2"
    assert first.startswith("my-model-")
    assert [step for step, _ in there.told] == [*range(19), *range(21)]


def test_it_ends_when_told_to_and_catches_up_first(layout: Layout, ledger: Ledger) -> None:
    stop = Stop()
    stop.set("the test")
    train(ledger, 1, 20)
    tracking.follow([Life(layout, ledger).reporter], stop)
    assert problems(layout, ledger) == []


def test_a_ledger_that_cannot_be_read_is_waited_for_and_that_is_said_once(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.setup(layout, load_settings(layout.settings_file), "tracker")
    train(ledger, 1, 20)
    stop, tries, reporter = Stop(), [0], Life(layout, ledger).reporter
    real = ledger.steps.range

    def refuse(*arguments: int) -> list[StepRow]:
        tries[0] += 1
        if tries[0] < 4:
            raise StorageError("The disk refused.")
        stop.set("the test")
        return real(*arguments)

    monkeypatch.setattr(ledger.steps, "range", refuse)
    monkeypatch.setattr(tracking, "POLL_SECONDS", 0.01)
    tracking.follow([reporter], stop)
    monkeypatch.undo()
    assert problems(layout, ledger) == []
    assert layout.log_file.read_text().count("The disk refused. The trackers wait.") == 1


def test_the_process_of_its_own_ends_with_its_lifeline(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.settings_file.write_text(made.TOML + '[trackers]\nreport_to = ["tensorboard"]\nproject = "a night/../x"\n')
    train(ledger, 1, 3)
    read, write = os.pipe()
    os.close(write)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    nice: list[int] = []
    monkeypatch.setattr(os, "nice", nice.append)
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    try:
        assert tracking.work(layout, read) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            os.close(read)
    assert nice == [19]
    assert [step for step, _ in Shown(layout, "a-night-x").scalars("train/loss")] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    trackers.check(["tensorboard"])
    monkeypatch.setattr(trackers, "_installed", lambda name: name == "tensorboard")
    with pytest.raises(SettingsError, match=r"names trackio and MLflow, .* 'nightschool\[trackio,mlflow\]'"):
        trackers.check(["tensorboard", "trackio", "mlflow"])


def test_control_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not trackers._installed("no_such_tracker")
    (tmp_path / "no_such_tracker/__init__.py").touch()
    assert trackers._installed("no_such_tracker")


def test_the_settings_are_told_as_plain_values(layout: Layout) -> None:
    settings: Settings = load_settings(layout.settings_file)
    assert all(isinstance(value, str | int | float) for value in tracking.configuration(settings).values())
