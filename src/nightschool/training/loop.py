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
from nightschool.training import batch, checkpoint, determinism, loss, model, optimizer, probe, state
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
    """

    def __init__(
        self, settings: Settings, root: dict[str, Any], accelerator: Accelerator, open_file: OpenFile
    ) -> None:  # fmt: skip
        self.settings = settings
        self.seed = int(root["seed"])
        self.accelerator = accelerator
        self._open_file = open_file
        self.entries: list[Entry] = []
        self.done = 0
        self.on_entry: Callable[[int, Entry], None] | None = None
        """Called with position and entry before the first step of each, when the state is the one that step meets."""
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

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What equal bits depend on besides root and curriculum. Nothing of it changes while a process lives."""
        return {
            **determinism.numerics(self.built, self.settings, packed=self.leak is None),
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

    def step(self) -> StepResult:
        """Take the next step.

        A loss or gradient that is not finite is not applied; the step counts all the same.

        Raises:
            IndexError: the curriculum has no further step.
        """
        at, place = self._standing(), self.next_place()
        if at is None or place is None:
            raise IndexError("the curriculum has no further step")
        entry = self.entries[place.index]
        recipe = entry.settings
        if self.resets(place):
            optimizer.reset(self.optimizer)
        if place.local == entry.start and self.on_entry is not None:
            self.on_entry(place.index, entry)
        began = time.perf_counter()
        data = self._data_of(entry)

        numbers = curriculum.step_sequences(self.seed, entry, place.local)
        parts = {int(n): data.sequence(int(n)) for n in numbers}
        label_tokens = sum(int(train.sum()) for _, train, _, _ in parts.values())
        total = torch.zeros((), device=self.accelerator.device)
        for cell, members in curriculum.cells(numbers, self.settings.training.micro_batch_size):
            determinism.seed_cell(self.seed, self.done + 1, cell)
            for one in batch.collate(
                [parts[n][:3] for n in members], self.accelerator.device,
                packed=self.leak is None, pad_id=self._pad, flatten=self._flatten,
            ):  # fmt: skip
                with self.accelerator.autocast():
                    part = loss.sum_loss(self.built, one) / label_tokens
                self.accelerator.backward(part)
                total += part.detach()

        limit = recipe["max_grad_norm"] or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        mean, size = torch.stack([total, norm.to(total)]).tolist()
        applied = math.isfinite(mean) and math.isfinite(size)
        rate = schedule.learning_rate(recipe, self.done, at.since)
        if applied:
            optimizer.apply_recipe(self.optimizer, recipe, rate)
            self.optimizer.step()
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

        Dropout is off, so nothing random is drawn; gradients of a step in progress there are none.
        """
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
