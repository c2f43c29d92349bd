"""How long one waits: from a dropped file to the first step on it, and from `pause` to a free device and a checkpoint.

    python -m benchmarks.latency [--quick] [--threads N] [--only drop|pause] [--device cuda]

Real processes throughout, and the same files for both:

    drop       `nightschool run` with an idle trainer that has its model loaded; a file is renamed into the inbox, and
               the clock runs until the trainer says that it is at it, just before the first step. The time for which
               a file has to rest is taken off and told apart: it is a setting
    per file   a process for each file with the Hugging Face Trainer, as people have it in a loop: the model loaded,
               the adapter and the last state taken up again, the rows tokenised by `datasets`; the clock runs from
               the start of the process to the beginning of its first step
    pause      `pause` in the middle of training, until the trainer has ended (the device is free then at the
               latest), over a step and a save as they take when nobody asks for anything; of an adapter on the model
               of the drops, and of a larger model that is trained whole. On a GPU both are larger, and the time until
               its memory is free is told apart: all but what CUDA itself holds there for the process
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import chats, common
from nightschool.api import Workspace
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

PATIENCE = 600.0
SETTLE = 1.0
CONTEXT = 800_000_000
"""Bytes of a GPU that CUDA itself and its libraries hold for a process, at most: a guess, not measured yet."""


@dataclass(frozen=True)
class Plan:
    """How many files of how many rows, and the model.

    Attributes:
        files: dropped one after the other, each when the one before is learned.
        rows: of one file; a thousand are about a megabyte.
        pauses: how often to pause.
        length: tokens of a row, at most: what is over is cut off, so that a file is soon learned.
        hidden, layers: size of the model.
        large_hidden, large_layers: of the one that is trained whole.
    """

    files: int = 10
    rows: int = 1000
    pauses: int = 10
    length: int = 64
    hidden: int = 128
    layers: int = 2
    large_hidden: int = 384
    large_layers: int = 6
    threads: int = 1
    device: str = "cpu"


FULL = Plan()
ON_GPU = Plan(pauses=8, length=512, hidden=1024, layers=8, large_hidden=2048, large_layers=4)
QUICK = Plan(files=2, rows=40, pauses=1, length=32, hidden=32, layers=1, large_hidden=64, large_layers=1)


def measure(plan: Plan, folder: Path, only: str | None = None) -> dict[str, Any]:
    """Measure all, or drops or pauses only; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    base = chats.make_base(folder / "base", 2000, 400_000, plan.hidden, plan.layers)
    files = [
        chats.write(folder / f"file-{number}.jsonl", plan.rows, 400_000, seed=number)
        for number in range(plan.files + 1)
    ]
    found: dict[str, Any] = {
        "plan": asdict(plan),
        "machine": common.machine(plan.device),
        "bytes": files[1].stat().st_size,
    }
    if only != "pause":
        found |= _drops(_workspace(folder / "workspace", base, plan), base, files, folder / "hf", plan)
    if only != "drop":
        large = chats.make_base(folder / "large", 2000, 400_000, plan.large_hidden, plan.large_layers)
        found["pauses"] = {
            "an adapter": _pauses(_workspace(folder / "adapter", base, plan), files, plan),
            "a whole model": _pauses(_workspace(folder / "whole", large, plan, method="full"), files, plan),
        }
    return found


def _drops(layout: Layout, base: Path, files: Sequence[Path], output: Path, plan: Plan) -> dict[str, Any]:
    """Drop files, in turns with a process for each of the Hugging Face Trainer."""
    ours: list[float] = []
    theirs: list[float] = []
    with _machine(layout) as machine:
        # The first file loads the model; nobody waits for that again.
        _drop(layout, files[0])
        for number, file in enumerate(files[1:]):
            # In turns, so that a busy minute of the computer meets both.
            theirs.append(_per_file(base, file, output, plan, number))
            _wait(lambda: _idle(layout), machine)
            ours.append(_drop(layout, file) - SETTLE)
        _wait(lambda: _idle(layout), machine)
    return {
        "settle_seconds": SETTLE, "drop": common.spread(ours), "per_file": common.spread(theirs),
        "ratio": common.spread([theirs_ / ours_ for ours_, theirs_ in zip(ours, theirs, strict=True)]),
    }  # fmt: skip


def _workspace(root: Path, base: Path, plan: Plan, method: str = "lora") -> Layout:
    return common.workspace(
        root, base, plan.threads, plan.device,
        training={"method": method, "train_batch_size": 16, "micro_batch_size": 4},
        data={"max_length": plan.length, "overflow": "truncate", "packing": False, "holdout": 0.0, "loss_on": "all"},
        inbox={"settle_seconds": SETTLE, "gather_rows": 0},
    )  # fmt: skip


@contextmanager
def _machine(layout: Layout) -> Iterator[subprocess.Popen[bytes]]:
    with (layout.root / "run.out").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nightschool", "-C", str(layout.root), "run"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def _told(layout: Layout) -> dict[str, Any]:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.all()


def _idle(layout: Layout) -> bool:
    told = _told(layout)
    state, trainer = told.get("state") or {}, told.get("trainer") or {}
    return state.get("word") == "idle" and trainer.get("phase") == "waiting"


def _wait(what: Callable[[], Any], machine: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        if machine.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the machine ended, or did not come that far; see run.out in its workspace")
        time.sleep(0.01)


def _drop(layout: Layout, file: Path) -> float:
    """Seconds from the renaming into the inbox to the first step."""
    # Not within the inbox, or the machine could know it for a copy that is whole and not let it rest at all.
    copied = layout.root / file.name
    copied.write_bytes(file.read_bytes())
    end = time.monotonic() + PATIENCE
    began = time.monotonic()
    copied.rename(layout.inbox / file.name)
    while (_told(layout).get("trainer") or {}).get("file") != file.name:
        if time.monotonic() > end:
            raise RuntimeError(f"{file.name} was never begun; see training_output.log in {layout.root}")
        time.sleep(0.01)
    return time.monotonic() - began


def _per_file(base: Path, file: Path, output: Path, plan: Plan, number: int) -> float:
    """Seconds from the start of a process with the Hugging Face Trainer to its first step on the file."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.latency_rival", str(base), str(file), str(output), str(plan.length),
         str(plan.threads), str(number)],
        capture_output=True, text=True, check=False, cwd=common.REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(output / "cache")},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the Hugging Face Trainer failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["first_step_at"] - began


def _pauses(layout: Layout, files: Sequence[Path], plan: Plan) -> dict[str, Any]:
    """Pause and go on, again and again in the middle of training."""
    seconds, words, freed = [], [], []
    card = None if plan.device == "cpu" else _Card(plan.device)
    workspace = Workspace.open(layout.root)
    for file in files:
        workspace.add(file, epochs=50)
    with _machine(layout) as machine:
        for number in range(plan.pauses):
            before = _told(layout).get("trainer", {}).get("step", 0)
            _wait(lambda before=before: _training_since(layout, before + 3), machine)
            time.sleep(0.037 * number)  # another place in the step each time
            began = time.monotonic()
            workspace.pause()
            if card is not None:
                _wait(card.free, machine)
                freed.append(time.monotonic() - began)
            _wait(lambda: not _alive(layout), machine)
            seconds.append(time.monotonic() - began)
            _wait(lambda: (_told(layout).get("state") or {}).get("word") == "paused", machine)
            words.append(time.monotonic() - began)
            workspace.resume()
        _wait(lambda: _alive(layout), machine)
    with Ledger.open(layout.ledger) as ledger:
        steps = [row.seconds for page in ledger.steps.losses() for row in page]
        saves = [row.seconds + row.stalled_seconds for row in ledger.checkpoints.listing()]
    allowed = common.spread(steps)["high"] + common.spread(saves)["high"]
    return {
        **({"freed": common.spread(freed)} if freed else {}),
        "pause": common.spread(seconds), "pause_told": common.spread(words), "step": common.spread(steps),
        "save": common.spread(saves), "pause_over_step_and_save": common.spread([one / allowed for one in seconds]),
    }  # fmt: skip


class _Card:
    """The memory of a GPU that nobody else uses, as it is before the benchmark begins."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._unused = torch.cuda.mem_get_info(device)[0]

    def free(self) -> bool:
        """Whether no more is held than a process holds that keeps no tensors there."""
        return torch.cuda.mem_get_info(self._device)[0] > self._unused - CONTEXT


def _alive(layout: Layout) -> bool:
    from nightschool import durable

    return durable.holder(layout.trainer_lock) is not None


def _training_since(layout: Layout, step: int) -> bool:
    told = _told(layout).get("trainer") or {}
    return _alive(layout) and told.get("phase") == "training" and told.get("step", 0) >= step


def show(result: dict[str, Any]) -> str:
    """The figures for people."""
    rows = []
    if "drop" in result:
        rows += [
            ("drop to first step, beyond the settle time", common.shown(result["drop"]) + " s"),
            ("start of a process per file to its first step", common.shown(result["per_file"]) + " s"),
            ("ratio", common.shown(result["ratio"], 1)),
        ]
    for what, found in result.get("pauses", {}).items():
        rows += [
            (f"{what}: pause to the trainer's end", common.shown(found["pause"]) + " s"),
            *([(f"{what}: pause to the free GPU", common.shown(found["freed"]) + " s")] if "freed" in found else []),
            (f"{what}: pause to the word `paused`", common.shown(found["pause_told"]) + " s"),
            (f"{what}: a step", common.shown(found["step"]) + " s"),
            (f"{what}: a save", common.shown(found["save"]) + " s"),
            (f"{what}: pause over a step and a save", common.shown(found["pause_over_step_and_save"])),
        ]
    return "\n".join([common.heading(result["machine"]), "", common.table(("what", "median (quartiles)"), rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = common.parser("latency", str(__doc__).partition("\n")[0], device=True)
    parser.add_argument("--only", choices=("drop", "pause"), help="measure one of the two")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and options.only != "pause":
        parser.error("drops are measured on the CPU: --device goes with --only pause")
    plan = QUICK if options.quick else FULL if options.device == "cpu" else ON_GPU
    plan = Plan(**{**asdict(plan), "threads": options.threads, "device": options.device})
    common.quiet_libraries()
    with common.scratch(options.out) as folder:
        result = measure(plan, folder, options.only)
    print(show(result))
    print(f"\nwritten to {common.write(options.out, 'latency', result)}")


if __name__ == "__main__":
    main()
