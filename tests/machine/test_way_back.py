"""Going back while a real machine trains: it saves, rests, and goes on from there by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nightschool.record import read_generation
from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole
from tests.machine.conftest import Start

pytestmark = pytest.mark.slow


def test_g2_a_rollback_and_a_forgetting_while_it_trains(tmp_path: Path, start: Start) -> None:
    base = tiny.make_model(tmp_path / "base")
    layout = whole.workspace(tmp_path / "school", base, training={"epochs": 5}, checkpoints={"save_total_limit": 90})
    for number, name in enumerate(("a", "b", "c")):
        whole.drop(layout, f"{name}.jsonl", count=40, seed=number)
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root, other.root)
    (other.inbox / "b.jsonl").unlink()

    machine = start(layout, "--until-idle", hold=9)
    machine.wait_for(lambda: whole.newest(layout) == 7)
    code, said = machine.during("rollback", "7", "--yes", then=20)
    assert code == 0, said
    assert "Waiting until the trainer has saved and ended" in said
    assert read_generation(layout) == 1
    assert [path.name for path in (layout.undone / "0").glob("checkpoint-*")]
    code, said = machine.during("forget", "b.jsonl", "--yes")
    assert code == 0, said
    assert machine.finish() == 0

    whole.run_undisturbed(other)
    assert whole.outcome(layout) == whole.outcome(other)
    assert whole.counts(layout) == {"learned": 2, "forgotten": 1}
    code, said = whole.command(layout, "verify")
    assert code == 0, said
