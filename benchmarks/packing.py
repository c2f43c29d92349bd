"""What packing is worth: useful tokens per second of packed sequences over padded rows.

    python -m benchmarks.packing [--quick] [--threads N]

Rows of real text whose lengths are drawn from a heavy-tailed distribution (log-normal: many short, a few up to the
limit), as chats and documents are. The same loop, model and LoRA trains on them in two ways that take turns:

    packed    sequences of up to `max_length` tokens, each with several rows in it: one to a cell
    padded    rows by themselves, eight to a cell, each cell padded to its longest: what trainers do by default

Useful tokens are label tokens; padding is none. Both see rows in random order. The table has median and quartiles of
the rounds in which other programs left the machine alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from nightschool import curriculum
from nightschool.demo import corpus
from nightschool.intake import packing
from nightschool.intake.packing import Packed
from nightschool.intake.prepared import PreparedReader, PreparedWriter, write_meta
from nightschool.intake.tokenise import Encoded, load_tokenizer
from nightschool.settings import canonical, parse_settings
from nightschool.training import determinism
from nightschool.training.device import make_accelerator
from nightschool.training.loop import Loop

GOAL = 1.5


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        rows: rows in the data set.
        max_length: tokens in a sequence; longer rows are drawn again.
        median, sigma: of the log-normal distribution of lengths, in tokens and in natural logarithms.
        per_cell: padded rows that go through the model together.
        tokens: label tokens of one turn, about.
        rounds: how often each takes a turn.
    """

    rows: int = 3000
    max_length: int = 1024
    median: float = 90.0
    sigma: float = 1.0
    per_cell: int = 8
    tokens: int = 12_000
    rounds: int = 12
    threads: int = 1


FULL = Plan()
QUICK = replace(FULL, rows=400, tokens=2500, rounds=3)


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run the contest; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    base = common.make_base(folder / "base", hidden=128, layers=2)
    rows = _rows(plan, base)
    packed = packing.sequences(rows, plan.max_length, packing=True)
    padded = packing.sequences(rows, plan.max_length, packing=False)
    sides = {
        "packed": _side(plan, base, folder / "packed", packed, 1),
        "padded": _side(plan, base, folder / "padded", padded, plan.per_cell),
    }
    rounds: common.Rounds[dict[str, float]] = common.Rounds(plan.rounds)
    for side in sides.values():
        _turn(side, plan.tokens // 4)
    for hand_in in rounds:
        names = list(sides) if rounds.done % 2 else list(sides)[::-1]
        hand_in({name: _turn(sides[name], plan.tokens) for name in names})
    lengths = np.array([len(row.ids) for row in rows])
    return {
        "benchmark": "packing",
        "where": common.machine(),
        "counted": rounds.described(),
        "lengths": {"rows": len(rows), **{f"p{p}": int(np.percentile(lengths, p)) for p in (10, 50, 90, 99)}},
        "filled": {"packed": _filled(packed, 1), "padded": _filled(padded, plan.per_cell)},
        "tokens_per_second": {name: common.spread([found[name] for found in rounds.kept]) for name in sides},
        "ratio": common.spread([found["packed"] / found["padded"] for found in rounds.kept]),
    }


def _rows(plan: Plan, base: Path) -> list[Encoded]:
    """Rows of the corpus's text, cut to drawn lengths."""
    ids = common.byte_ids(load_tokenizer(base), "\n".join(corpus.passages()))
    chance = random.Random(1)
    rows: list[Encoded] = []
    start = 0
    while len(rows) < plan.rows:
        length = round(plan.median * np.exp(plan.sigma * chance.gauss(0, 1)))
        if not 4 <= length <= plan.max_length:
            continue
        start = start + length if start + 2 * length <= len(ids) else 0
        part = ids[start : start + length]
        train = np.ones(length, np.int8)
        train[0] = 0
        rows.append(Encoded(len(rows) + 1, "text", part, train))
    return rows


def _filled(sequences: Sequence[Packed], per_cell: int) -> float:
    """Share of the tensors that is no padding, in random order."""
    lengths = [len(one.ids) for one in sequences]
    random.Random(2).shuffle(lengths)
    cells = [lengths[at : at + per_cell] for at in range(0, len(lengths), per_cell)]
    return sum(lengths) / sum(len(cell) * max(cell) for cell in cells)


def _side(plan: Plan, base: Path, folder: Path, sequences: list[Packed], per_cell: int) -> Loop:
    """A loop over the sequences, several hundred epochs of them: more than a contest takes."""
    folder.mkdir()
    with PreparedWriter(folder) as writer:
        for one in sequences:
            writer.write(one)
    write_meta(folder, {})
    settings = parse_settings({
        "model": {"name": str(base), "device": "cpu"},
        "training": {"train_batch_size": per_cell, "micro_batch_size": per_cell, "epochs": 500},
        "numerics": {"threads": plan.threads},
    })  # fmt: skip
    determinism.configure(settings.numerics)
    root = {"dtype": "float32", "seed": 1, "optimizer": settings.training.optimizer}
    loop = Loop(settings, root, make_accelerator(settings), lambda _: PreparedReader(folder))
    recipe = canonical(settings.entry_recipe(settings.data_recipe(), {}))
    loop.entries = [curriculum.whole([curriculum.Part(1, writer.data_digest, len(sequences))], recipe)]
    return loop


def _turn(loop: Loop, tokens: int) -> float:
    """Label tokens per second over at least so many."""
    began, done = time.perf_counter(), 0
    while done < tokens:
        result = loop.step()
        assert result is not None  # nothing interrupts it
        done += result.label_tokens
    return done / (time.perf_counter() - began)


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    lengths, speeds = result["lengths"], result["tokens_per_second"]
    rows = [
        [name, f"{result['filled'][name]:.0%}", common.shown(speeds[name], 0)] for name in ("packed", "padded")
    ]  # fmt: skip
    return (
        f"{common.heading(result['where'])}\n\n{lengths['rows']} rows; lengths in tokens: a tenth under "
        f"{lengths['p10']}, half under {lengths['p50']}, nine tenths under {lengths['p90']}, 99 % under "
        f"{lengths['p99']}.\n\n{common.table(['', 'no padding', 'useful tokens/s'], rows)}\n\n"
        f"packed / padded: {common.shown(result['ratio'], 2)}. Goal: at least {GOAL}.\n\n"
        f"{common.told(result['counted'])}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write out/benchmarks/packing.json."""
    options = common.parser("packing", "Packed sequences over padded rows.").parse_args(arguments)
    plan = replace(QUICK if options.quick else FULL, threads=options.threads)
    common.quiet_libraries()
    with common.scratch(options.out) as folder:
        result = measure(plan, folder)
    print(show(result))
    print(f"\nWritten to {common.write(options.out, 'packing', result)}.")


if __name__ == "__main__":
    main()
