"""A trainer in this process, on prepared data written by hand: to interrupt it anywhere, a hundred times a minute."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nightschool import durable
from nightschool.intake.packing import Packed
from nightschool.intake.prepared import PreparedWriter, write_meta
from nightschool.ledger import Arrival, Ledger
from nightschool.settings import load_settings, render_default_toml
from nightschool.training.state import Digests
from nightschool.training.stopping import Stop
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests import tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3, "warmup_steps": 3},
    "data": {"max_length": 32},
    "numerics": {"threads": 1},
    "checkpoints": {"save_steps": 5},
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it to tidy up."""


def workspace(root: Path, base: Path, **changes: dict[str, Any]) -> Layout:
    """A workspace with small settings; `changes` are sections laid over them."""
    layout = Layout(root)
    layout.create()
    values: dict[str, dict[str, Any]] = {"model": {"name": str(base), "device": "cpu"}, **SETTINGS}
    for section, content in changes.items():
        values[section] = {**values.get(section, {}), **content}
    layout.settings_file.write_text(render_default_toml(values))
    Ledger.create(layout.ledger).close()
    return layout


def sequences(count: int, seed: int, longest: int = 32) -> list[Packed]:
    """Packed sequences of two or three rows with random tokens; the row numbers count through."""
    chance = random.Random(seed)
    found, row = [], 0
    for _ in range(count):
        lengths = [chance.randint(4, longest // 3) for _ in range(chance.randint(2, 3))]
        ids = np.array([chance.randrange(97, 123) for _ in range(sum(lengths))], dtype=np.int32)
        train = np.ones(len(ids), dtype=np.int8)
        train[np.cumsum([0, *lengths[:-1]])] = 0
        found.append(
            Packed(ids, train, np.array(lengths, np.int32), np.arange(row, row + len(lengths), dtype=np.int32))
        )
        row += len(lengths)
    return found


def add(layout: Layout, name: str, data: Iterable[Packed], **options: Any) -> int:
    """Put a file into the ledger as if intake had prepared it."""
    settings = load_settings(layout.settings_file)
    folder = layout.prepared / name
    folder.mkdir()
    with PreparedWriter(folder) as writer:
        for one in data:
            writer.write(one)
    write_meta(folder, {"recipe": {"v": 1, **settings.data_recipe()}, "data_digest": writer.data_digest})
    durable.seal(folder)
    with Ledger.open(layout.ledger) as ledger:
        (number,) = ledger.files.arrive([Arrival(name=name, source=f"/dropped/{name}", options=options)])
        ledger.files.archived(number, sha256=name, bytes=1, archive=f"archive/{name}")
        ledger.files.prepared_as(
            number, name, shape="text", rows_good=1, rows_bad=0, tokens=writer.tokens,
            label_tokens=writer.label_tokens, sequences=writer.sequences, data_digest=writer.data_digest,
        )  # fmt: skip
    return number


def run(layout: Layout, *, on_step: Callable[[Trainer], None] | None = None, until_idle: bool = True) -> Trainer:
    """Run a trainer until nothing waits. `on_step` is called after each step; it may raise Killed or set `stop`."""
    stop = Stop()
    lock = durable.Lock(layout.trainer_lock, "the trainer")
    lock.acquire()
    ledger = Ledger.open(layout.ledger)
    trainer = None
    try:
        trainer = Trainer(layout, load_settings(layout.settings_file), ledger, lock, stop)
        real_step, real_phase = trainer.loop.step, trainer._phase

        def step() -> Any:
            result = real_step()
            if on_step:
                on_step(trainer)
            return result

        def phase(word: str) -> None:
            real_phase(word)
            if word == "waiting" and until_idle:
                stop.set("the test has no more files")

        trainer.loop.step = step
        trainer._phase = phase
        trainer.run()
        return trainer
    finally:
        if trainer is not None:
            # A killed process writes nothing more; here at least its threads must have ended.
            if trainer.saver._thread is not None:
                trainer.saver._thread.join()
            trainer.close()
        ledger.close()
        lock.release()


def kill_at(*steps: int) -> Callable[[Trainer], None]:
    """An `on_step` that kills before the results of these steps are noted."""

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done in steps:
            raise Killed

    return on_step


def final(layout: Layout) -> tuple[int, Digests]:
    """Step and digests of the newest checkpoint, computed from its tensors, not read from its record."""
    from safetensors.torch import load_file

    from nightschool.training import state

    step, folder = layout.checkpoints()[-1]
    path = next(p for p in (folder / "adapter_model.safetensors", folder / "model.safetensors") if p.exists())
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    return step, state.digests(load_file(path), optimizer)


def make_base(folder: Path, kind: str = "llama", dropout: float = 0.0) -> Path:
    """A tiny base; `dropout` in the model itself, where the architecture has it."""
    if kind == "gpt2":
        return tiny.make_model(folder, kind, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    return tiny.make_model(folder, kind, attention_dropout=dropout)
