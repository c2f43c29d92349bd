"""A command is obeyed as soon as it is in the ledger, and a ledger that is written to all the time costs little."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from nightschool.supervisor import rounds
from nightschool.supervisor.rounds import Rounds

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


def test_a_write_ends_the_wait(ledger: Path) -> None:
    waiting = Rounds(ledger)
    assert waiting.changed()
    assert not waiting.changed()
    threading.Timer(0.1, write, [ledger]).start()
    began = time.monotonic()
    waiting.wait(LONG)
    assert time.monotonic() - began < LONG / 2
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
