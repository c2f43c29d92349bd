"""One continuous run against the ways people train on file after file, on the same text with the same steps.

    python -m benchmarks.continuity [--quick] [--threads N] [--lora] [--plot]

Python's documentation (`pydoc_data.topics`) arrives as eight files. Four recipes, from the same weights:

    resume          Trainer.train(resume_from_checkpoint=newest) once per file, as people do it
    reset           a new Trainer per file: the weights go on, the optimizer begins again, constant rate
    reset, linear   the same with the Trainer's default schedule, a linear decay within each file
    nightschool     the real trainer: weights, moments and schedule go on

All have the same peak rate, no warm-up, AdamW, batches of the same sequences in the same order, and clipping at 1; the
Trainer is transformers' own. So `reset` and `nightschool` take equal steps until the second file, which is checked.
Full training from random weights, or with --lora an adapter on a base that was trained on source code first. The
hold-out is every tenth passage of the text, the same for all, and never trained on. Several seeds change the random
weights, or the adapter's, and the order of the batches.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from nightschool import curriculum
from nightschool.demo import base as demo
from nightschool.demo import corpus
from nightschool.intake.packing import Packed
from nightschool.ledger import Ledger
from nightschool.record import entries_of
from nightschool.settings import load_settings
from nightschool.training import model
from nightschool.training.trainer import Trainer

RECIPES = ("resume", "reset", "reset, linear", "nightschool")
HOLD_OUT = 10
"""Every so many-th passage is held out."""
EQUAL = 0.01
"""Losses of equal training in two programs may differ by this much, in nats."""
EDGE = 5
"""Steps whose mean loss stands for the loss before or after a boundary."""


@dataclass(frozen=True)
class Plan:
    """What to train.

    Attributes:
        method: full (from random weights) or lora (on a base trained for `base_steps` steps).
        files: number of files the text is cut into.
        length, batch: tokens per sequence, sequences per step.
        rate: peak learning rate, the same for all recipes.
        seeds: runs of each recipe.
        hidden: width of the model.
        passages: of the text, None for all.
    """

    method: str = "full"
    files: int = 8
    length: int = 256
    batch: int = 8
    rate: float = 1e-3
    seeds: int = 3
    hidden: int = demo.HIDDEN
    base_steps: int = 300
    passages: int | None = None
    threads: int = 1


FULL = Plan()
QUICK = Plan(files=4, seeds=1, length=128, passages=240)
LORA_RATE = 5e-3
LORA = {"r": 32, "lora_alpha": 32}


@dataclass
class Run:
    """What one recipe did: steps and losses of each file, and the hold-out loss after each."""

    losses: list[list[float]]
    hold_out: list[float]


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Train every recipe with every seed; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    where = common.machine()
    by_recipe: dict[str, list[Run]] = {name: [] for name in RECIPES}
    base = folder / "base"
    if plan.method == "lora":
        demo.build(base, plan.base_steps, plan.threads)
    for seed in range(plan.seeds):
        if plan.method == "full":
            base = common.make_base(folder / f"base-{seed}", plan.hidden, 2, seed)
        text = _Text(plan, folder / f"seed-{seed}", seed, base)
        runs = {"nightschool": _nightschool(text)}
        for name in RECIPES[:3]:
            runs[name] = _per_file(text, name)
        _check_equal_start(runs)
        for name in RECIPES:
            by_recipe[name].append(runs[name])
    return {
        "benchmark": "continuity", "where": where, **asdict(plan),
        "recipes": {name: _summary(runs) for name, runs in by_recipe.items()},
    }  # fmt: skip


class _Text:
    """What all recipes of one seed share: text, base model, settings, order."""

    def __init__(self, plan: Plan, folder: Path, seed: int, base: Path) -> None:
        self.plan = plan
        self.folder = folder
        tokenizer = demo.make_tokenizer()
        passages = corpus.passages()[: plan.passages]
        kept = [text for number, text in enumerate(passages) if number % HOLD_OUT]
        edges = [round(len(kept) * number / plan.files) for number in range(plan.files + 1)]
        self.files = [_sequences(tokenizer, kept[a:b], plan.length) for a, b in pairwise(edges)]
        held = _sequences(tokenizer, passages[::HOLD_OUT], plan.length)
        self.held = torch.from_numpy(np.stack([one.ids for one in held]).astype(np.int64))
        self.layout = common.workspace(
            folder / "workspace", base, plan.threads,
            training={
                "method": plan.method, "seed": seed, "train_batch_size": plan.batch, "micro_batch_size": plan.batch,
                "learning_rate": plan.rate, "lr_scheduler_type": "constant", "warmup_steps": 0,
            },
            data={"max_length": plan.length}, lora=LORA,
        )  # fmt: skip
        for number, sequences in enumerate(self.files):
            common.add_file(self.layout, f"{number + 1}.jsonl", sequences)
        self.settings = load_settings(self.layout.settings_file)
        self.entries: list[curriculum.Entry] = []

    def in_order(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """The rows of each file, for a Trainer, in the order in which nightschool went through them."""
        for entry, sequences in zip(self.entries, self.files, strict=True):
            order = curriculum.order(self.settings.training.seed, entry.data_digest, 0, len(sequences))
            rows = [torch.from_numpy(sequences[number].ids.astype(np.int64)) for number in order]
            yield [{"input_ids": row, "labels": row} for row in rows]

    def build(self) -> model.Built:
        """The model as nightschool builds it: the same weights, and the same new adapter."""
        return model.build(self.settings, {"dtype": "float32", "seed": self.settings.training.seed}, "cpu")

    @torch.no_grad()
    def hold_out(self, trained: Any) -> float:
        """Mean loss on the hold-out, in nats per byte."""
        was = trained.training
        trained.eval()
        total = sum(
            len(rows) * trained(input_ids=rows, labels=rows, use_cache=False).loss.item()
            for rows in self.held.split(16)
        )
        trained.train(was)
        return total / len(self.held)


def _sequences(tokenizer: Any, passages: Sequence[str], length: int) -> list[Packed]:
    """The passages one after the other, cut into pieces of `length` tokens; what is left at the end is dropped."""
    ids = np.concatenate([np.append(common.byte_ids(tokenizer, text), np.int32(common.EOS)) for text in passages])
    train = np.ones(length, np.int8)
    train[0] = 0
    return [
        Packed(ids[at : at + length], train, np.array([length], np.int32), np.array([at // length], np.int32))
        for at in range(0, len(ids) - length + 1, length)
    ]


def _nightschool(text: _Text) -> Run:
    run = Run([[] for _ in text.files], [])

    def turns(trainer: Trainer) -> Generator[None]:
        for sequences in text.files:
            for _ in range(-(-len(sequences) // text.plan.batch)):
                yield
            run.hold_out.append(text.hold_out(trainer.loop.built.model))

    common.run_trainer(text.layout, turns)
    with Ledger.open(text.layout.ledger) as ledger:
        text.entries = entries_of(ledger)
        for page in ledger.steps.losses():
            for row in page:
                run.losses[row.entry].append(row.loss)
    return run


def _per_file(text: _Text, recipe: str) -> Run:
    """One `train()` of a new transformers Trainer per file."""
    from transformers import PrinterCallback, TrainingArguments, default_data_collator
    from transformers import Trainer as Rival
    from transformers.trainer_utils import get_last_checkpoint

    output = text.folder / recipe.replace(", ", "-")
    plan, run = text.plan, Run([], [])
    trained = text.build().model
    for rows in text.in_order():
        if recipe == "resume":
            # A script that is started for each file begins with the base model, and loads the checkpoint over it.
            trained = text.build().model
        seen = _losses_of()
        arguments = TrainingArguments(
            output_dir=str(output), per_device_train_batch_size=plan.batch, num_train_epochs=1,
            learning_rate=plan.rate, lr_scheduler_type="constant" if recipe == "reset" else "linear", warmup_steps=0,
            optim="adamw_torch", weight_decay=0.0, max_grad_norm=1.0, train_sampling_strategy="sequential",
            save_strategy="epoch" if recipe == "resume" else "no", save_total_limit=2, logging_strategy="steps",
            logging_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
            seed=text.settings.training.seed,
        )  # fmt: skip
        rival = Rival(
            model=trained, args=arguments, train_dataset=rows,  # pyright: ignore[reportArgumentType]
            data_collator=default_data_collator, callbacks=[seen],
        )  # fmt: skip
        rival.remove_callback(PrinterCallback)
        newest = get_last_checkpoint(str(output)) if output.is_dir() else None
        rival.train(resume_from_checkpoint=newest)
        run.losses.append(seen.losses)
        run.hold_out.append(text.hold_out(rival.model))
    return run


def _losses_of() -> Any:
    """A callback that keeps the loss of every step in its `losses`."""
    from transformers import TrainerCallback

    class Losses(TrainerCallback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(logs["loss"])

    return Losses()


def _check_equal_start(runs: dict[str, Run]) -> None:
    """Up to the first boundary two recipes are the same training; if their losses differ, something else does too."""
    ours, theirs = runs["nightschool"].losses[0], runs["reset"].losses[0]
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if apart > EQUAL:
        raise RuntimeError(
            f"nightschool and the Trainer differ by {apart:.3g} nats on the first file already, where both do the "
            "same: this run compares something else than what happens at the end of a file."
        )


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    """One recipe over all seeds."""

    def edges(take: Callable[[list[float]], list[float]], files: list[list[float]]) -> list[float | None]:
        return [statistics.fmean(take(losses)) if losses else None for losses in files]

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    last = [edges(lambda losses: losses[-EDGE:], run.losses) for run in runs]
    first = [edges(lambda losses: losses[:EDGE], run.losses) for run in runs]
    return {
        "steps": [len(losses) for losses in runs[0].losses],
        "total_steps": sum(len(losses) for losses in runs[0].losses),
        "hold_out": common.spread([run.hold_out[-1] for run in runs]),
        "hold_out_after_file": [statistics.fmean(values) for values in zip(*(r.hold_out for r in runs), strict=True)],
        "loss_at_start": [mean(values) for values in zip(*first, strict=True)],
        "loss_at_end": [mean(values) for values in zip(*last, strict=True)],
        "losses": [
            [statistics.fmean(step) for step in zip(*files, strict=True)]
            for files in zip(*(run.losses for run in runs), strict=True)
        ],
    }


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    recipes = result["recipes"]
    head = ["recipe", "steps on each file", "steps", "hold-out loss: median (quartiles)", "more than nightschool"]
    rows = []
    for name, one in recipes.items():
        pairs = zip(one["hold_out"]["values"], recipes["nightschool"]["hold_out"]["values"], strict=True)
        more = "" if name == "nightschool" else common.shown(common.spread([theirs - ours for theirs, ours in pairs]))
        steps = " ".join(map(str, one["steps"]))
        rows.append([name, steps, str(one["total_steps"]), common.shown(one["hold_out"]), more])
    edges = []
    for number in range(1, result["files"]):
        line = [f"{number} → {number + 1}"]
        for one in recipes.values():
            before, after = one["loss_at_end"][number - 1], one["loss_at_start"][number]
            line.append(" → ".join("none" if value is None else f"{value:.2f}" for value in (before, after)))
        edges.append(line)
    held = [
        [str(number + 1), *(f"{one['hold_out_after_file'][number]:.3f}" for one in recipes.values())]
        for number in range(result["files"])
    ]
    what = "from random weights" if result["method"] == "full" else "an adapter on a trained base"
    return (
        f"{common.heading(result['where'])}\n\n{result['method']} ({what}), {result['files']} files, peak rate "
        f"{result['rate']:g}, {result['seeds']} seeds. Losses in nats per byte; the last column seed by "
        f"seed.\n\n{common.table(head, rows)}\n\n"
        f"Mean training loss of the {EDGE} steps before and after each boundary (the text changes there too):\n\n"
        f"{common.table(['files', *recipes], edges)}\n\n"
        f"Hold-out loss after each file, mean of the seeds:\n\n{common.table(['after file', *recipes], held)}"
    )


LOOK = {
    "resume": ("#c77d0a", ":", "resume_from_checkpoint, per file"),
    "reset, linear": ("#d1495b", "--", "new optimizer per file, linear decay"),
    "reset": ("#8f6bb3", "-.", "new optimizer per file, constant rate"),
    "nightschool": ("#23976f", "-", "nightschool"),
}
GREY = "#7d828a"
"""In the middle between black and white: it can be read on a light page and on a dark one."""


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the hold-out loss after each file, and the training loss, on a transparent ground."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    recipes, files = result["recipes"], result["files"]
    style: dict[Any, Any] = {
        "font.size": 12, "axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
        "text.color": GREY, "axes.spines.top": False, "axes.spines.right": False, "axes.titlecolor": GREY,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1.25, 1), layout="constrained")
        edges = [0]
        for steps in recipes["nightschool"]["steps"]:
            edges.append(edges[-1] + steps)
        for edge in edges[1:-1]:
            left.axvline(edge, color=GREY, linewidth=0.6, alpha=0.5)
        for name, (colour, line, label) in LOOK.items():
            one = recipes[name]
            look = {"color": colour, "linestyle": line, "linewidth": 2.4 if name == "nightschool" else 1.8}
            for at, losses in zip(edges, one["losses"], strict=False):
                # A curve per file: what a recipe leaves out stays a gap.
                marker = "." if len(losses) < 3 else None
                left.plot(range(at + 1, at + len(losses) + 1), _smooth(losses), marker=marker, **look)
            held = one["hold_out_after_file"]
            right.plot(range(1, files + 1), held, marker="o", markersize=4, label=label, **look)
            right.annotate(
                f"{held[-1]:.2f}", (files, held[-1]), (7, 0), textcoords="offset points", va="center", color=colour
            )  # fmt: skip
        left.set(xlabel="step", ylabel="training loss, nats per byte")
        left.set_title("Training; thin lines are the ends of files", fontsize=12, loc="left")
        right.set(xlabel="files learned", ylabel="hold-out loss, nats per byte", xticks=range(1, files + 1))
        right.set_title("On text that was never trained on", fontsize=12, loc="left")
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=10.5, labelcolor="linecolor")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, transparent=True)
        pyplot.close(figure)


def _smooth(losses: Sequence[float], reach: int = 2) -> list[float]:
    """The mean of each step and its neighbours in the same file."""
    return [statistics.fmean(losses[max(0, at - reach) : at + reach + 1]) for at in range(len(losses))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print, write out/benchmarks/continuity.json and draw continuity.png."""
    parser = common.parser("continuity", "One continuous run against per-file recipes.")
    parser.add_argument("--lora", action="store_true", help="an adapter on a trained base, not full training")
    parser.add_argument("--rate", type=float, help=f"peak learning rate (default {FULL.rate:g}; LoRA {LORA_RATE:g})")
    parser.add_argument("--seeds", type=int, help=f"runs of each recipe (default {FULL.seeds}; 1 if quick)")
    parser.add_argument("--plot", type=Path, help="where to draw (default: beside the JSON)")
    options = parser.parse_args(arguments)
    plan = replace(QUICK if options.quick else FULL, threads=options.threads)
    if options.lora:
        plan = replace(plan, method="lora", rate=LORA_RATE, base_steps=60 if options.quick else plan.base_steps)
    plan = replace(plan, rate=options.rate or plan.rate, seeds=options.seeds or plan.seeds)
    common.quiet_libraries()
    with common.scratch(options.out) as folder:
        result = measure(plan, folder)
    print(show(result))
    name = "continuity-lora" if options.lora else "continuity"
    drawing = options.plot or options.out / f"{name}.png"
    print(f"\nWritten to {common.write(options.out, name, result)}.")
    plot(result, drawing)
    print(f"Drawn in {drawing}.")


if __name__ == "__main__":
    main()
