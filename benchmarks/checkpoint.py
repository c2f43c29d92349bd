"""What a save costs training: the stall of a background save over the time a blocking save of the same state takes.

    python -m benchmarks.checkpoint [--quick] [--threads N] [--gigabytes G] [--method full|lora] [--device cuda]

The real trainer in this process, with G gigabytes of state (float32 weights and AdamW's two moments). Each round:

    quiet      steps with no save in flight, before and after
    in flight  a save begins at a step boundary; steps go on until it is published. The stall is the time from its
               beginning to the end of the last step that it touched, less what as many quiet steps take: so it holds
               the copy of the state as well as the slowdown of the steps beside the writing thread
    blocking   the same save by the same code, and training waits for it: copy, digests, files, fsync, manifest,
               rename, ledger row, retention

The stall in processor time leaves out what the training thread waited for a processor: where it is much smaller than
the stall, other programs were in the way, or the writing thread kept Python's lock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from nightschool.demo import corpus
from nightschool.intake.packing import Packed
from nightschool.training.trainer import Trainer

GOAL = 0.15
LORA_LAYERS = 11


@dataclass(frozen=True)
class Plan:
    """How much state to save, how often, beside which steps.

    Attributes:
        gigabytes: weights and both moments together.
        method: full, or lora: a frozen base of 85 million parameters and an adapter of a rank to match.
        rounds: background and blocking saves.
        quiet: quiet steps on either side of a save.
        length: tokens per step: sets how long a step is.
        hidden: width of the model; its layers, or the adapter's rank, follow from the gigabytes.
    """

    gigabytes: float
    method: str = "full"
    rounds: int = 10
    quiet: int = 4
    length: int = 64
    hidden: int = 768
    threads: int = 1
    device: str = "cpu"


FULL = Plan(1.0)
QUICK = Plan(0.1, rounds=3)


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run all rounds; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    where = common.machine(plan.device)
    wanted = plan.gigabytes * 1e9 / 12
    lora = plan.method == "lora"
    # Per layer, and for LoRA per rank: four attention matrices, and three of the MLP, which is three times as wide.
    layers = LORA_LAYERS if lora else max(1, round((wanted - 2 * 259 * plan.hidden) / (13 * plan.hidden**2)))
    rank = max(1, round(wanted / (20 * plan.hidden) / layers))
    base = common.make_base(folder / "base", plan.hidden, layers)
    layout = common.workspace(
        folder / "workspace", base, plan.threads, plan.device, training={"method": plan.method, "train_batch_size": 1},
        data={"max_length": plan.length}, **({"lora": {"r": rank}} if lora else {}),
    )  # fmt: skip
    common.add_file(layout, "topics", _sequences(base, plan.length), epochs=100)
    rounds = _Rounds(plan)
    common.run_trainer(layout, rounds.turns)
    return {"benchmark": "checkpoint", "where": where, **asdict(plan), **rounds.result()}


def _sequences(base: Path, length: int) -> list[Packed]:
    from nightschool.intake.tokenise import load_tokenizer

    ids = common.byte_ids(load_tokenizer(base), "".join(corpus.topics())[: 512 * length])
    train = np.ones(length, np.int8)
    train[0] = 0
    return [
        Packed(ids[at : at + length], train, np.array([length], np.int32), np.array([at // length], np.int32))
        for at in range(0, len(ids) - length + 1, length)
    ]


class _Rounds:
    """The rounds, and what each gave."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bytes = 0
        self.first_copy = 0.0
        self.rounds: common.Rounds[dict[str, float]] = common.Rounds(plan.rounds)

    def turns(self, trainer: Trainer) -> Generator[None]:
        """The plan of the trainer: see `common.Turns`."""
        # The first save makes the buffer that all later ones use again.
        for _ in range(3):
            yield
        began = time.perf_counter()
        trainer._save("the first save of the benchmark")
        self.first_copy = time.perf_counter() - began
        trainer.saver.wait()
        self.bytes = sum(path.stat().st_size for path in trainer.layout.checkpoints()[-1][1].iterdir())
        yield
        for hand_in in self.rounds:
            hand_in((yield from self._round(trainer)))

    def _round(self, trainer: Trainer) -> Generator[None, None, dict[str, float]]:
        quiet = yield from self._quiet()
        began, used = time.perf_counter(), time.thread_time()
        trainer._save("the benchmark, in the background")
        copy = time.perf_counter() - began
        beside = 0
        while trainer.saver.busy:
            yield
            beside += 1
        spent, used = time.perf_counter() - began, time.thread_time() - used
        quiet += yield from self._quiet()
        undisturbed = statistics.median(wall for wall, _ in quiet)
        working = statistics.median(cpu for _, cpu in quiet)

        began = time.perf_counter()
        trainer._save("the benchmark, blocking")
        trainer.saver.wait()
        blocking = time.perf_counter() - began
        yield
        stall = spent - beside * undisturbed
        return {
            "step": undisturbed, "steps_beside": beside, "copy": copy, "in_flight": spent, "stall": stall,
            "blocking": blocking, "ratio": stall / blocking, "copy_ratio": copy / blocking,
            "cpu_ratio": (used - beside * working) / blocking,
            "slowdown": (spent - copy) / (beside * undisturbed) - 1,
        }  # fmt: skip

    def _quiet(self) -> Generator[None, None, list[tuple[float, float]]]:
        """Steps with nothing beside them: seconds, and processor seconds of the training thread, of each."""
        found = []
        for _ in range(self.plan.quiet):
            began, used = time.perf_counter(), time.thread_time()
            yield
            found.append((time.perf_counter() - began, time.thread_time() - used))
        return found

    def result(self) -> dict[str, Any]:
        """Spreads over the rounds, and the rounds themselves."""
        kept = self.rounds.kept
        spreads = {name: common.spread([one[name] for one in kept]) for name in kept[0]}
        counted = {"counted": self.rounds.described()}
        return {**counted, "checkpoint_bytes": self.bytes, "first_copy": self.first_copy, **spreads}


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    rows = [
        ["stall / blocking save", common.shown(result["ratio"])],
        ["of which the copy of the state", common.shown(result["copy_ratio"])],
        ["stall in processor time of the training thread / blocking save", common.shown(result["cpu_ratio"])],
        ["stall, s", common.shown(result["stall"], 2)],
        ["copy, s", common.shown(result["copy"], 3)],
        ["blocking save, s", common.shown(result["blocking"], 2)],
        ["background save, s", common.shown(result["in_flight"], 2)],
        ["undisturbed step, s", common.shown(result["step"])],
        ["steps beside a save", common.shown(result["steps_beside"], 0)],
        ["slowdown of these steps, %", common.shown(result["slowdown"], 1, 100)],
    ]
    size = result["checkpoint_bytes"] / 1e9
    return (
        f"{common.heading(result['where'])}\n\n{result['method']}, a checkpoint of {size:.2f} GB: median (quartiles) "
        f"of {common.told(result['counted'])} Goal for the first line: at most {GOAL}. The very first copy, which "
        f"also makes the buffer, took {result['first_copy']:.2f} s.\n\n{common.table(['', ''], rows)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write out/benchmarks/checkpoint.json."""
    parser = common.parser("checkpoint", "What a save costs training.", device=True)
    parser.add_argument("--gigabytes", type=float, help="weights and both moments (default 1; 0.1 if quick)")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    options = parser.parse_args(arguments)
    plan = replace(
        QUICK if options.quick else FULL, threads=options.threads, method=options.method, device=options.device
    )
    plan = replace(plan, gigabytes=options.gigabytes or plan.gigabytes)
    common.quiet_libraries()
    with common.scratch(options.out) as folder:
        result = measure(plan, folder)
    print(show(result))
    print(f"\nWritten to {common.write(options.out, 'checkpoint', result)}.")


if __name__ == "__main__":
    main()
