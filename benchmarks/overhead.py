"""What nightschool's own work costs: useful tokens per second over a bare PyTorch loop and over Hugging Face's Trainer.

    python -m benchmarks.overhead [--quick] [--threads N] [--device cuda]

In one process, on the same base model with the same LoRA, these take turns of about a second each, over and over:

    nightschool   the real trainer: cells from Arrow, seeds, loss, clipping, AdamW, step rows into the ledger with all
                  their fsyncs (each turn ends with a flush, which counts), deterministic kernels; no save in a turn
    bare          a loop over the very same packed batches, collated beforehand: the model's forward, cross entropy,
                  backward, clipping, AdamW, nothing else; deterministic kernels off
    bare again    a second, equal bare loop: how far two equal things come out equal here
    Trainer       transformers' Trainer on the same rows, padded as DataCollatorForLanguageModeling does by default

Useful tokens are label tokens: padding and each row's first token are none. nightschool is compared, round by round,
with the mean of the two bare turns between which it runs; the table has the median and the quartiles of the rounds in
which other programs left the machine alone.

On a GPU the models are larger, and all four compute in bfloat16 with gradient checkpointing, as is usual there.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import common
from nightschool import curriculum
from nightschool.demo import corpus
from nightschool.intake import packing
from nightschool.intake.tokenise import Encoded
from nightschool.settings import load_settings
from nightschool.training import batch, model
from nightschool.training.data import EntryData
from nightschool.training.trainer import Trainer

NAMES = ("bare", "nightschool", "bare again", "Trainer")
GOAL = 0.97


@dataclass(frozen=True)
class Case:
    """One size of model and batch.

    Attributes:
        name: for the table.
        hidden, layers: size of the base model.
        length: tokens per sequence.
        cells: passes through the model per step (gradient accumulation).
        per_cell: sequences per pass.
        steps: steps per turn.
    """

    name: str
    hidden: int
    layers: int
    length: int
    cells: int
    per_cell: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """What to measure, how often, with how many threads."""

    cases: tuple[Case, ...]
    rounds: int
    threads: int = 1
    passages: int | None = None
    device: str = "cpu"


CASES = (
    Case("20 ms", hidden=128, layers=2, length=256, cells=1, per_cell=1, steps=50),
    Case("200 ms", hidden=256, layers=4, length=256, cells=1, per_cell=2, steps=8),
    Case("8 cells of 20 ms", hidden=128, layers=2, length=256, cells=8, per_cell=1, steps=7),
)
ON_GPU = (
    Case("0.1 B, 4 x 1024", hidden=1024, layers=8, length=1024, cells=1, per_cell=4, steps=20),
    Case("0.9 B, 4 x 1024", hidden=2048, layers=16, length=1024, cells=1, per_cell=4, steps=6),
    Case("0.9 B, 4 cells of 4 x 1024", hidden=2048, layers=16, length=1024, cells=4, per_cell=4, steps=2),
)
FULL = Plan(CASES, rounds=30)
QUICK = Plan(tuple(replace(case, steps=max(2, case.steps // 5)) for case in CASES), rounds=3)


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run every case; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    where = common.machine(plan.device)
    cases = [_measure(case, plan, folder / f"case-{number}") for number, case in enumerate(plan.cases)]
    return {"benchmark": "overhead", "where": where, "cases": cases}


def _measure(case: Case, plan: Plan, folder: Path) -> dict[str, Any]:
    base = common.make_base(folder / "base", case.hidden, case.layers)
    batch_size = case.cells * case.per_cell
    layout = common.workspace(
        folder / "workspace", base, plan.threads, plan.device,
        training={"train_batch_size": batch_size, "micro_batch_size": case.per_cell},
        data={"max_length": case.length},
    )  # fmt: skip
    rows = _rows(base, case.length, plan.passages)
    sequences = packing.sequences(rows, case.length, packing=True)
    needed = (3 * plan.rounds + 2) * case.steps * batch_size
    common.add_file(layout, "topics", sequences, epochs=1 + needed // len(sequences))

    settings = load_settings(layout.settings_file)
    dtype = model.resolve_dtype("auto", "lora", plan.device)
    recipe = {"dtype": dtype, "seed": settings.training.seed}
    bare, again, other = (model.build(settings, recipe, plan.device) for _ in range(3))
    first, second = (_Bare(one.model, plan.device, dtype) for one in (bare, again))
    contest = _Contest(case, plan, first, second, _Rival(case, other, rows, folder))
    common.run_trainer(layout, contest.turns)
    return contest.result()


def _rows(base: Path, length: int, passages: int | None) -> list[Encoded]:
    """The passages as token rows of at most `length`, so that both trainers see the very same rows."""
    from nightschool.intake.tokenise import load_tokenizer

    tokenizer = load_tokenizer(base)
    rows: list[Encoded] = []
    for text in corpus.passages()[:passages]:
        ids = np.append(common.byte_ids(tokenizer, text), np.int32(common.EOS))
        for start in range(0, len(ids), length):
            part = ids[start : start + length]
            if len(part) > 1:
                rows.append(Encoded(len(rows) + 1, "text", part, np.ones(len(part), np.int8)))
    return rows


class _Bare:
    """The least that trains: batches ready in memory, one forward, one loss, one update."""

    def __init__(self, peft_model: Any, device: str, dtype: str) -> None:
        self.model = peft_model
        self._device = device
        self._half = dtype == "bfloat16"
        self.parameters = [p for p in peft_model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0)

    def run(self, steps: Sequence[Sequence[batch.Batch]]) -> None:
        for cells in steps:
            for one in cells:
                with torch.autocast(self._device.partition(":")[0], torch.bfloat16, enabled=self._half):
                    logits = self.model(input_ids=one.input_ids, position_ids=one.position_ids, use_cache=False).logits
                    loss = F.cross_entropy(logits.flatten(0, 1), one.labels.flatten(), ignore_index=batch.IGNORED)
                (loss / len(cells)).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        common.settle(self._device)


class _Rival:
    """transformers' Trainer on the unpacked rows; one `train()` per turn, timed from its first step's end on."""

    def __init__(self, case: Case, built: Any, rows: Sequence[Encoded], folder: Path) -> None:
        import transformers
        from transformers import DataCollatorForLanguageModeling, TrainerCallback, TrainingArguments

        self._rows = [{"input_ids": row.ids.tolist()} for row in rows]
        self._labels: list[int] = []
        self._clock: list[tuple[float, float]] = []
        self._pass = case.cells
        collate = DataCollatorForLanguageModeling(built.tokenizer, mlm=False)
        rival = self

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                common.settle(str(built.device))
                rival._clock.append((time.perf_counter(), time.process_time()))

        def collate_and_count(features: list[dict[str, list[int]]]) -> dict[str, Any]:
            rival._labels.append(sum(len(feature["input_ids"]) - 1 for feature in features))
            return collate(features)

        arguments = TrainingArguments(
            output_dir=str(folder / "rival"), per_device_train_batch_size=case.per_cell,
            gradient_accumulation_steps=case.cells, max_steps=case.steps + 1, learning_rate=1e-4,
            use_cpu=built.device.type == "cpu", bf16=built.dtype == "bfloat16",
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            remove_unused_columns=False, dataloader_pin_memory=False,
        )  # fmt: skip
        self._trainer = transformers.Trainer(
            model=built.model, args=arguments, data_collator=collate_and_count, callbacks=[Clock()],
            processing_class=built.tokenizer, train_dataset=self._rows,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        self._trainer.remove_callback(transformers.PrinterCallback)

    def run(self, number: int) -> _Turn:
        """The steps after the first."""
        rows = list(self._rows)
        random.Random(number).shuffle(rows)
        self._trainer.train_dataset = rows  # pyright: ignore[reportAttributeAccessIssue]
        self._labels, self._clock = [], []
        self._trainer.train()
        (wall, cpu), (wall_end, cpu_end) = self._clock[0], self._clock[-1]
        # Loaded in the order of training, and a batch ahead: only those of the timed steps count.
        labels = self._labels[self._pass : self._pass * len(self._clock)]
        return _Turn(wall_end - wall, cpu_end - cpu, sum(labels))


@dataclass(frozen=True)
class _Turn:
    """What one turn took; `cpu` is the processor time of all threads."""

    wall: float
    cpu: float
    labels: int

    @property
    def speed(self) -> float:
        """Useful tokens per second."""
        return self.labels / self.wall


class _Contest:
    """The turns of one case, and what they gave."""

    def __init__(self, case: Case, plan: Plan, bare: _Bare, again: _Bare, rival: _Rival) -> None:
        self.case = case
        self.device = plan.device
        self.bare, self.again, self.rival = bare, again, rival
        self.rounds: common.Rounds[dict[str, _Turn]] = common.Rounds(plan.rounds)

    def turns(self, trainer: Trainer) -> Generator[None]:
        """The plan of the trainer: see `common.Turns`. One round goes before all others to warm up."""
        yield from self._round(trainer)
        for hand_in in self.rounds:
            hand_in((yield from self._round(trainer)))
        torch.use_deterministic_algorithms(True)

    def _round(self, trainer: Trainer) -> Generator[None, None, dict[str, _Turn]]:
        steps = self._next(trainer)
        labels = sum(one.label_tokens for cells in steps for one in cells)
        found: dict[str, _Turn] = {}
        # Whoever comes second finds another machine than the first: the order turns round by round.
        for name in NAMES if self.rounds.done % 2 else NAMES[::-1]:
            torch.use_deterministic_algorithms(name == "nightschool")
            if name == "Trainer":
                found[name] = self.rival.run(self.rounds.done)
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            if name == "nightschool":
                for _ in steps:
                    yield
                trainer.recorder.flush()
            else:
                (self.bare if name == "bare" else self.again).run(steps)
            found[name] = _Turn(time.perf_counter() - wall, time.process_time() - cpu, labels)
        self._check_recorded(trainer, labels)
        return found

    def _check_recorded(self, trainer: Trainer, labels: int) -> None:
        """The turn trained on the batches that the bare loops get, and every step of it is in the ledger."""
        done = trainer.loop.done
        rows = trainer.ledger.steps.range(done - self.case.steps + 1, done)
        if len(rows) != self.case.steps or sum(row.label_tokens for row in rows) != labels:
            raise RuntimeError("nightschool has trained on other batches than the bare loop: nothing can be compared")

    def _next(self, trainer: Trainer) -> list[list[batch.Batch]]:
        """The batches of the steps that the trainer takes next, cell by cell."""
        if trainer.loop.next_place() is None:
            trainer._begin_next()
        place = trainer.loop.next_place()
        assert place is not None
        entry = trainer.loop.entries[place.index]
        steps = []
        with closing(EntryData(entry, trainer.prepared.open)) as data:
            for local in range(place.local, place.local + self.case.steps):
                numbers = curriculum.step_sequences(trainer.loop.seed, entry, local)
                cells: list[batch.Batch] = []
                for _, members in curriculum.cells(numbers, self.case.per_cell):
                    rows = [data.sequence(n)[:3] for n in members]
                    cells += batch.collate(rows, self.device, packed=True, pad_id=256, flatten=False)
                steps.append(cells)
        return steps

    def result(self) -> dict[str, Any]:
        """Speeds and ratios of the rounds that count."""
        kept = self.rounds.kept
        turns = [tuple(found[name] for name in NAMES) for found in kept]
        per_step = 1000 / self.case.steps
        return {
            **asdict(self.case),
            "counted": self.rounds.described(),
            "label_tokens_per_step": statistics.median(bare.labels / self.case.steps for bare, *_ in turns),
            "bare_ms_per_step": common.spread([bare.wall * per_step for bare, *_ in turns]),
            "tokens_per_second": {name: common.spread([found[name].speed for found in kept]) for name in NAMES},
            "ratios": {
                "nightschool / bare": common.spread([(a.wall + b.wall) / 2 / ours.wall for a, ours, b, _ in turns]),
                "processor time": common.spread([(a.cpu + b.cpu) / 2 / ours.cpu for a, ours, b, _ in turns]),
                "bare again / bare": common.spread([a.wall / b.wall for a, _, b, _ in turns]),
                "nightschool / Trainer": common.spread([ours.speed / rival.speed for _, ours, _, rival in turns]),
            },
        }


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    head = ["step of", "bare step, ms", "nightschool / bare", "same, processor time", "bare again / bare",
            "nightschool / Trainer"]  # fmt: skip
    rows = []
    for case in result["cases"]:
        ratios = case["ratios"]
        shown = [common.shown(ratios[name]) for name in list(ratios)[:3]]
        beside = common.shown(ratios["nightschool / Trainer"], 2)
        rows.append([case["name"], common.shown(case["bare_ms_per_step"], 1), *shown, beside])
    counted = "\n".join(f"Step of {case['name']}: {common.told(case['counted'])}" for case in result["cases"])
    return (
        f"{common.heading(result['where'])}\n\nUseful tokens per second, as ratios: median (quartiles). Goal for "
        f"nightschool / bare: at least {GOAL}.\n\n{common.table(head, rows)}\n\n{counted}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write out/benchmarks/overhead.json."""
    options = common.parser("overhead", "nightschool's steady state over a bare loop.", device=True).parse_args(
        arguments
    )
    plan = replace(QUICK if options.quick else FULL, threads=options.threads, device=options.device)
    if options.device != "cpu":
        plan = replace(plan, cases=ON_GPU)
    common.quiet_libraries()
    with common.scratch(options.out) as folder:
        result = measure(plan, folder)
    print(show(result))
    print(f"\nWritten to {common.write(options.out, 'overhead', result)}.")


if __name__ == "__main__":
    main()
