"""A child of a real machine that is stopped in the middle of a change of the ledger, so that nobody else can write.

The control, and other ways to hold a ledger, are in `tests/supervisor/test_holding.py`, with stand-ins for children.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool import durable
from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole
from tests.machine.conftest import Start

pytestmark = pytest.mark.slow

LIMIT = 15.0
"""Seconds: the tests' machine.hang_minutes; long enough for a start on a busy computer."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    base = tiny.make_model(tmp_path / "base")
    return whole.workspace(
        tmp_path / "school", base, training={"epochs": 100_000}, checkpoints={"save_steps": 10},
        machine={"hang_minutes": LIMIT / 60},
    )  # fmt: skip


def test_b6_b8_the_machine_ends_it_and_goes_on_by_itself(layout: Layout, start: Start) -> None:
    """Two watch over a trainer in training, its progress and its locks; which of them comes first is left open."""
    whole.drop(layout, "endless.jsonl", count=16, seed=0)
    machine = start(layout, hold=whole.NEVER)
    machine.wait_for(lambda: whole.newest(layout) >= 10)
    trainer = machine.trainer()
    machine.freeze_inside("train", trainer)
    machine.wait_for(lambda: not whole.alive(trainer))
    step = whole.newest(layout)
    assert machine.trainer() != trainer
    machine.wait_for(lambda: whole.newest(layout) > step)

    assert machine.stop() == 0
    code, said = whole.command(layout, "verify")
    assert code == 0, said


def test_b6_an_intake_worker_is_ended_too_of_which_no_progress_is_expected(layout: Layout, start: Start) -> None:
    assert whole.command(layout, "pause")[0] == 0
    whole.drop(layout, "first.jsonl", count=8, seed=0)
    machine = start(layout, hold=whole.NEVER)
    intake = machine.wait_for(lambda: durable.holder(layout.intake_lock))
    machine.wait_for(lambda: whole.state(layout) == "paused" and whole.counts(layout) == {"ready": 1})
    whole.drop(layout, "second.jsonl", count=8, seed=1)
    machine.freeze_inside("intake", intake)
    machine.wait_for(lambda: not whole.alive(intake))
    whole.drop(layout, "last.jsonl", count=8, seed=2)
    machine.wait_for(lambda: "last.jsonl is in archive" in whole.log(layout))
    assert "The intake worker kept everybody else from the ledger for" in whole.log(layout)
    assert machine.stop() == 0
