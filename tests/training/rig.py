"""A trainer in this process, on prepared data written by hand: to interrupt it anywhere, a hundred times a minute.

What stands for SIGKILL is the exception `Killed`: from the moment it is raised, nothing more reaches the disk through
`durable` or the ledger, on any thread, and what was not committed is gone.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nightschool import basemodel, durable
from nightschool.intake.packing import Packed
from nightschool.intake.prepared import HOLDOUT, PreparedWriter, write_meta
from nightschool.ledger import Arrival, Ledger
from nightschool.record import read_record
from nightschool.settings import Settings, load_settings, render_default_toml
from nightschool.training import loss, state
from nightschool.training.state import Digests
from nightschool.training.stopping import Stop
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests import device, tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3, "warmup_steps": 3},
    "data": {"max_length": 32},
    "numerics": {"threads": 1},
    "checkpoints": {"save_steps": 5},
    "inbox": {"gather_rows": 0},
}

Row = tuple[int, ...]
"""The token ids of one row."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it to tidy up."""


class Mortal(durable.Effects):
    """The disk of one life. Once `die` was called, every further change raises Killed.

    Args:
        before, after: called around every change as (operation, arguments); they may call `die`.
    """

    def __init__(self, before: Callable[[str, tuple], None] | None, after: Callable[[str, tuple], None] | None) -> None:
        self.operations: list[str] = []
        self.dead = False
        self.ledger: Ledger | None = None
        self._before = before
        self._after = after

    def die(self) -> None:
        """End this life here."""
        if not self.dead:
            self.dead = True
            if self.ledger is not None:
                self.ledger.close()
        raise Killed

    def _change(self, name: str, arguments: tuple) -> Any:
        if self.dead:
            raise Killed
        if self._before:
            self._before(name, arguments)
        result = getattr(durable.Effects, name)(self, *arguments)
        self.operations.append(name)
        if self._after:
            self._after(name, arguments)
        return result

    def create(self, path: Path) -> int:
        return self._change("create", (path,))

    def write(self, fd: int, data: memoryview) -> int:
        return self._change("write", (fd, data))

    def sync(self, fd: int) -> None:
        self._change("sync", (fd,))

    def mkdir(self, path: Path) -> None:
        self._change("mkdir", (path,))

    def rename(self, source: Path, target: Path) -> None:
        self._change("rename", (source, target))

    def link(self, source: Path, target: Path) -> None:
        self._change("link", (source, target))

    def symlink(self, text: str, path: Path) -> None:
        self._change("symlink", (text, path))

    def unlink(self, path: Path) -> None:
        self._change("unlink", (path,))

    def rmdir(self, path: Path) -> None:
        self._change("rmdir", (path,))


@dataclass(frozen=True)
class Outcome:
    """What a run has come to: all that law 1 speaks of. Digests are computed from the newest checkpoint's tensors."""

    step: int
    weights: str
    optimizer: str
    lineage: str
    curve: tuple[tuple[int, float, float], ...]


def workspace(root: Path, base: Path, **changes: dict[str, Any]) -> Layout:
    """A workspace with small settings; `changes` are sections laid over them."""
    layout = Layout(root)
    layout.create()
    configure(layout, base, **changes)
    Ledger.create(layout.ledger).close()
    return layout


def configure(layout: Layout, base: Path, **changes: dict[str, Any]) -> None:
    """Write the settings file anew."""
    values: dict[str, dict[str, Any]] = {"model": {"name": str(base), "device": device.NAME}, **SETTINGS}
    for section, content in changes.items():
        values[section] = {**values.get(section, {}), **content}
    layout.settings_file.write_text(render_default_toml(values))


@lru_cache(maxsize=32)
def _settings(path: Path, text: str) -> Settings:
    # Checking the keys of [lora] reads PEFT's source, which takes longer than a step.
    return load_settings(path)


def sequences(count: int, seed: int, longest: int = 32) -> list[Packed]:
    """Packed sequences of two or three rows with random tokens; the row numbers count through.

    No two rows are equal, also between different seeds: each begins with four tokens that spell the seed and its
    number.
    """
    chance = random.Random(seed)
    found, row = [], 0
    for _ in range(count):
        parts = []
        for _ in range(chance.randint(2, 3)):
            name = f"{chr(97 + seed % 26)}{row:03d}".encode()
            parts.append([*name, *(chance.randrange(97, 123) for _ in range(chance.randint(2, longest // 3 - 4)))])
            row += 1
        lengths = np.array([len(part) for part in parts], np.int32)
        train = np.ones(lengths.sum(), dtype=np.int8)
        train[np.cumsum([0, *lengths[:-1]])] = 0
        numbers = np.arange(row - len(parts), row, dtype=np.int32)
        found.append(Packed(np.concatenate(parts).astype(np.int32), train, lengths, numbers))
    return found


def rows_of(data: Iterable[Packed], epochs: int = 1) -> Counter[Row]:
    """How often each row of these sequences is to be trained on."""
    found: Counter[Row] = Counter()
    for one in data:
        for part in np.split(one.ids, np.cumsum(one.lengths)[:-1]):
            found[tuple(int(token) for token in part)] += epochs
    return found


def add(
    layout: Layout, name: str, data: Iterable[Packed], *, rows: int = 1, held: Iterable[Packed] = (), **options: Any
) -> int:
    """Put a file into the ledger as if intake had prepared it: with so many rows, some of them held out."""
    settings = _settings(layout.settings_file, layout.settings_file.read_text())
    folder = layout.prepared / name
    folder.mkdir()
    with PreparedWriter(folder) as writer:
        for one in data:
            writer.write(one)
    held = list(held)
    if held:
        with PreparedWriter(folder, HOLDOUT) as aside:
            for one in held:
                aside.write(one)
    tokenizer = basemodel.tokenizer_digest(basemodel.resolve(settings.model.name))
    recipe = {"v": 1, "tokenizer": tokenizer, **settings.data_recipe()}
    write_meta(folder, {"recipe": recipe, "data_digest": writer.data_digest})
    durable.seal(folder)
    with Ledger.open(layout.ledger) as ledger:
        (number,) = ledger.files.arrive([Arrival(name=name, source=f"/dropped/{name}", options=options)])
        ledger.files.archived(number, sha256=name, bytes=1, archive=f"archive/{name}")
        ledger.files.prepared_as(
            number, name, shape="text", rows_good=rows, rows_bad=0, tokens=writer.tokens,
            label_tokens=writer.label_tokens, sequences=writer.sequences, data_digest=writer.data_digest,
        )  # fmt: skip
    return number


def run(
    layout: Layout,
    *,
    on_start: Callable[[Trainer], None] | None = None,
    on_step: Callable[[Trainer], None] | None = None,
    before: Callable[[Mortal, str, tuple], None] | None = None,
    after: Callable[[Mortal, str, tuple], None] | None = None,
    seen: dict[int, Counter[Row]] | None = None,
    until_idle: bool = True,
) -> Trainer:
    """Live one life of a trainer, until nothing waits.

    Args:
        on_start: called when the trainer is ready, before its first step.
        on_step: called after each step's update, before it is noted anywhere; may raise Killed or set `stop`.
        before, after: called around every change to the disk as (disk, operation, arguments); may end it: `disk.die()`.
        seen: for each step, filled with the rows that went through the model in it; a step done again counts once.

    Raises:
        Killed: this life was ended.
    """
    disk = Mortal(before and (lambda *told: before(disk, *told)), after and (lambda *told: after(disk, *told)))
    stop, trainer = Stop(), None
    with ExitStack() as stack:
        stack.enter_context(durable.use(disk))
        lock = durable.Lock(layout.trainer_lock, "the trainer")
        lock.acquire()
        stack.callback(lock.release)
        ledger = disk.ledger = Ledger.open(layout.ledger)
        stack.callback(ledger.close)
        try:
            settings = _settings(layout.settings_file, layout.settings_file.read_text())
            trainer = Trainer(layout, settings, ledger, lock, stop)
            stack.callback(_end_threads, trainer)
            if seen is not None:
                stack.enter_context(_watched(trainer, seen))
            _wrap(trainer, on_step, until_idle)
            if on_start:
                on_start(trainer)
            trainer.run()
            return trainer
        except Killed:
            disk.dead = True
            ledger.close()
            raise
        except BaseException as error:
            if disk.dead:  # the saver or the recorder met the end first, each in its own words
                raise Killed from error
            raise


def _wrap(trainer: Trainer, on_step: Callable[[Trainer], None] | None, until_idle: bool) -> None:
    real_step, real_phase = trainer.loop.step, trainer._phase

    def step() -> Any:
        result = real_step()
        if on_step:
            on_step(trainer)
        return result

    def tell(phase: str) -> None:
        real_phase(phase)
        if phase == "waiting" and until_idle:
            trainer.stop.set("the test has no more files")

    trainer.loop.step = step
    trainer._phase = tell


def _end_threads(trainer: Trainer) -> None:
    if trainer.saver._thread is not None:
        trainer.saver._thread.join()
    trainer.close()


@contextmanager
def _watched(trainer: Trainer, seen: dict[int, Counter[Row]]) -> Iterator[None]:
    """Take the rows from the tensors that go through the model, not from what chose them."""
    real, real_step = loss.sum_loss, trainer.loop.step
    now: Counter[Row] = Counter()

    def sum_loss(built: Any, batch: Any, *more: Any) -> Any:
        pad = built.tokenizer.pad_token_id
        for ids, positions in zip(batch.input_ids.tolist(), batch.position_ids.tolist(), strict=True):
            starts = [at for at, position in enumerate(positions) if position == 0]
            for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
                if ids[start] != pad:
                    now[tuple(ids[start:end])] += 1
        return real(built, batch, *more)

    def step() -> Any:
        now.clear()
        result = real_step()
        seen[trainer.loop.done] = now.copy()
        return result

    trainer.loop.step = step
    loss.sum_loss = sum_loss
    try:
        yield
    finally:
        loss.sum_loss = real


def kill_at(*steps: int) -> Callable[[Trainer], None]:
    """An `on_step` that kills before the results of these steps are noted."""

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done in steps:
            raise Killed

    return on_step


def kill_saved_at(*steps: int) -> Callable[[Trainer], None]:
    """Like `kill_at`, but the save in flight, if any, has come to its end."""

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done in steps:
            trainer.saver.wait()
            raise Killed

    return on_step


def stop_saved_at(*steps: int) -> Callable[[Trainer], None]:
    """Like `stop_at`, but the save in flight, if any, has come to its end: the last one does not overtake it."""

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done in steps:
            trainer.saver.wait()
            trainer.stop.set("the test asked for it")

    return on_step


def stop_at(*steps: int) -> Callable[[Trainer], None]:
    """An `on_step` that asks the trainer to stop, as SIGTERM would."""

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done in steps:
            trainer.stop.set("the test asked for it")

    return on_step


def in_saver() -> bool:
    """Whether this runs on the thread that writes checkpoints."""
    return threading.current_thread().name == "saver"


def final(layout: Layout) -> tuple[int, Digests]:
    """Step and digests of the newest checkpoint, computed from its tensors, not read from its record."""
    from safetensors.torch import load_file

    step, folder = layout.checkpoints()[-1]
    path = next(p for p in (folder / "adapter_model.safetensors", folder / "model.safetensors") if p.exists())
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    return step, state.digests(load_file(path), optimizer)


def outcome(layout: Layout) -> Outcome:
    """What the run in this workspace has come to."""
    step, found = final(layout)
    record = read_record(layout.checkpoint(step))
    with Ledger.open(layout.ledger) as ledger:
        rows = [row for page in ledger.steps.losses() for row in page]
    curve = tuple((row.step, row.loss, row.learning_rate) for row in rows)
    return Outcome(step, found.weights, found.optimizer, record.lineage, curve)


def events(layout: Layout, kind: str) -> list[str]:
    """The texts of the ledger's events of one kind."""
    with Ledger.open(layout.ledger) as ledger:
        return [event.text for event in ledger.events.of_kind(kind)]


def states(layout: Layout) -> dict[str, str]:
    """Every file's state by its name."""
    with Ledger.open(layout.ledger) as ledger:
        return {row.name: row.state for row in ledger.files.each()}


def make_base(folder: Path, kind: str = "llama", dropout: float = 0.0) -> Path:
    """A tiny base; `dropout` in the model itself, where the architecture has it."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if kind == "gpt2":
        return tiny.make_model(folder, kind, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    return tiny.make_model(folder, kind, attention_dropout=dropout)
