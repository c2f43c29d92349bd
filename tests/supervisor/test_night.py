"""The snapshot of each night, with a wall clock that the test sets and a trainer that only says what it is told to."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.settings import SnapshotSettings
from nightschool.snapshots import asking, due, states
from nightschool.snapshots import take as taking
from nightschool.snapshots.holding import way_back
from nightschool.supervisor import night
from nightschool.supervisor.night import Night
from nightschool.workspace import Layout
from tests.durable.faults import failing_always
from tests.snapshots import made

TRAINER = 77


@dataclass
class Bed:
    """A machine's nights: `wall` is the clock on the wall, `seconds` the monotonic one."""

    layout: Layout
    ledger: Ledger
    settings: SnapshotSettings = field(default_factory=SnapshotSettings)
    wall: datetime = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
    seconds: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)
    trainer: int | None = None

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.night = Night(self.layout, self.settings, self.ledger, lambda: self.seconds, lambda: self.wall)

    def tick(self, seconds: float = 2.0) -> None:
        self.seconds += seconds
        self.night.tick(self.told, self.trainer)

    def until(self, *parts: int, **options: int) -> None:
        """The wall clock is set, and the night gets time to do what is to be done."""
        self.wall = datetime(*parts, tzinfo=UTC, **options)  # pyright: ignore[reportArgumentType]
        self.tick()
        self.settle()

    def settle(self) -> None:
        for part in (self.night, self.night.copying):
            if part._work is not None and part._work.thread is not None:
                part._work.thread.join(60)
                self.tick()

    @property
    def names(self) -> list[str]:
        return [one.name for one in states.snapshots(self.layout.snapshots)]

    @property
    def done(self) -> dict[date, str]:
        return due.from_row(self.ledger.machine.get(night.DONE))


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    layout = made.workspace(tmp_path / "ws")
    with Ledger.open(layout.ledger) as ledger:
        found = Bed(layout, ledger)
        found.tick()  # the first start ever
        yield found


@pytest.fixture
def saved(bed: Bed) -> Bed:
    made.checkpoint(bed.layout, 30)
    return bed


def test_a_night_has_one_snapshot_and_the_first_start_none(saved: Bed) -> None:
    assert list(saved.done.values()) == [due.FIRST]
    saved.until(2026, 11, 22, 2, 59)
    assert saved.names == []
    saved.until(2026, 11, 22, 3, 0)
    assert saved.names == ["2026-11-22"]
    for hour in range(3, 24):
        saved.until(2026, 11, 22, hour, 30)
    saved.until(2026, 11, 23, 3, 0)
    assert saved.names == ["2026-11-22", "2026-11-23"]
    assert len(made.events(saved.layout, "snapshot")) == 2


def test_d2_a_machine_that_was_off_makes_up_for_it_once(saved: Bed) -> None:
    saved.until(2026, 11, 22, 3, 0)
    saved.begin()
    saved.until(2026, 11, 27, 2, 0)
    assert saved.names == ["2026-11-22", "2026-11-26"]
    assert saved.done[date(2026, 11, 24)] == due.PASSED


def test_d5_in_a_busy_night_the_trainer_saves_at_its_next_step_and_goes_on(saved: Bed) -> None:
    saved.trainer, saved.told = TRAINER, {"pid": TRAINER, "phase": "training"}
    saved.until(2026, 11, 22, 3, 0)
    word = saved.ledger.machine.get(asking.ASKED)
    assert word is not None
    for _ in range(5):
        saved.tick()
    assert saved.night.busy
    assert saved.names == []
    assert saved.ledger.machine.get(asking.ASKED) == word
    made.checkpoint(saved.layout, 37)
    saved.told[asking.ANSWERED] = word
    saved.tick()
    saved.settle()
    assert [one.step for one in states.snapshots(saved.layout.snapshots)] == [37]
    assert not saved.night.busy


def test_a_trainer_that_is_gone_or_never_answers_is_not_waited_for_for_ever(saved: Bed) -> None:
    saved.trainer = TRAINER
    saved.until(2026, 11, 22, 3, 0)
    saved.trainer = None
    saved.until(2026, 11, 22, 3, 1)
    assert saved.names == ["2026-11-22"]
    saved.trainer = TRAINER
    saved.until(2026, 11, 23, 3, 0)
    assert saved.names == ["2026-11-22"]
    saved.tick(night.SAVE_PATIENCE)
    saved.settle()
    assert saved.names == ["2026-11-22", "2026-11-23"]


def test_an_answer_of_an_earlier_trainer_does_not_count(saved: Bed) -> None:
    saved.trainer = TRAINER
    saved.until(2026, 11, 22, 3, 0)
    saved.told = {"pid": TRAINER - 1, asking.ANSWERED: saved.ledger.machine.get(asking.ASKED)}
    saved.tick()
    saved.settle()
    assert saved.names == []


def test_where_nothing_was_learned_the_day_is_settled_with_that_reason(bed: Bed) -> None:
    bed.until(2026, 11, 22, 3, 0)
    assert bed.done[date(2026, 11, 22)] == due.NOTHING
    made.checkpoint(bed.layout, 30)
    bed.until(2026, 11, 22, 5, 0)
    assert bed.names == []
    bed.until(2026, 11, 23, 3, 0)
    assert bed.names == ["2026-11-23"]


def test_the_tick_never_waits(saved: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    go, waited = threading.Event(), list[bool]()
    real = taking.take
    monkeypatch.setattr(
        taking, "take", lambda *args, **options: (waited.append(go.wait(60)), real(*args, **options))[1]
    )
    saved.wall = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    for _ in range(20):
        saved.tick()
    assert saved.night.busy
    go.set()
    saved.settle()
    assert waited == [True], "the ticks have waited until it went on by itself"
    assert saved.names == ["2026-11-22"]


def test_retention_follows_each_snapshot_and_says_why(saved: Bed) -> None:
    saved.settings = SnapshotSettings(keep_daily=2, keep_weekly=0, keep_monthly=0)
    saved.begin()
    for day in range(22, 26):
        saved.until(2026, 11, day, 3, 0)
    assert saved.names == ["2026-11-24", "2026-11-25"]
    told = made.events(saved.layout, "snapshot-removed")
    assert told[0].startswith("Removed the snapshot 2026-11-22: older than the newest 2 days")


def test_a_full_disk_is_said_once_and_tried_again_until_there_is_room(
    saved: Bed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with durable.use(failing_always(errno.ENOSPC, ("mkdir",))):
        saved.until(2026, 11, 22, 3, 0)
        assert not saved.night.busy
        for _ in range(10):
            saved.tick(night.LONGEST_DELAY)
            saved.settle()
    (text,) = made.events(saved.layout, "snapshot-failed")
    assert text.startswith("The snapshot for 2026-11-22 could not be taken: ")
    assert "no room left" in text
    assert caplog.text.count("could not be taken") == 1
    assert "tried again in 60 s" in caplog.text
    saved.tick(night.LONGEST_DELAY)
    saved.settle()
    assert saved.names == ["2026-11-22"]


def test_what_the_ledger_did_not_take_of_it_is_told_the_next_time(saved: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    real = saved.ledger.events.add

    def busy(*_: object, **__: object) -> int:
        raise StorageError("stayed locked", errno.EBUSY)

    monkeypatch.setattr(saved.ledger.events, "add", busy)
    with durable.use(failing_always(errno.ENOSPC, ("mkdir",))):
        with pytest.raises(StorageError):
            saved.until(2026, 11, 22, 3, 0)
        monkeypatch.setattr(saved.ledger.events, "add", real)
        for _ in range(3):
            saved.tick(night.LONGEST_DELAY)
            saved.settle()
    assert len(made.events(saved.layout, "snapshot-failed")) == 1


def test_g7_while_somebody_goes_back_it_waits(saved: Bed) -> None:
    with way_back(saved.layout, "a rollback"):
        saved.until(2026, 11, 22, 3, 0)
        saved.tick(night.BUSY_DELAY)
        saved.settle()
        assert saved.names == []
    saved.tick(night.BUSY_DELAY)
    saved.settle()
    assert saved.names == ["2026-11-22"]
    assert made.events(saved.layout, "snapshot-failed") == []


def test_a_snapshot_that_was_taken_before_a_crash_could_note_it_is_not_taken_twice(saved: Bed) -> None:
    made.snapshot(saved.layout, "2026-11-22")
    saved.until(2026, 11, 22, 3, 0)
    assert saved.done[date(2026, 11, 22)] == "taken"
    assert len(made.events(saved.layout, "snapshot")) == 1


def test_a_clock_that_jumps_makes_neither_two_nor_none(saved: Bed) -> None:
    saved.until(2026, 11, 22, 3, 0)
    saved.until(2026, 11, 23, 3, 0)
    saved.until(2026, 11, 22, 1, 0)
    saved.until(2026, 11, 21, 12, 0)
    saved.until(2026, 11, 23, 12, 0)
    saved.until(2026, 11, 24, 3, 0)
    assert saved.names == ["2026-11-22", "2026-11-23", "2026-11-24"]


def test_the_end_waits_for_a_snapshot_at_work(saved: Bed) -> None:
    saved.wall = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    saved.tick()
    saved.night.end()
    assert saved.names == ["2026-11-22"]
    assert saved.done[date(2026, 11, 22)] == "taken"


def test_after_each_snapshot_the_second_place_follows(
    saved: Bed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "disk"
    saved.settings = SnapshotSettings(copy_to=str(place))
    saved.begin()
    caplog.set_level("INFO")
    saved.until(2026, 11, 22, 3, 0)
    for _ in range(5):
        saved.tick(night.LONGEST_DELAY)
        saved.settle()
    assert saved.names == ["2026-11-22"]
    assert caplog.text.count("is not there, and is not made") == 1
    assert len(made.events(saved.layout, "copy-failed")) == 1
    place.mkdir()
    saved.tick(night.LONGEST_DELAY)
    saved.settle()
    assert durable.check(place / "snapshots" / "2026-11-22") == []
    assert len(list((place / "archive").rglob("*.jsonl"))) == made.FILES
    assert "Copied 2026-11-22 and 4 archived files to" in caplog.text


NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noon for whole machines: at the hour of the snapshots another one would come to be due in the middle."""
    monkeypatch.setattr(Night.__init__, "__defaults__", (lambda: NOON,))


@pytest.mark.usefixtures("noon")
def test_a_machine_that_is_off_in_the_day_and_runs_until_idle_in_the_night(layout: Layout, settings: Any) -> None:
    """The whole supervisor: it does not end before the snapshot is taken."""
    from tests.supervisor.test_run import run

    other = made.workspace(layout.root.parent / "other")
    other.settings_file.write_text(layout.settings_file.read_text())
    with Ledger.open(other.ledger) as ledger:
        for row in list(ledger.files.each()):
            ledger.files.set_state(row.id, "learned")
        ledger.machine.set(night.DONE, due.to_row({NOON.date() - timedelta(days=9): "taken"}))
    made.checkpoint(other, 40)
    assert run(other, settings) == 0
    assert len(states.snapshots(other.snapshots)) == 1
    assert "Took the snapshot" in other.log_file.read_text()
