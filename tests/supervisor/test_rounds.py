"""A command is obeyed as soon as it is in the ledger, and a ledger that is written to all the time costs little."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightschool.settings import load_settings
from nightschool.supervisor import rounds
from nightschool.supervisor import run as supervisor
from nightschool.supervisor.rounds import Rounds
from nightschool.supervisor.run import Commands
from nightschool.supervisor.signals import StopSignals
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, child_command, drop, events, log_text

LONG = 30.0


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.sleeps = 0
        monkeypatch.setattr(rounds.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(rounds.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds


def write(ledger: Path) -> None:
    ledger.write_bytes(b"x")
    os.utime(ledger, ns=(0, ledger.stat().st_mtime_ns + 10**9))  # whatever the file system's clock is like


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"")
    return path


def test_a_write_ends_the_wait(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    assert waiting.changed()
    assert not waiting.changed()
    began = clock.now

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.sleeps == 3:
            write(ledger)

    monkeypatch.setattr(rounds.time, "sleep", sleep)
    waiting.wait(LONG)
    assert clock.sleeps == 3
    assert clock.now - began < LONG / 2
    assert waiting.changed(), "the round that follows looks at it"


def test_control_without_a_write_it_waits_for_all_of_the_time(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    waiting.changed()
    waiting.wait(0.2)
    assert clock.now == pytest.approx(100.2)


def test_a_ledger_that_is_not_there_is_no_news(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    ledger.unlink()
    assert not waiting.changed()
    waiting.wait(0.2)
    assert clock.now == pytest.approx(100.2)


@pytest.mark.parametrize(("round_seconds", "longest"), [(0.001, 0.05), (0.01, 0.13), (0.5, 1.0)])
def test_rounds_of_a_busy_ledger_take_a_small_part_of_a_core(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, round_seconds: float, longest: float
) -> None:
    """Of each second at most a tenth, however often it is written to; but never later than the round was due."""
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    for _ in range(5):
        waiting.changed()
        clock.now += round_seconds
        write(ledger)
        before = clock.now
        waiting.wait(1.0)
        assert clock.now - before >= min(1.0, 10 * round_seconds) - 1e-9
        assert clock.now - before <= longest + 1e-9


def test_it_sleeps_once_even_if_the_round_is_due(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    Rounds(ledger).wait(0.0)
    assert clock.sleeps == 1


def test_a_write_that_nobody_asks_about_ends_one_wait(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the run is coming to its end nobody does: it must not go round and round beside the last save."""
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    waiting.changed()
    write(ledger)
    waiting.wait(0.2)
    assert clock.now < 100.2
    before = clock.now
    waiting.wait(0.2)
    assert clock.now - before == pytest.approx(0.2)
    write(ledger)
    before = clock.now
    waiting.wait(0.2)
    assert clock.now - before < 0.2, "control: a further one ends a further wait"
    assert waiting.changed()


@pytest.mark.parametrize(("late", "counts"), [(3600.0, True), (1.0, False)])
def test_time_in_which_the_process_was_stopped_is_counted(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, late: float, counts: bool
) -> None:
    """A computer that is busy for a second stops nobody."""
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    waiting.wait(0.2)
    assert waiting.stopped == 0
    monkeypatch.setattr(rounds.time, "sleep", lambda seconds: clock.sleep(seconds + late))
    waiting.wait(0.2)
    assert waiting.stopped == pytest.approx(late if counts else 0)


@pytest.mark.parametrize(("seconds", "stopped"), [(59, 0), (3660, 3600)])
def test_time_in_which_it_was_stopped_in_the_middle_of_a_round_counts_too(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, stopped: float
) -> None:
    clock = Clock(monkeypatch)
    waiting = Rounds(ledger)
    clock.now += seconds
    assert waiting.stopped == pytest.approx(stopped), "also for who looks later in the same round"
    waiting.wait(0.2)
    assert waiting.stopped == pytest.approx(stopped)
    waiting.wait(0.2)
    assert waiting.stopped == pytest.approx(stopped), "once"


@pytest.mark.parametrize("late", [3600.0, 4.0])
def test_b6_a_trainer_is_not_ended_for_time_in_which_nothing_ran(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    """As in a container that was paused for an hour. Control: the same time in rounds that are merely slow counts.

    Only sleeping moves the clock: a busy computer is no part of it.
    """
    layout.settings_file.write_text(TOML + "[machine]\nhang_minutes = 0.5\n")
    ahead, signals, after = 0.0, StopSignals(), 0

    def sleep(seconds: float) -> None:
        nonlocal ahead, after
        time.sleep(seconds)
        ahead += seconds
        if events(layout, "sleeper.started"):
            ahead += late if after < 30 and (late < 5 or not after) else 0.0
            after += 1
            signals.stop = signals.stop or after >= 60

    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: ahead, sleep=sleep))
    drop(layout, "a.jsonl")
    children = Commands(child_command(layout, "sleeper"), child_command(layout, "intake"))
    supervisor.run(
        layout, load_settings(layout.settings_file), commands=children, signals=signals,
        clock=lambda: ahead, tick_seconds=0.02,
    )  # fmt: skip
    assert ahead >= 2 * 60
    assert ("made no progress" in log_text(layout)) is (late < 5)
