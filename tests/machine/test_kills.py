"""Law 1 on whole machines: files dropped, everything killed again and again, and the same bits at the end."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable, verify
from nightschool.intake import worker
from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.supervisor.run import Commands, run
from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole
from tests.machine.conftest import Start
from tests.machine.whole import Machine

ROUNDS = int(os.environ.get("NIGHTSCHOOL_KILL_ROUNDS") or 50)
"""Lives that are ended in the run of the first kind; the second has two fifths as many."""
COLD = 25
"""One life in so many is started cold, as by a user; the others, and their children, are forked."""
FILES = {"a.jsonl": (60, "text"), "b.jsonl": (60, "chat"), "c.jsonl": (90, "pair"), "d.jsonl": (30, "text")}
MOMENTS = ("intake", "step", "save", "step", "loading", "save", "intake", "step", "start", "step")
WAYS = ("all", "all", "supervisor", "all", "trainer", "stop", "all")
SAVE_STEPS = 3


@dataclass(frozen=True)
class Kind:
    """A way to train; dropout wherever the model has it, so that randomness has to be the same too."""

    architecture: str
    config: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    rounds: int = ROUNDS


KINDS = {
    "lora, RMSNorm": Kind(
        "llama",
        {"attention_dropout": 0.1},
        {"training": {"method": "lora"}, "lora": {"lora_dropout": 0.1}},
    ),
    "full, LayerNorm": Kind(
        "gpt2",
        {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
        {"training": {"method": "full"}},
        ROUNDS * 2 // 5,
    ),
}


@dataclass(frozen=True)
class Case:
    """A kind, its base model, and what it comes to when nothing disturbs it."""

    kind: Kind
    base: Path
    undisturbed: Layout
    outcome: dict[str, Any]
    ends: list[int]

    def workspace(self, root: Path, save_steps: int = SAVE_STEPS) -> Layout:
        # Most lives go on for a checkpoint, so the run has to be long enough for all of them.
        training = {"epochs": 1 + self.kind.rounds // 20, **self.kind.settings["training"]}
        settings = {**self.kind.settings, "training": training}
        return whole.workspace(root, self.base, **settings, checkpoints={"save_steps": save_steps})


def drop(layout: Layout, number: int) -> None:
    name, (count, kind) = list(FILES.items())[number]
    whole.drop(layout, name, count, number, kind)


def make_case(root: Path, kind: Kind) -> Case:
    base = tiny.make_model(root / "base", kind.architecture, **kind.config)
    case = Case(kind, base, Layout(root / "undisturbed"), {}, [])
    layout = case.workspace(case.undisturbed.root, save_steps=1000)
    for number in range(len(FILES)):
        drop(layout, number)
    # One is started cold, as by a user, and what was killed again and again is compared with that.
    whole.run_undisturbed(layout, cold=kind.rounds == ROUNDS)
    with Ledger.open(layout.ledger) as ledger:
        steps = [entry.steps_total for entry in ledger.entries.all()]
    ends = [sum(steps[: number + 1]) for number in range(len(steps))]
    return Case(kind, base, layout, whole.outcome(layout), ends)


class Killer:
    """Rounds of starting a machine, waiting for a moment, and ending it."""

    def __init__(self, case: Case, layout: Layout, start: Start, chance: random.Random) -> None:
        self.case = case
        self.layout = layout
        self.start = start
        self.chance = chance
        self.dropped = 0
        self.found: Counter[str] = Counter()

    def drop_next(self, count: int = 1) -> None:
        for number in range(self.dropped, min(self.dropped + count, len(FILES))):
            drop(self.layout, number)
            self.dropped += 1

    def round(self, number: int) -> None:
        """Live one life of the machine."""
        moment, way = MOMENTS[number % len(MOMENTS)], WAYS[number % len(WAYS)]
        if moment != "step" and way in ("trainer", "stop"):
            way = "all"
        if moment == "save":
            way = "all"
        if moment == "intake":
            self.drop_next(2 if number == 0 else 1)
        cold = number % COLD == COLD // 2
        machine = self.start(self.layout, cold=cold)
        last = self.case.ends[self.dropped - 1]
        step = self.case.ends[-1] * (number + 1) // (self.case.kind.rounds + 1)
        self.wait_for(machine, moment, min(last - 1, step), 5.0 if cold else 1.0)
        self.end(machine, way)
        self.found[f"{moment}: {way}"] += 1
        self.found["save left unfinished"] += bool(self.unfinished())

    def wait_for(self, machine: Machine, moment: str, step: int, slowness: float) -> None:
        sleep = self.chance.uniform
        if moment == "start":
            time.sleep(sleep(0.0, 0.3 * slowness))
        elif moment == "loading":
            machine.wait_for(lambda: whole.told(self.layout).get("pid") in machine.others() or self.at_the_end())
            time.sleep(sleep(0.0, 0.3 * slowness))
        elif moment == "intake":
            # Reading the libraries takes the longest; then come tokens, and the trainer begins.
            machine.wait_for(lambda: sum(whole.counts(self.layout).values()) == self.dropped)
            time.sleep(sleep(0.0, 1.2 * slowness))
        else:
            before = max(whole.newest(self.layout), step - SAVE_STEPS)
            machine.wait_for(lambda: whole.newest(self.layout) > before or self.at_the_end(), 0.0)
            if moment == "save":
                others = self.unfinished()
                machine.wait_for(lambda: self.unfinished() - others or self.at_the_end(), 0.0)
            else:
                time.sleep(sleep(0.0, 0.1))

    def unfinished(self) -> set[str]:
        """Checkpoints that are being written, or were when it was killed."""
        return {path.name for path in self.layout.current_model.glob(".tmp-*") if path.is_dir()}

    def at_the_end(self) -> bool:
        """Whether there is nothing more to train on."""
        return whole.counts(self.layout) == {"learned": self.dropped}

    def end(self, machine: Machine, way: str) -> None:
        if way == "stop":
            # With nothing to wait for it may not have come as far as hearing the signal.
            machine.wait_for(lambda: durable.holder(self.layout.supervisor_lock) == machine.pid)
            assert machine.stop() == 0
        elif way == "supervisor":
            machine.kill_group()
        elif way == "trainer" and not self.at_the_end():
            resumes = len(whole.events(self.layout, "resumed"))
            os.kill(machine.trainer(), signal.SIGKILL)
            # Killed after its last step, it has nothing to come back for.
            machine.wait_for(lambda: len(whole.events(self.layout, "resumed")) > resumes or self.at_the_end())
            machine.kill_everything()
        else:
            machine.kill_everything()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a9_b3_b8_b10_killed_again_and_again_the_weights_are_the_same(tmp_path: Path, start: Start, kind: str) -> None:
    case = make_case(tmp_path, KINDS[kind])
    layout = case.workspace(tmp_path / "killed")
    rounds = case.kind.rounds
    killer = Killer(case, layout, start, random.Random(f"{kind} {rounds}"))
    for number in range(rounds):
        killer.round(number)
    killer.drop_next(len(FILES))
    whole.run_undisturbed(layout)

    assert whole.outcome(layout) == case.outcome
    assert whole.counts(layout) == {"learned": len(FILES)}
    assert verify.report(layout).good
    for kind_of_trouble in ("checkpoint-damaged", "checkpoint-foreign", "numerics"):
        assert not whole.events(layout, kind_of_trouble)
    for name in FILES:
        (archived,) = layout.archive.rglob(name)
        (other,) = case.undisturbed.archive.rglob(name)
        assert archived.read_bytes() == other.read_bytes()
    print(killer.found)
    assert len(whole.events(layout, "resumed")) >= rounds // 3, f"the kills missed the training: {killer.found}"
    if rounds >= 20:
        assert killer.found["save left unfinished"], f"the kills missed the saves: {killer.found}"


def test_b7_the_end_of_the_whole_machine_is_not_counted_against_the_file_that_was_read(tmp_path: Path) -> None:
    """A power cut while a file is read is not one more crash because of it."""
    layout = whole.workspace(tmp_path / "school", tmp_path / "base")
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set(worker.ATTEMPTS, {"running": 1, "files": {"1": [worker.TRIES, 0]}})
        nothing = [sys.executable, "-c", ""]
        assert run(layout, load_settings(layout.settings_file), True, commands=Commands(nothing, nothing)) == 0
        assert ledger.machine.get(worker.ATTEMPTS) == {"running": None, "files": {"1": [worker.TRIES - 1, 1]}}


@pytest.mark.slow
def test_files_arriving_one_by_one_make_the_same_run_as_all_at_once(tmp_path: Path, start: Start) -> None:
    case = make_case(tmp_path, replace(KINDS["lora, RMSNorm"], rounds=0))
    layout = case.workspace(tmp_path / "apart", save_steps=1000)
    machine = start(layout)
    for number in range(len(FILES)):
        drop(layout, number)
        machine.wait_for(lambda done=number + 1: whole.counts(layout).get("learned", 0) == done)
    assert machine.stop() == 0
    assert whole.outcome(layout) == case.outcome
