"""What a snapshot costs: thirty nights of a gigabyte of state, beside a full copy of the folder each night.

    python -m benchmarks.snapshots [--quick] [--gigabytes G] [--nights N]

Each night the checkpoint is another one, to its last byte, as after a night of training, and the one before the last
goes, as retention lets it. Then, in turns:

    snapshot   what the machine does at 03:00, in a process of its own as there: verify every byte, link, copy the
               ledger, seal, rename; all of it synced
    copy       what people do by hand: `cp -a` of the newest checkpoint, the ledger and the settings; then synced

Beside the snapshot a training loop takes steps of some 20 ms. The stall is the time these steps took beyond what as
many quiet ones take, on top of the save that the snapshot stands on (benchmarks.checkpoint measures that one).
The bytes of a snapshot are what the disk holds for it alone once the checkpoint it stands on is gone: compared with
what the files weigh that changed since the night before.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from nightschool import curriculum, durable
from nightschool.curriculum import Entry, Part
from nightschool.ledger import Arrival, Ledger, StepRow
from nightschool.record import RECORD, Record, root_digest
from nightschool.settings import canonical
from nightschool.snapshots.holding import way_back
from nightschool.snapshots.pruning import room_of
from nightschool.snapshots.take import take
from nightschool.workspace import Layout

GOAL = 0.05
"""Seconds of stall."""
ROOT: dict[str, Any] = {"v": 1, "base": {}, "method": "lora", "seed": 42}
RECIPE = canonical({"v": 1, "data": {}, "train_batch_size": 1, "epochs": 1, "learning_rate": 1e-4})
FIRST = date(2026, 11, 1)
KEEP = 2
"""Checkpoints that are kept."""


@dataclass(frozen=True)
class Plan:
    """How many nights, of how much state.

    Attributes:
        nights: snapshots.
        gigabytes: a checkpoint: a third weights, the rest moments.
        steps: optimizer steps a night, each a row in the ledger.
        quiet: quiet steps on either side of a snapshot.
        width: of the matrices in a step: sets how long it is.
    """

    nights: int = 30
    gigabytes: float = 1.0
    steps: int = 5000
    quiet: int = 25
    width: int = 640
    threads: int = 1


FULL = Plan()
QUICK = Plan(nights=3, gigabytes=0.01, steps=50, quiet=5)


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Live through the nights; plain JSON values."""
    torch.set_num_threads(plan.threads)
    layout = _workspace(folder / "ws", plan)
    nights: list[dict[str, Any]] = []
    known: set[str] = set()
    step = _Step(plan.width)
    began, foreign = time.monotonic(), common._foreign_seconds()
    with _supervisor(layout) as snapshot:
        for night in range(plan.nights):
            _train(layout, plan, (night + 1) * plan.steps)
            os.sync()
            name = (FIRST + timedelta(days=night)).isoformat()
            turns: list[Callable[[], dict[str, Any]]] = [
                lambda name=name: _snapshot(plan, step, snapshot, name), lambda: _copy(layout, folder / "copy")
            ]  # fmt: skip
            found: dict[str, Any] = {}
            for turn in turns if night % 2 else reversed(turns):
                found |= turn()
            files = durable.read_manifest(layout.snapshots / name).files
            # All of a checkpoint's files are written anew, whatever is in them; the others count if they differ.
            new = {
                copied.sha256: copied.bytes
                for inner, copied in files.items()
                if inner.startswith("checkpoint-") or copied.sha256 not in known
            }
            known |= set(new)
            nights.append({**found, "changed_bytes": sum(new.values())})
    others = (common._foreign_seconds() - foreign) / (time.monotonic() - began)  # the child was waited for: ours
    for _, last in layout.checkpoints():
        durable.remove_tree(last)
    for night, found in enumerate(nights):
        taken = layout.snapshots / (FIRST + timedelta(days=night)).isoformat()
        manifest = (taken / durable.MANIFEST).stat().st_size
        found["snapshot_bytes"] = room_of(taken).own - manifest
        found["manifest_bytes"] = manifest
    spreads = {name: common.spread([one[name] for one in nights]) for name in nights[0]}
    ratio = common.spread([one["snapshot_seconds"] / one["copy_seconds"] for one in nights])
    bytes_ratio = common.spread([one["snapshot_bytes"] / one["changed_bytes"] for one in nights])
    return {
        "where": common.machine(), **asdict(plan), **spreads, "ratio": ratio, "bytes_ratio": bytes_ratio,
        "stall_most": max(one["stall"] for one in nights), "others_cores": round(max(0.0, others), 2),
    }  # fmt: skip


class _Step:
    """Something that takes about as long as a small training step, and computes."""

    def __init__(self, width: int) -> None:
        self._matrix = torch.randn(width, width)

    def __call__(self) -> float:
        began = time.perf_counter()
        for _ in range(4):
            torch.mm(self._matrix, self._matrix)
        return time.perf_counter() - began


def _workspace(root: Path, plan: Plan) -> Layout:
    layout = Layout(root)
    layout.create()
    layout.settings_file.write_text('[model]\nname = "base"\n', encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (layout.current_model / name).write_text("{}" * 500_000, encoding="utf-8")
    steps = plan.nights * plan.steps
    with Ledger.create(layout.ledger) as ledger, ledger.transaction():
        ledger.machine.set("root", ROOT)
        (id,) = ledger.files.arrive([Arrival("rows.jsonl", "/dropped/rows.jsonl")])
        ledger.entries.append([(id, "d", steps)], RECIPE, steps)
    return layout


def _train(layout: Layout, plan: Plan, done: int) -> None:
    """What a night leaves: step rows, a checkpoint, and one checkpoint less."""
    steps = plan.nights * plan.steps
    entries = [Entry((Part(1, "d", steps),), RECIPE, 0, steps)]
    record = Record(
        step=done, generation=0, lineage=curriculum.lineage(root_digest(ROOT), entries, done), root=ROOT,
        curriculum=curriculum.to_record(entries), numerics={}, numerics_changes=[], digests={}, file="rows.jsonl",
    )  # fmt: skip
    staged = durable.staging(layout.current_model, str(done))
    third = int(plan.gigabytes * 1e9 / 3)
    for name, size in (("adapter_model.safetensors", third), ("optimizer.pt", 2 * third)):
        with (staged / name).open("wb") as file:
            for at in range(0, size, 1 << 22):
                file.write(os.urandom(min(1 << 22, size - at)))
    (staged / "adapter_config.json").write_text("{}", encoding="utf-8")
    (staged / RECORD).write_text(json.dumps(asdict(record)), encoding="utf-8")
    durable.seal(staged)
    durable.publish(staged, layout.checkpoint(done))
    for _, old in layout.checkpoints()[:-KEEP]:
        durable.remove_tree(old)
    with Ledger.open(layout.ledger) as ledger:
        rows = [StepRow(n, 0, 2.0, 1e-4, 1.0, 1000, 900, 0.1) for n in range(done - plan.steps + 1, done + 1)]
        ledger.steps.record(rows)
        ledger.checkpoints.publish(
            step=done, generation=0, lineage=record.lineage, path=f"checkpoint-{done}", bytes_adapter=third,
            bytes_optimizer=2 * third,
        )  # fmt: skip


@contextmanager
def _supervisor(layout: Layout) -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes a snapshot for each name it is told."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.snapshots", "--child", str(layout.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=common.REPOSITORY,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
    finally:
        if child.stdin is not None:
            child.stdin.close()
        child.wait()


def _child(root: Path) -> None:
    os.nice(10)  # as the supervisor's thread
    layout = Layout(root)
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        began = time.perf_counter()
        with Ledger.open(layout.ledger) as ledger, way_back(layout, "the benchmark"):
            take(layout, ledger, name=name, kind="daily", day=date.fromisoformat(name), now=datetime.now(UTC))
        print(time.perf_counter() - began, flush=True)


def _snapshot(plan: Plan, step: _Step, child: subprocess.Popen[bytes], name: str) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    quiet = [step() for _ in range(plan.quiet)]
    child.stdin.write(f"{name}\n".encode())
    child.stdin.flush()
    beside = []
    while not select.select([child.stdout], [], [], 0)[0]:
        beside.append(step())
    said = child.stdout.readline()
    quiet += [step() for _ in range(plan.quiet)]
    usual = statistics.median(quiet)
    return {
        "snapshot_seconds": float(said), "step": usual, "steps_beside": len(beside),
        "stall": sum(beside) - len(beside) * usual,
    }  # fmt: skip


def _copy(layout: Layout, target: Path) -> dict[str, Any]:
    began = time.perf_counter()
    shutil.copytree(layout.checkpoints()[-1][1], target / "checkpoint")
    for path in (layout.ledger, layout.settings_file):
        shutil.copy2(path, target)
    unsynced = time.perf_counter() - began
    size = 0
    for path in target.rglob("*"):
        if path.is_file():
            size += path.stat().st_size
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return {"copy_seconds": seconds, "copy_seconds_unsynced": unsynced, "copy_bytes": size}


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    rows = [
        ["a snapshot, s", common.shown(result["snapshot_seconds"], 2)],
        ["a full copy, synced, s", common.shown(result["copy_seconds"], 2)],
        ["a full copy, not synced, s", common.shown(result["copy_seconds_unsynced"], 2)],
        ["snapshot / copy", common.shown(result["ratio"], 2)],
        ["stall of training beside a snapshot, s", common.shown(result["stall"])],
        ["the largest stall, s", f"{result['stall_most']:.3f}"],
        ["undisturbed step, s", common.shown(result["step"], 4)],
        ["bytes of a snapshot alone / bytes that changed", common.shown(result["bytes_ratio"])],
        ["bytes of a snapshot alone, MB", common.shown(result["snapshot_bytes"], 1, 1e-6)],
        ["bytes of a copy, MB", common.shown(result["copy_bytes"], 1, 1e-6)],
    ]
    return (
        f"{common.heading(result['where'])}\n\n{result['nights']} nights of {result['gigabytes']:g} GB: median "
        f"(quartiles); other programs used {result['others_cores']:.2f} cores. Goals: a stall of at most {GOAL} s, and "
        f"no more bytes than changed.\n\n{common.table(['', ''], rows)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write out/benchmarks/snapshots.json."""
    parser = common.parser("snapshots", "What a snapshot costs.")
    parser.add_argument("--gigabytes", type=float, help="of a checkpoint (default 1; 0.01 if quick)")
    parser.add_argument("--nights", type=int, help="how many (default 30; 3 if quick)")
    parser.add_argument("--child", type=Path, help="for itself")
    options = parser.parse_args(arguments)
    if options.child is not None:
        _child(options.child)
        return
    plan = replace(QUICK if options.quick else FULL, threads=options.threads)
    plan = replace(plan, gigabytes=options.gigabytes or plan.gigabytes, nights=options.nights or plan.nights)
    with common.scratch(options.out) as folder:
        result = measure(plan, folder)
    print(show(result))
    print(f"\nWritten to {common.write(options.out, 'snapshots', result)}.")


if __name__ == "__main__":
    main()
