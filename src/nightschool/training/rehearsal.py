"""A rehearsal: one step of full size, a save and a load, before anybody goes to bed. Nothing of the run is touched.

It does what the trainer will do, with the trainer's own parts, on made-up tokens: as long as rows may be, as many as a
step may hold. What it writes lies in the scratch folder and is removed.
"""

from __future__ import annotations

import resource
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nightschool import basemodel, curriculum, durable
from nightschool.errors import BusyError, CheckpointError, NightschoolError, StorageError, TrainingError
from nightschool.ledger import Ledger
from nightschool.record import Record, entries_of, root_digest
from nightschool.settings import Settings, canonical, load_settings
from nightschool.training import checkpoint, determinism, device, memory, model, root, state
from nightschool.training.claiming import Say, claim
from nightschool.words import in_bytes

if TYPE_CHECKING:
    from nightschool.training.loop import Loop, StepResult
    from nightschool.workspace import Layout

DIGEST = "rehearsal"
STEPS = 2
"""The first one warms up, and makes the moments of a new run: only the second one meets all that has to fit."""


@dataclass(frozen=True)
class Rehearsal:
    """What came of it. Sizes in bytes, times in seconds.

    Attributes:
        began_with: the checkpoint's name, or "the base model".
        device: where it ran.
        memory_peak: the most that was held at a time: on a GPU there, else by the process.
        memory_total: of the GPU; None without one.
        batch, max_length: sequences of a step, and tokens of each.
        micro_batch_size: sequences that went through the model together; smaller than asked where memory ran out.
        micro_batch_asked: as the settings say.
        seconds_step, seconds_save, seconds_load: of the second step, of a save, and of taking it up again.
        tokens_per_second: of the second step.
        checkpoint_bytes: size of what was saved.
    """

    began_with: str
    device: str
    memory_peak: int
    memory_total: int | None
    batch: int
    max_length: int
    micro_batch_size: int
    micro_batch_asked: int
    seconds_step: float
    seconds_save: float
    seconds_load: float
    tokens_per_second: float
    checkpoint_bytes: int


class MadeUp:
    """Stands for a prepared file: sequences of one row each, as long as they may be, everything in them learned."""

    def __init__(self, sequences: int, length: int, vocabulary: int) -> None:
        self._sequences = sequences
        self._length = length
        self._vocabulary = vocabulary

    def digest(self) -> str:
        """That of the entry made for it."""
        return DIGEST

    def sequence(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(input_ids, train, lengths, rows), the same each time."""
        if not 0 <= index < self._sequences:
            raise IndexError(index)
        ids = np.random.default_rng(index).integers(0, self._vocabulary, self._length, dtype=np.int32)
        train = np.ones(self._length, np.int8)
        train[0] = 0
        return ids, train, np.array([self._length], np.int32), np.array([index], np.int32)

    def close(self) -> None:
        """Nothing is open."""


def rehearse(layout: Layout, say: Say = lambda _: None) -> dict[str, Any]:
    """Rehearse in the workspace; returns the fields of a Rehearsal.

    On a GPU it takes its lease first, as the trainer does. `say` is called with a line if that has to be waited for.

    Raises:
        BusyError: a trainer works there.
        CheckpointError: no checkpoint can be used, or what was saved did not come back.
        ModelError, SettingsError: the model cannot be loaded, or is not the run's.
        TrainingError, DeviceError: a step of full size cannot be made.
        StorageError: a checkpoint does not fit on the disk.
    """
    settings = load_settings(layout.settings_file)
    layout.require()
    claim(layout, settings, say)
    lock = durable.Lock(layout.trainer_lock, "the trainer")
    try:
        lock.acquire()
    except BusyError as error:
        raise BusyError(
            "A trainer is at work, and two do not fit on one device. `nightschool pause` lets it save and end; "
            "`nightschool resume` goes on after the rehearsal.",
            error.pid,
        ) from None
    try:
        durable.make_dirs(layout.tmp)
        scratch = durable.staging(layout.tmp, "rehearsal")
        try:
            return asdict(_rehearse(layout, settings, scratch))
        finally:
            durable.remove_tree(scratch)
    finally:
        lock.release()


def _rehearse(layout: Layout, settings: Settings, scratch: Path) -> Rehearsal:
    determinism.configure(settings.numerics)
    folder = basemodel.resolve(settings.model.name, settings.model.revision)
    accelerator = device.make_accelerator(settings)
    with Ledger.open(layout.ledger) as ledger:
        stored, entries = ledger.machine.get("root"), entries_of(ledger)
        remembered = ledger.machine.get(memory.CELL)
        saved_before = ledger.checkpoints.newest() is not None
    dtype = model.resolve_dtype(settings.model.dtype, settings.training.method, accelerator.device)
    if stored is not None and settings.model.dtype == "auto":
        dtype = stored["dtype"]
    # Hashes of the base model are looked up in a copy: not even a cache of the run is written to.
    cache = scratch / "fingerprint.json"
    if layout.fingerprint_cache.is_file():
        shutil.copyfile(layout.fingerprint_cache, cache)
    used = root.compute(settings, folder, dtype, cache)
    if stored is not None and (entries or stored.get("adopted")):
        root.compare(stored, used, folder)
        used = stored
    choice = checkpoint.choose(layout.current_model, root_digest(used), entries)
    if choice.record is None and (choice.damaged or choice.foreign or saved_before or used.get("adopted")):
        raise CheckpointError(
            "No checkpoint can be used, so training would not begin tonight: `nightschool verify` says what is wrong."
        )
    device.require(accelerator, settings, choice.record)

    asked = settings.training.micro_batch_size
    readers: dict[int, MadeUp] = {}
    loop = device.make_loop(
        settings, used, accelerator, lambda file_id: readers[file_id],  # type: ignore[arg-type,return-value]
        memory.cell_size(asked, remembered),
    )  # fmt: skip
    if choice.record is not None and choice.folder is not None:
        loop.restore(choice.folder, choice.record)
    entry = _entry(settings)
    loop.entries = [*curriculum.cut(entries, loop.done), entry]
    readers[entry.file_ids[0]] = MadeUp(entry.sequences, settings.data.max_length, _vocabulary(loop))
    _watch_memory(accelerator.device)
    result = _steps(loop, settings)
    seconds_save, size = _save(layout, loop, used, scratch / "checkpoint")
    seconds_load = _load(loop, scratch / "checkpoint")
    peak, total = _memory(accelerator.device)
    return Rehearsal(
        began_with=choice.folder.name if choice.folder is not None else "the base model",
        device=str(accelerator.device), memory_peak=peak, memory_total=total,
        batch=entry.sequences, max_length=settings.data.max_length,
        micro_batch_size=loop.cell, micro_batch_asked=asked,
        seconds_step=result.seconds, seconds_save=seconds_save, seconds_load=seconds_load,
        tokens_per_second=result.tokens / result.seconds, checkpoint_bytes=size,
    )  # fmt: skip


def _entry(settings: Settings) -> curriculum.Entry:
    """STEPS steps, each of a full batch."""
    batch = settings.training.train_batch_size
    recipe = {**settings.entry_recipe(settings.data_recipe(), {}), "epochs": STEPS}
    return curriculum.whole([curriculum.Part(0, DIGEST, batch)], canonical(recipe))


def _vocabulary(loop: Loop) -> int:
    return min(len(loop.built.tokenizer), int(loop.built.base.get_input_embeddings().num_embeddings))


def _steps(loop: Loop, settings: Settings) -> StepResult:
    """Make the steps; what the last one was like."""
    result: StepResult | None = None
    try:
        for _ in range(STEPS):
            result = loop.step()
    except NightschoolError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        if isinstance(error, RuntimeError) and memory.is_lost(error):
            raise memory.lost(error) from error
        raise TrainingError(
            f"A step with rows of data.max_length = {settings.data.max_length} tokens cannot be made with this model: "
            f"{model.first_line(error)}. Lower data.max_length if the model takes no longer rows."
        ) from error
    assert result is not None
    return result


def _save(layout: Layout, loop: Loop, used: dict[str, Any], folder: Path) -> tuple[float, int]:
    """Save as a checkpoint is saved; the seconds and the bytes."""
    needed = sum(p.numel() * (p.element_size() + 8) for p in loop.parameters)
    free = shutil.disk_usage(layout.tmp).free
    if free < needed:
        raise StorageError(
            f"A checkpoint takes about {in_bytes(needed)}, and {in_bytes(free)} are free. Make room before tonight."
        )
    began = time.perf_counter()
    host = state.HostBuffer().capture(loop.weights, loop.optimizer)
    found = state.digests(host.weights, host.optimizer)
    record = Record(
        step=loop.done, generation=0, lineage=curriculum.lineage(root_digest(used), loop.entries, loop.done), root=used,
        curriculum=curriculum.to_record(loop.entries), numerics=loop.numerics, numerics_changes=[],
        digests={"weights": found.weights, "optimizer": found.optimizer}, file=None,
    )  # fmt: skip
    model.write_model(loop.built.model, loop.built.method, host.weights, folder)
    checkpoint.write_contents(folder, record, host, log_history=[], train_batch_size=loop.cell, base_rate=0.0, rate=0.0)
    durable.seal(folder)
    seconds = time.perf_counter() - began
    return seconds, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _load(loop: Loop, folder: Path) -> float:
    """Read back what was saved, every byte, and take it up; the seconds. It must be what was there, to the last bit."""
    # What is found afterwards must have come from the disk.
    with torch.no_grad():
        for parameter in loop.parameters:
            parameter.zero_()
    loop.optimizer.state.clear()
    began = time.perf_counter()
    problems = durable.check(folder)
    if problems:
        raise CheckpointError(
            f"What was saved did not come back from the disk: {'; '.join(problems[:3])}. Do not trust this disk."
        )
    loop.restore(folder, checkpoint.read(folder))
    return time.perf_counter() - began


def _watch_memory(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)


def _memory(where: torch.device) -> tuple[int, int | None]:
    if where.type == "cuda":
        return torch.cuda.max_memory_reserved(where), torch.cuda.get_device_properties(where).total_memory
    # Linux gives it in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None
