"""Law 1 on whole machines: files dropped, the process group killed again and again, and the same bits at the end."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole
from tests.machine.whole import Machine

ROUNDS = int(os.environ.get("NIGHTSCHOOL_KILL_ROUNDS") or 20)
FILES = {"a.jsonl": ("text", 90), "b.jsonl": ("chat", 40), "c.jsonl": ("pair", 70), "d.jsonl": ("text", 25)}
KINDS = {
    "lora, RMSNorm": (
        "llama",
        {"attention_dropout": 0.1},
        {"training": {"method": "lora"}, "lora": {"lora_dropout": 0.1}},
    ),
    "full, LayerNorm": (
        "gpt2",
        {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
        {"training": {"method": "full", "epochs": 2}, "checkpoints": {"save_steps": 11}},
    ),
}


def drop(layout: Layout) -> None:
    for seed, (name, (kind, count)) in enumerate(FILES.items()):
        tiny.rows(layout.inbox / name, count, seed, kind)


def wait_for_a_moment(machine: Machine, layout: Layout, target: int, chance: random.Random) -> None:
    """A moment in training, or now and then one in start-up, intake or a save."""
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0.0, 6.0))
        return
    machine.wait_for(lambda: whole.step(layout) >= target or machine.process.poll() is not None)
    time.sleep(chance.uniform(0.0, 0.3))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a9_b_killed_at_random_moments_the_weights_are_the_same(tmp_path: Path, kind: str) -> None:
    architecture, config, settings = KINDS[kind]
    base = tiny.make_model(tmp_path / "base", architecture, **config)
    undisturbed = whole.workspace(tmp_path / "undisturbed", base, **settings)
    drop(undisturbed)
    whole.run_undisturbed(undisturbed)
    total = whole.outcome(undisturbed)["step"]

    killed = whole.workspace(tmp_path / "killed", base, **settings)
    drop(killed)
    chance = random.Random(f"{kind} {ROUNDS}")
    kills = 0
    for number in range(ROUNDS):
        machine = Machine(killed, "--until-idle")
        wait_for_a_moment(machine, killed, total * (number + 1) // (ROUNDS + 2), chance)
        if number % 7 == 3:
            assert machine.stop() == 0
        else:
            machine.kill_group()
            kills += 1
        if number % 7 == 5:
            pause_and_go_on(killed)
    machine = Machine(killed, "--until-idle")
    assert machine.finish() == 0

    assert whole.outcome(killed) == whole.outcome(undisturbed)
    assert whole.losses(killed) == whole.losses(undisturbed)
    with Ledger.open(killed.ledger) as ledger:
        assert ledger.files.counts() == {"learned": len(FILES)}
        resumes = len(ledger.events.of_kind("resumed"))
    assert resumes >= ROUNDS // 3, f"only {resumes} resumes in {kills} kills: the kills missed the training"
    for name in FILES:
        (archived,) = killed.archive.rglob(name)
        (other,) = undisturbed.archive.rglob(name)
        assert archived.read_bytes() == other.read_bytes()


def pause_and_go_on(layout: Layout) -> None:
    """Pause a running machine, resume it, and stop it."""
    machine = Machine(layout)
    with Ledger.open(layout.ledger) as ledger:
        before = whole.step(layout)
        machine.wait_for(lambda: whole.step(layout) > before or whole.trainer(layout).get("phase") == "waiting")
        ledger.machine.set("paused", True)
        machine.wait_for(lambda: (ledger.machine.get("state") or {}).get("word") == "paused")
        ledger.machine.set("paused", False)
        machine.wait_for(lambda: (ledger.machine.get("state") or {}).get("word") != "paused")
    assert machine.stop() == 0


@pytest.mark.slow
def test_files_arriving_one_by_one_make_the_same_run_as_all_at_once(tmp_path: Path) -> None:
    base = tiny.make_model(tmp_path / "base")
    together = whole.workspace(tmp_path / "together", base, lora={"lora_dropout": 0.1})
    drop(together)
    whole.run_undisturbed(together)

    apart = whole.workspace(tmp_path / "apart", base, lora={"lora_dropout": 0.1}, checkpoints={"save_steps": 1000})
    machine = Machine(apart)
    with Ledger.open(apart.ledger) as ledger:
        for number, (name, (kind, count)) in enumerate(FILES.items()):
            # Under a name the inbox ignores, then renamed: as a careful copying program does it.
            part = tiny.rows(apart.inbox / f"{name}.part", count, number, kind)
            part.rename(apart.inbox / name)
            machine.wait_for(lambda n=number: ledger.files.counts().get("learned", 0) == n + 1)
            time.sleep(0.3)
    assert machine.stop() == 0
    assert whole.outcome(apart) == whole.outcome(together)
    assert whole.losses(apart) == whole.losses(together)
