"""A snapshot while a real machine trains, the machine lost, and a new one made from the second place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole
from tests.machine.conftest import Start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("NIGHTSCHOOL_LONG"),
        reason="takes minutes: NIGHTSCHOOL_LONG=1 runs it; tests/training/test_restored.py has the bits without intake",
    ),
]


def test_the_machine_burns_down_and_the_run_goes_on_elsewhere(tmp_path: Path, start: Start) -> None:
    base, place = tiny.make_model(tmp_path / "base"), tmp_path / "disk"
    place.mkdir()
    layout = whole.workspace(
        tmp_path / "school", base, training={"epochs": 12}, checkpoints={"save_steps": 1000},
        snapshots={"copy_to": str(place)},
    )  # fmt: skip
    for number, name in enumerate(("a", "b")):
        whole.drop(layout, f"{name}.jsonl", count=40, seed=number)
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root, other.root)

    machine = start(layout)
    machine.wait_for(lambda: whole.told(layout).get("step", 0) > 3 and whole.counts(layout).get("training"))
    code, said = whole.command(layout, "snapshot", "--name", "in-the-middle")
    assert code == 0, said
    assert "The trainer saves a checkpoint first" in said
    machine.wait_for(lambda: (place / "snapshots" / "in-the-middle").exists())
    machine.kill_everything()
    shutil.rmtree(layout.root)

    code, said = whole.command(layout, "restore", str(place), str(tmp_path / "new"))
    assert code == 0, said
    new = Layout(tmp_path / "new")
    assert list(new.prepared.iterdir()) == []
    middle = whole.newest(new)
    assert start(new, "--until-idle").finish() == 0
    whole.run_undisturbed(other)
    assert 3 < middle < whole.newest(other)
    assert whole.outcome(new) == whole.outcome(other)
    code, said = whole.command(new, "verify", "--deep")
    assert code == 0, said
