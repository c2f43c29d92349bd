"""Damaged checkpoints and pauses on whole machines, through the command line: the run ends with the same bits."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests import tiny
from tests.durable.faults import files_below
from tests.machine import whole
from tests.machine.conftest import Start

pytestmark = pytest.mark.slow

FILES = {"a.jsonl": (12, 160), "b.jsonl": (12, 2), "c.jsonl": (20, 1)}
"""Name to (rows, epochs): the first takes a few hundred steps, the others a few."""


@dataclass(frozen=True)
class School:
    """A base model, a machine that has learned the first two files, and what all three come to, undisturbed."""

    base: Path
    halfway: Path
    outcome: dict[str, Any]

    def workspace(self, root: Path) -> Layout:
        return whole.workspace(root, self.base, lora={"lora_dropout": 0.1}, checkpoints={"save_steps": 200})

    def copy(self, root: Path) -> Layout:
        """The workspace that has learned the first two files."""
        shutil.copytree(self.halfway, root, symlinks=True)
        return Layout(root)


def add(layout: Layout, *names: str) -> None:
    for seed, (name, (count, epochs)) in enumerate(FILES.items()):
        if name in names:
            path = tiny.rows(layout.tmp / name, count, seed)
            assert whole.command(layout, "add", str(path), "--epochs", str(epochs))[0] == 0


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    root = tmp_path_factory.mktemp("school")
    made = School(tiny.make_model(root / "base"), root / "halfway", {})
    layout = made.workspace(root / "undisturbed")
    add(layout, "a.jsonl", "b.jsonl")
    whole.run_undisturbed(layout)
    made.halfway.mkdir()
    shutil.copytree(layout.root, made.halfway, symlinks=True, dirs_exist_ok=True)
    assert whole.command(layout, "verify")[0] == 0
    add(layout, "c.jsonl")
    whole.run_undisturbed(layout)
    return School(made.base, made.halfway, whole.outcome(layout))


def flip(path: Path) -> None:
    """Turn one bit of a file over, in its middle."""
    with path.open("r+b") as file:
        at = path.stat().st_size // 2
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_c2_one_bit_in_the_newest_checkpoint_is_found_said_and_gone_around(school: School, tmp_path: Path) -> None:
    layout = school.copy(tmp_path / "damaged")
    *_, before, newest = [path for _, path in layout.checkpoints()]
    flip(newest / "optimizer.pt")
    damaged = files_below(newest)
    code, said = whole.command(layout, "verify")
    assert code == 10
    assert f"{newest.name}: optimizer.pt has changed" in said

    add(layout, "c.jsonl")
    whole.run_undisturbed(layout)
    assert whole.outcome(layout) == school.outcome
    log = whole.log(layout)
    assert f"{newest.name} is damaged and not used: optimizer.pt has changed" in log
    assert f"Resuming from checkpoint: {before} " in log
    assert [files_below(path) for path in layout.undone.glob("*/*")] == [damaged]
    assert whole.command(layout, "verify")[0] == 0


def test_c3_with_every_checkpoint_damaged_it_stops_and_deletes_nothing(school: School, tmp_path: Path) -> None:
    layout = school.copy(tmp_path / "damaged")
    for _, path in layout.checkpoints():
        flip(path / "adapter_model.safetensors")
    add(layout, "c.jsonl")
    before = files_below(layout.current_model)
    with Ledger.open(layout.ledger) as ledger:
        rows = ledger.steps.count()
    code, said = whole.command(layout, "run", "--until-idle")
    assert code == 6
    assert "No checkpoint can be used, and training does not begin again from nothing by itself" in said
    assert files_below(layout.current_model) == before
    assert whole.counts(layout)["learned"] == 2
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.steps.count() == rows
    assert not list(layout.undone.iterdir())
    code, said = whole.command(layout, "verify")
    assert code == 10
    assert said.count("adapter_model.safetensors has changed") >= len(layout.checkpoints())

    # The advice that it gives, followed.
    newest = layout.checkpoints()[-1][1]
    shutil.copytree(Layout(school.halfway).current_model / newest.name, newest, dirs_exist_ok=True)
    whole.run_undisturbed(layout)
    assert whole.outcome(layout) == school.outcome


def test_paused_and_resumed_in_the_middle_it_ends_with_the_same_bits(
    school: School, tmp_path: Path, start: Start
) -> None:
    layout = school.workspace(tmp_path / "paused")
    add(layout, *FILES)
    machine = start(layout, "--until-idle", hold=60)
    steps = [0]
    for then in (200, None):
        machine.wait_held()
        trainer = machine.trainer()
        assert machine.during("pause", then=then)[0] == 0
        machine.wait_for(lambda: whole.state(layout) == "paused")
        assert not whole.alive(trainer), "the GPU is not free"
        told = json.loads(whole.command(layout, "status", "--json")[1])
        assert (told["state"], told["paused"], told["pid"]) == ("paused", True, machine.pid)
        assert told["step"] == told["last_checkpoint"]["step"] == whole.newest(layout)
        assert steps[-1] < told["step"] < school.outcome["step"]
        steps.append(told["step"])
        assert whole.command(layout, "resume")[0] == 0
    assert machine.finish() == 0
    with Ledger.open(layout.ledger) as ledger:
        assert [event.fields["step"] for event in ledger.events.of_kind("resumed")] == steps[1:]
    assert whole.outcome(layout) == school.outcome
