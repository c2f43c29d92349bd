"""What the benchmarks share: small models, real text as prepared data, the real trainer in this process, reports."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

# Before any Hugging Face library is imported: nothing here needs the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from nightschool import basemodel, durable
from nightschool.demo import base as demo
from nightschool.intake.packing import Packed
from nightschool.intake.prepared import PreparedWriter, write_meta
from nightschool.ledger import Arrival, Ledger
from nightschool.settings import load_settings, render_default_toml
from nightschool.training.stopping import Stop
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout

REPOSITORY = Path(__file__).parents[1]
OUT = REPOSITORY / "out" / "benchmarks"
EOS = 258
PACKAGES = ("nightschool", "torch", "transformers", "peft", "accelerate", "safetensors", "pyarrow", "numpy")
CALM = 0.1
"""Cores that other programs may use in a round that counts."""
T = TypeVar("T")


def parser(name: str, about: str, device: bool = False) -> argparse.ArgumentParser:
    """The options that every benchmark takes; with `device`, also the one to choose a GPU."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    made.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it works")
    made.add_argument("--threads", type=int, default=1, help="torch's CPU threads (default 1)")
    if device:
        made.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    made.add_argument("--out", type=Path, default=OUT, help="folder for NAME.json, and for scratch files meanwhile")
    return made


def quiet_libraries() -> None:
    """No progress bars between the figures."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A folder on the disk that `out` is on (a system's /tmp may be memory), removed afterwards."""
    folder = out / f"scratch-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_base(folder: Path, hidden: int, layers: int, seed: int = 0) -> Path:
    """Save a byte-level Llama with random weights, of the demo's shape but for its size, and return the folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = demo.make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False,
        pad_token_id=256, bos_token_id=257, eos_token_id=EOS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_ids(tokenizer: Any, text: str) -> np.ndarray:
    """A text as int32 token ids, without special tokens."""
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)


def workspace(root: Path, base: Path, threads: int, device: str = "cpu", **sections: dict[str, Any]) -> Layout:
    """A workspace that saves only when a benchmark asks, unless `sections` say otherwise."""
    layout = Layout(root)
    layout.create()
    values: dict[str, dict[str, Any]] = {
        "model": {"name": str(base), "device": device},
        "numerics": {"threads": threads},
        "checkpoints": {"save_steps": 10**9, "save_minutes": 1e6, "save_total_limit": 2},
        "inbox": {"gather_rows": 0},
    }
    for section, content in sections.items():
        values[section] = {**values.get(section, {}), **content}
    layout.settings_file.write_text(render_default_toml(values), encoding="utf-8")
    Ledger.create(layout.ledger).close()
    return layout


def add_file(layout: Layout, name: str, sequences: Iterable[Packed], **options: Any) -> None:
    """Put a file of prepared data into the queue, as intake leaves it."""
    settings = load_settings(layout.settings_file)
    folder = layout.prepared / name
    folder.mkdir()
    with PreparedWriter(folder) as writer:
        for one in sequences:
            writer.write(one)
    tokenizer = basemodel.tokenizer_digest(basemodel.resolve(settings.model.name))
    recipe = {"v": 1, "tokenizer": tokenizer, **settings.data_recipe()}
    write_meta(folder, {"recipe": recipe, "data_digest": writer.data_digest})
    durable.seal(folder)
    with Ledger.open(layout.ledger) as ledger:
        (number,) = ledger.files.arrive([Arrival(name=name, source=f"/dropped/{name}", options=options)])
        ledger.files.archived(number, sha256=name, bytes=writer.tokens, archive=f"archive/{name}")
        ledger.files.prepared_as(
            number, name, shape="text", rows_good=writer.sequences, rows_bad=0, tokens=writer.tokens,
            label_tokens=writer.label_tokens, sequences=writer.sequences, data_digest=writer.data_digest,
        )  # fmt: skip


class Turns(Stop):
    """Lets a benchmark take turns with the trainer: the trainer asks before every step whether it shall stop.

    `plan` is a generator. Each `yield` in it lets the trainer take one step; when it ends, the trainer stops.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plan: Iterator[None] = iter(())

    def is_set(self) -> bool:
        """Go on in the plan, to its next step or to its end."""
        if not super().is_set() and next(self.plan, self) is self:
            self.set("the benchmark is over")
        return super().is_set()


def run_trainer(layout: Layout, plan: Callable[[Trainer], Generator[None]]) -> None:
    """Run the real trainer, ledger and all, in this process, along a plan (see `Turns`)."""
    turns = Turns()
    lock = durable.Lock(layout.trainer_lock, "the trainer")
    lock.acquire()
    try:
        with Ledger.open(layout.ledger) as ledger:
            trainer = Trainer(layout, load_settings(layout.settings_file), ledger, lock, turns)
            try:
                # Each question whether to stop goes on in the plan, and none may be asked within a step.
                trainer.loop.interrupted = lambda: False
                turns.plan = _each_a_step(trainer, plan(trainer))
                trainer.run()
            finally:
                trainer.close()
    finally:
        lock.release()


def _each_a_step(trainer: Trainer, plan: Generator[None]) -> Iterator[None]:
    """The plan, stopped where a `yield` in it was not followed by a step."""
    for _ in plan:
        done = trainer.loop.done
        yield
        if trainer.loop.done != done + 1:
            files = [f"{row.name}: {row.state}" for row in trainer.ledger.files.each()]
            raise RuntimeError(f"the trainer took no step; its files: {', '.join(files)}")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, and the values themselves."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "low": low, "high": high, "n": len(values), "values": list(values)}


def shown(found: dict[str, Any], digits: int = 3, scale: float = 1.0) -> str:
    """A spread as `median (lower quartile–upper quartile)`."""
    low, median, high = (f"{found[key] * scale:.{digits}f}" for key in ("low", "median", "high"))
    return f"{median} ({low}–{high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)


class Rounds(Generic[T]):
    """Collects rounds until enough of them were left alone by other programs, or three times as many are done.

    Kept are the calmest, as the kernel's account of other programs' processor time says; never by what they gave.
    `used` gives the processor seconds of children that still run, so that they are not taken for others.
    """

    def __init__(self, wanted: int, used: Callable[[], float] = lambda: 0.0) -> None:
        self.wanted = wanted
        self._used = used
        self._found: list[tuple[float, T]] = []

    @property
    def done(self) -> int:
        """Rounds so far, kept or not."""
        return len(self._found)

    def __iter__(self) -> Iterator[Callable[[T], None]]:
        """For each round, a function to hand its result to."""
        while self.done < 3 * self.wanted and sum(others < CALM for others, _ in self._found) < self.wanted:
            began, used = time.monotonic(), _foreign_seconds() - self._used()
            results: list[T] = []
            yield results.append
            others = (_foreign_seconds() - self._used() - used) / max(time.monotonic() - began, 1e-9)
            self._found += [(others, result) for result in results]

    @property
    def kept(self) -> list[T]:
        """Results of the calmest rounds, in the order in which they were done."""
        limit = sorted(others for others, _ in self._found)[: self.wanted][-1]
        return [result for others, result in self._found if others <= limit][: self.wanted]

    def described(self) -> dict[str, Any]:
        """How many rounds there were, and how many cores others used in the busiest one that is kept."""
        limit = sorted(others for others, _ in self._found)[: self.wanted][-1]
        return {"rounds": len(self.kept), "rounds_done": self.done, "others_cores": round(max(0.0, limit), 2)}


def _foreign_seconds() -> float:
    """Processor seconds of other programs and of other virtual machines; not of the kernel, which works for us too."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, steal = (int(fields[at]) for at in (0, 1, 7))
    own = os.times()
    return (user + nice + steal) / os.sysconf("SC_CLK_TCK") - own.user - own.children_user


def settle(device: str) -> None:
    """Wait until a GPU has done all that it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where, when and with what something is measured; plain JSON values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "device": "cpu" if device == "cpu" else f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def heading(where: dict[str, Any]) -> str:
    """Machine, versions and date in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    card = "" if where["device"] == "cpu" else f"{where['device']} · "
    return (
        f"{where['date']} · {card}{where['processor']}, {where['cores']} cores, {where['memory_gb']} GB · "
        f"torch threads: {where['threads']}\nPython {where['python']}, SQLite {where['sqlite']}, {versions}"
    )


def told(rounds: dict[str, Any]) -> str:
    """What `Rounds.described` says, as a sentence; loud where the machine was never left alone."""
    busy = rounds["others_cores"] >= CALM
    return (
        f"{rounds['rounds']} of {rounds['rounds_done']} rounds, the calmest; other programs used up to "
        f"{rounds['others_cores']:.2f} cores in them."
        + (" THAT IS TOO MUCH: measure again when the machine is quiet." if busy else "")
    )


def write(out: Path, name: str, result: dict[str, Any]) -> Path:
    """Write the result as JSON and return its path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
