"""The training loop: one optimizer step after another along the curriculum.

The loop knows nothing of the ledger, of saving or of stopping. Its state is the weights, the optimizer's moments, the
entries and the number of steps done; everything a step does is a function of these (law 1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from nightschool import curriculum, schedule
from nightschool.curriculum import Entry
from nightschool.errors import TrainingError
from nightschool.training import batch, checkpoint, determinism, loss, memory, model, optimizer, probe, state
from nightschool.training.data import EntryData, OpenFile

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from nightschool.record import Record
    from nightschool.settings import Settings
    from nightschool.training.model import Built
    from nightschool.training.state import Digests


@dataclass(frozen=True)
class StepResult:
    """What one step did. `loss` is the mean over the step's label tokens, in nats; it may be NaN or infinite."""

    step: int
    entry: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    label_tokens: int
    seconds: float
    applied: bool
    ends_entry: bool


@dataclass(frozen=True)
class _Standing:
    """Where the next step stands: the entry, the steps done before it, and those before its schedule began."""

    index: int
    entry: Entry
    begin: int
    since: int


class Loop:
    """Model, optimizer and position.

    Args:
        settings: operational settings are read from here; everything else from the entries.
        root: the run's root.
        folder: the base model's folder.
        open_file: gives the reader of a file's prepared data, by the file's id.
        cell: sequences that go through the model together; as the settings say if None.
    """

    def __init__(
        self, settings: Settings, root: dict[str, Any], accelerator: Accelerator, open_file: OpenFile,
        cell: int | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.seed = int(root["seed"])
        self.accelerator = accelerator
        self._open_file = open_file
        self.entries: list[Entry] = []
        self.done = 0
        self.on_entry: Callable[[int, Entry], None] | None = None
        """Called with position and entry before the first update of each, when the state is the one it meets."""
        self.cell = settings.training.micro_batch_size if cell is None else cell
        self.on_split: Callable[[int, int], None] | None = None
        """Called with the old and the new size when cells are made smaller because memory ran out."""
        self.interrupted: Callable[[], bool] = lambda: False
        """Asked between two cells: whether the step is to be given up."""
        self.built: Built = model.build(settings, root, accelerator.device)
        self.weights = model.trainable_state(self.built.model, self.built.method)
        self.parameters = [p for p in self.built.model.parameters() if p.requires_grad]
        self.optimizer = optimizer.build(
            root["optimizer"], self.built.model, settings.entry_recipe(settings.data_recipe(), {})
        )
        with accelerator.autocast():
            self.head_note = loss.check_head(self.built)
            self.leak = probe.packing_leaks(self.built)
        self.built.model.train()
        self._data: tuple[Entry, EntryData] | None = None
        self._at: _Standing | None = None
        self._pad = self.built.tokenizer.pad_token_id or 0
        self._flatten = "flash" in str(getattr(self.built.base.config, "_attn_implementation", ""))

    @property
    def numerics(self) -> dict[str, Any]:
        """What equal bits depend on besides root and curriculum. Only the size of a cell changes in a process."""
        return {**self._fixed_numerics, "cell": self.cell}

    @cached_property
    def _fixed_numerics(self) -> dict[str, Any]:
        return {
            **determinism.numerics(self.built, self.settings, packed=self.leak is None, cell=self.cell),
            "autocast": self.accelerator.mixed_precision,
        }

    def restore(self, folder: Path, record: Record) -> Digests:
        """Take over the state of a checkpoint; proves that what is loaded is what was saved.

        Raises:
            CheckpointError: the folder's tensors do not fit the model, or loading changed a bit.
        """
        model.load_trainable(self.built.model, self.built.method, folder)
        saved = checkpoint.load_optimizer_state(folder)
        optimizer.load(self.optimizer, saved)
        self.done = record.step
        found = self.digests()
        checkpoint.verify_digests(record, found, folder)
        return found

    def digests(self) -> Digests:
        """Digests of the live weights and moments."""
        return state.digests(self.weights, self.optimizer.state_dict())

    def next_place(self) -> curriculum.Place | None:
        """Where the next step is, or None when the curriculum is done."""
        at = self._standing()
        return curriculum.Place(at.index, at.entry.start + self.done - at.begin) if at else None

    def _standing(self) -> _Standing | None:
        """The entry of the next step. Kept while it lasts: finding it walks all entries there ever were."""
        at = self._at
        if (
            at is None
            or at.index >= len(self.entries)
            or self.entries[at.index] is not at.entry
            or not at.begin <= self.done < at.begin + at.entry.steps
        ):
            place = curriculum.place(self.entries, self.done)
            if place is None:
                return None
            begin = curriculum.first_step(self.entries, place.index)
            since = curriculum.schedule_origin(self.entries, place.index)
            at = self._at = _Standing(place.index, self.entries[place.index], begin, since)
        return at

    def resets(self, place: curriculum.Place) -> bool:
        """Whether the next step, at `place`, begins with fresh moments. A further range of the same file does not."""
        at = self._standing()
        if at is None or at.index != place.index or at.entry.settings["carry_optimizer"]:
            return False
        return at.since == self.done

    def step(self) -> StepResult | None:
        """Take the next step; None where it was given up between two cells, and nothing has changed.

        A loss or gradient that is not finite is not applied; the step counts all the same. Where memory runs out the
        step is made again from its beginning, in the end with smaller cells; never in part.

        Raises:
            IndexError: the curriculum has no further step.
            TrainingError: even one sequence by itself does not fit.
            DeviceError: others hold the device's memory, or the update itself did not fit: the state must not be saved.
        """
        at, place = self._standing(), self.next_place()
        if at is None or place is None:
            raise IndexError("the curriculum has no further step")
        entry = self.entries[place.index]
        recipe = entry.settings
        began = time.perf_counter()
        data = self._data_of(entry)

        numbers = [int(n) for n in curriculum.step_sequences(self.seed, entry, place.local)]
        parts = {n: data.sequence(n) for n in numbers}
        label_tokens = sum(int(train.sum()) for _, train, _, _ in parts.values())
        found = self._gradients(numbers, parts, label_tokens, recipe["max_grad_norm"] or math.inf)
        if found is None:
            self.optimizer.zero_grad(set_to_none=True)
            return None

        mean, size = found
        applied = math.isfinite(mean) and math.isfinite(size)
        rate = schedule.learning_rate(recipe, self.done, at.since)
        # Only from here on does the state change: what was given up before has left no trace.
        self._update(place, entry, rate if applied else None)
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return StepResult(
            step=self.done,
            entry=place.index,
            loss=mean,
            learning_rate=rate,
            grad_norm=size,
            tokens=sum(len(ids) for ids, _, _, _ in parts.values()),
            label_tokens=label_tokens,
            seconds=time.perf_counter() - began,
            applied=applied,
            ends_entry=place.local + 1 == entry.stop,
        )

    def _gradients(
        self, numbers: list[int], parts: dict[int, Any], label_tokens: int, limit: float
    ) -> tuple[float, float] | None:
        """Accumulate the gradients of a step and clip them; its mean loss and their norm before they were clipped.

        None where it was interrupted. Where memory runs out: free it and try again, then split the cells, then stop.
        """
        failures = 0
        while True:
            try:
                total = self._accumulate(numbers, parts, label_tokens)
                if total is None:
                    return None
                # Clipping needs memory too. Where it ends half-way, the gradients are made anew with the rest.
                norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
                mean, size = torch.stack([total, norm.to(total)]).tolist()
                return mean, size
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out(error):
                    raise
                said = model.first_line(error)
            # Here, and not in the handler: the traceback held on to every activation.
            failures += 1
            self.optimizer.zero_grad(set_to_none=True)
            memory.free(self.accelerator.device)
            failures = self._make_room(failures, said)

    def _make_room(self, failures: int, said: str) -> int:
        """After memory ran out `failures` times: do what the policy says; how often it has failed at the size now."""
        others = memory.others_hold(self.accelerator.device)
        verdict = memory.after_failure(failures, self.cell, others is not None)
        if verdict.what == "wait":
            raise memory.taken(self.accelerator.device, str(others))
        if verdict.what == "stop":
            raise TrainingError(
                f"Out of memory on {self.accelerator.device} at step {self.done + 1} with one sequence at a time "
                f"({said}). Set training.gradient_checkpointing = true, lower data.max_length for the files to come, "
                'or load the base smaller (model.quantization = "4bit", in a new run); then `nightschool resume` goes '
                "on."
            )
        if verdict.what == "split":
            before, self.cell = self.cell, verdict.cell
            if self.on_split is not None:
                self.on_split(before, self.cell)
            return 0
        return failures

    def _accumulate(self, numbers: list[int], parts: dict[int, Any], label_tokens: int) -> torch.Tensor | None:
        total = torch.zeros((), device=self.accelerator.device)
        for cell, members in curriculum.cells(numbers, self.cell):
            if self.interrupted():
                return None
            determinism.seed_cell(self.seed, self.done + 1, cell)
            for one in batch.collate(
                [parts[n][:3] for n in members], self.accelerator.device,
                packed=self.leak is None, pad_id=self._pad, flatten=self._flatten,
            ):  # fmt: skip
                with self.accelerator.autocast():
                    part = loss.sum_loss(self.built, one) / label_tokens
                self.accelerator.backward(part)
                total += part.detach()
        return total

    def _update(self, place: curriculum.Place, entry: Entry, rate: float | None) -> None:
        """Change the state: fresh moments and the check of the boundary where an entry begins, then the update.

        Args:
            rate: the learning rate; None where the update is not to be applied.

        Raises:
            DeviceError: memory ran out; an UpdateError where no others hold it.
        """
        try:
            if self.resets(place):
                optimizer.reset(self.optimizer)
            if place.local == entry.start and self.on_entry is not None:
                self.on_entry(place.index, entry)
            if rate is not None:
                optimizer.apply_recipe(self.optimizer, entry.settings, rate)
                self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out(error):
                raise
            # Some weights may have moved and others not. This state is never saved: the checkpoint is gone back to.
            others = memory.others_hold(self.accelerator.device)
            if others is not None:
                raise memory.taken(self.accelerator.device, others) from error
            raise memory.UpdateError(
                f"Out of memory in the update of step {self.done + 1} ({model.first_line(error)})."
            ) from error

    def release(self) -> None:
        """Give the device's memory back; the loop can take no further step. What was captured is not touched.

        Nothing happens a second time.
        """
        if not self.weights:
            return
        for tensor in (*self.built.model.parameters(), *self.built.model.buffers()):
            tensor.grad = None
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        self.weights.clear()
        self.optimizer.state.clear()
        memory.free(self.accelerator.device)

    def _data_of(self, entry: Entry) -> EntryData:
        if self._data is None or self._data[0].parts != entry.parts:
            if self._data is not None:
                self._data[1].close()
            self._data = None
            self._data = (entry, EntryData(entry, self._open_file))
        return self._data[1]

    @torch.no_grad()
    def evaluate(self, sequences: Sequence[batch.Sequence3]) -> float:
        """Sum of the loss over the label tokens of some sequences, in nats; nothing of the run's state changes.

        Dropout is off, so nothing random is drawn; gradients of a step in progress there are none. Where memory runs
        out they are taken one by one; raises what torch does if even that does not fit.
        """
        try:
            return self._evaluate(sequences)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out(error) or len(sequences) == 1:
                raise
        memory.free(self.accelerator.device)
        return sum(self._evaluate([one]) for one in sequences)

    def _evaluate(self, sequences: Sequence[batch.Sequence3]) -> float:
        self.built.model.eval()
        try:
            total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
            for one in batch.collate(
                sequences, self.accelerator.device, packed=self.leak is None, pad_id=self._pad, flatten=self._flatten
            ):
                with self.accelerator.autocast():
                    total += loss.sum_loss(self.built, one).double()
            return float(total)
        finally:
            self.built.model.train()
