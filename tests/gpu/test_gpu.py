"""Whole machines on a real GPU: the same bits, the card given back, and a card that others use or that is too small."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import gpus, leases
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests import device, tiny
from tests.machine import whole
from tests.machine.conftest import Start
from tests.training import rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LLAMA: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16,
    "num_key_value_heads": 8, "max_position_embeddings": 2048,
}  # fmt: skip
"""Large enough that kernels divide their sums, which is where bits come to differ."""
LENGTH = 1024
DROPPING: dict[str, Any] = {**LLAMA, "attention_dropout": 0.1}
SIZES: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 3, "epochs": 3},
    "data": {"max_length": LENGTH},
    "lora": {"lora_dropout": 0.1},
    "checkpoints": {"save_steps": 9},
}
FILES = {"a.jsonl": (1000, "text"), "b.jsonl": (400, "chat"), "c.jsonl": (1200, "text")}


@dataclass(frozen=True)
class Kind:
    """A way to train: a base model, and the settings that are laid over SIZES."""

    architecture: str
    config: dict[str, Any]
    settings: dict[str, dict[str, Any]]


KINDS = {
    "lora in bfloat16": Kind("llama", DROPPING, {"training": {"gradient_checkpointing": False}}),
    "lora, checkpointing": Kind("llama", DROPPING, {"training": {"gradient_checkpointing": True}}),
    "lora, eager": Kind("llama", DROPPING, {"model": {"attn_implementation": "eager"}}),
    "full": Kind(
        "gpt2",
        {"n_embd": 768, "n_layer": 6, "n_head": 12, "n_positions": 2048, "resid_pdrop": 0.1, "embd_pdrop": 0.1,
         "attn_pdrop": 0.1},
        {"training": {"method": "full", "learning_rate": 1e-4}},
    ),
}  # fmt: skip


def workspace(root: Path, base: Path, *more: dict[str, dict[str, Any]]) -> Layout:
    sections = {name: dict(content) for name, content in SIZES.items()}
    for one in more:
        for name, content in one.items():
            sections.setdefault(name, {}).update(content)
    model = {"name": str(base), "device": device.NAME, **sections.pop("model", {})}
    return whole.workspace(root, base, model=model, **sections)


def drop(layout: Layout, *names: str) -> None:
    for seed, (name, (count, kind)) in enumerate(FILES.items()):
        if name in names:
            whole.drop(layout, name, count, seed, kind)


@cache
def card() -> str:
    """The UUID of the card that the tests train on."""
    found = leases.card(
        int(device.NAME.partition(":")[2] or 0), os.environ.get("CUDA_VISIBLE_DEVICES"), leases._cards()
    )
    assert found is not None
    return found


def on_card(pids: list[int]) -> bool:
    """Whether one of these processes is on a GPU, as the driver tells."""
    listed = gpus.query("compute-apps", "pid")
    return any(int(pid) in pids for pid in listed)


def steps(layout: Layout) -> int:
    with Ledger.open(layout.ledger) as ledger:
        row = ledger.steps.last()
    return row.step if row else 0


@pytest.mark.parametrize("kind", list(KINDS))
def test_law_1_on_a_gpu_killed_paused_and_undisturbed_end_with_the_same_bits(
    kind: str, tmp_path: Path, start: Start
) -> None:
    made = KINDS[kind]
    base = tiny.make_model(tmp_path / "base", made.architecture, **made.config)
    other = workspace(tmp_path / "undisturbed", base, made.settings, {"checkpoints": {"save_steps": 1000}})
    drop(other, *FILES)
    whole.run_undisturbed(other)
    expected = whole.outcome(other)

    layout = workspace(tmp_path / "disturbed", base, made.settings)
    drop(layout, "a.jsonl", "b.jsonl")
    first, second, third, fourth = (int(share * expected["step"]) for share in (0.2, 0.4, 0.6, 0.8))
    for step in (first, second):
        machine = start(layout, hold=step)
        machine.wait_held()
        machine.kill_everything()
    drop(layout, "c.jsonl")

    machine = start(layout, hold=third)
    machine.wait_held()
    trainer = machine.trainer()
    assert on_card([trainer])
    assert machine.during("pause", then=fourth)[0] == 0
    machine.wait_for(lambda: whole.state(layout) == "paused")
    assert not whole.alive(trainer)
    assert not on_card([trainer])
    assert third <= steps(layout) == whole.newest(layout) < fourth
    assert whole.command(layout, "resume")[0] == 0
    machine.wait_held()
    machine.kill_everything()
    whole.run_undisturbed(layout)

    assert whole.outcome(layout) == expected
    assert len(whole.events(layout, "resumed")) >= 3
    assert not whole.events(layout, "numerics")
    code, said = whole.command(layout, "verify", "--replay")
    assert code == 0, said
    record = json.loads((layout.checkpoints()[-1][1] / "nightschool.json").read_text())
    assert record["numerics"]["device"] not in ("cpu", "cuda")
    if made.architecture == "llama":
        assert record["numerics"]["dtype"] == record["numerics"]["autocast"].replace("bf16", "bfloat16") == "bfloat16"


def test_b3_control_without_its_own_randomness_on_the_card_the_bits_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dropout is drawn on the card. Where a cell does not seed it there, what was drawn before decides."""
    base = tiny.make_model(tmp_path / "base", "llama", **DROPPING)
    seed = torch.cuda.manual_seed

    def outcome(name: str, before: int) -> str:
        layout = rig.workspace(tmp_path / name, base, lora={"lora_dropout": 0.1})
        rig.add(layout, "a", rig.sequences(30, 1))
        seed(before)
        rig.run(layout)
        return rig.outcome(layout).weights

    assert outcome("one", 1) == outcome("other", 2)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda _: None)
    assert outcome("one, not seeded", 1) != outcome("other, not seeded", 2)


def test_an_idle_trainer_gives_the_card_back_and_comes_back_when_there_is_work(tmp_path: Path, start: Start) -> None:
    base = tiny.make_model(tmp_path / "base", "llama", **LLAMA)
    layout = workspace(tmp_path / "school", base, {"machine": {"unload_after": 0.1}, "training": {"epochs": 1}})
    drop(layout, "b.jsonl")
    machine = start(layout)
    trainer = machine.trainer()
    machine.wait_for(lambda: on_card([trainer]))
    machine.wait_for(lambda: whole.counts(layout) == {"learned": 1} and not whole.alive(trainer))
    assert not on_card([trainer])
    assert whole.state(layout) == "idle"
    drop(layout, "c.jsonl")
    machine.wait_for(lambda: whole.counts(layout) == {"learned": 2})
    assert machine.stop() == 0


def test_two_workspaces_take_turns_on_the_card_and_name_each_other(tmp_path: Path, start: Start) -> None:
    base = tiny.make_model(tmp_path / "base", "llama", **LLAMA)
    layouts = [workspace(tmp_path / name, base, {"training": {"epochs": 1}}) for name in ("first", "second")]
    for layout in layouts:
        drop(layout, "a.jsonl", "b.jsonl")
    machines = [start(layouts[0], "--until-idle", hold=2)]
    machines[0].wait_held()
    holder = leases.holder(card())
    assert holder is not None
    assert holder.workspace == str(layouts[0].root)
    machines.append(start(layouts[1], "--until-idle"))
    machines[1].wait_for(lambda: whole.state(layouts[1]) == "waiting for GPU")
    with Ledger.open(layouts[1].ledger) as ledger:
        assert str(layouts[0].root) in ledger.machine.get("state")["reason"]
    assert steps(layouts[1]) == 0
    machines[0].hold(None)
    for machine, layout in zip(machines, layouts, strict=True):
        assert machine.finish() == 0
        assert whole.counts(layout) == {"learned": 2}
    assert leases.holder(card()) is None


HOG = """
import sys, time, torch
kept = []
block = 1 << 30
while block >= 1 << 20:
    try:
        kept.append(torch.empty(block, dtype=torch.uint8, device=sys.argv[1]))
    except torch.OutOfMemoryError:
        block //= 2
print("full", flush=True)
time.sleep(600)
"""


@contextmanager
def hog() -> Iterator[int]:
    """Another program, which holds all of the card."""
    process = subprocess.Popen([sys.executable, "-c", HOG, device.NAME], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_f_a_card_that_others_hold_is_waited_for_and_no_file_is_blamed(tmp_path: Path, start: Start) -> None:
    base = tiny.make_model(tmp_path / "base", "llama", **LLAMA)
    layout = workspace(tmp_path / "school", base)
    drop(layout, "b.jsonl")
    with hog() as pid:
        machine = start(layout)
        reason = machine.wait_for(lambda: told_of(layout, pid))
        assert "other programs hold" in reason
        code, said = whole.command(layout, "doctor")
        assert f"process {pid}" in said, (code, said)
        assert whole.counts(layout).get("failed", 0) == 0
    machine.wait_for(lambda: whole.counts(layout) == {"learned": 1})
    assert machine.stop() == 0
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get("cell") is None, "nor were cells made smaller"


def told_of(layout: Layout, pid: int) -> str | None:
    """The machine's reason, where it names that process."""
    with Ledger.open(layout.ledger) as ledger:
        reason = (ledger.machine.get("state") or {}).get("reason", "")
    return reason if f"process {pid}" in reason else None


def test_f1_cells_that_do_not_fit_are_made_smaller_and_the_file_is_learned(tmp_path: Path) -> None:
    """By estimate a token takes a megabyte of activations here: 512 GB for all of them at once, and 1 GB for one."""
    base = tiny.make_model(tmp_path / "base", "llama", **{**LLAMA, "num_hidden_layers": 16})
    layout = workspace(
        tmp_path / "school", base,
        {"training": {"train_batch_size": 512, "micro_batch_size": 512, "epochs": 1, "gradient_checkpointing": False}},
    )  # fmt: skip
    whole.drop(layout, "large.jsonl", 10_000, 0)
    whole.run_undisturbed(layout)
    assert whole.counts(layout) == {"learned": 1}
    with Ledger.open(layout.ledger) as ledger:
        found = ledger.machine.get("cell")
    assert found["asked"] == 512 > found["size"] >= 1
    assert f"{found['size']} instead of" in whole.log(layout)


def test_a_run_of_a_gpu_waits_for_it_and_does_not_go_on_without(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.make_model(tmp_path / "base", "llama", **LLAMA)
    layout = workspace(tmp_path / "school", base, {"model": {"device": "auto"}, "training": {"epochs": 1}})
    drop(layout, "b.jsonl")
    whole.run_undisturbed(layout)
    before = steps(layout)
    drop(layout, "c.jsonl")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = start(layout)
    machine.wait_for(lambda: "no GPU is there now" in whole.log(layout))
    assert steps(layout) == before
    os.kill(machine.pid, signal.SIGTERM)
    assert machine.finish() == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    whole.run_undisturbed(layout)
    assert whole.counts(layout) == {"learned": 2}
    assert not whole.events(layout, "numerics")


def test_the_rehearsal_measures_the_card(tmp_path: Path) -> None:
    base = tiny.make_model(tmp_path / "base", "llama", **LLAMA)
    layout = workspace(tmp_path / "school", base)
    _, said = whole.command(layout, "doctor", "--rehearse")
    told = " ".join(said.split())
    assert torch.cuda.get_device_name(device.NAME) in told
    assert re.search(r"at most [\d.]+ [MG]B of [\d.]+ GB", told), said
    print(said)
