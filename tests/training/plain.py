"""The same training written a second time, as plainly as can be: what the trainer is compared with.

One row at a time, no packing, no cells, no buffers; AdamW, clipping and the learning rate by their formulas. Nothing
is taken from the room under test; which sequences a step trains on is asked of the curriculum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from nightschool import curriculum
from nightschool.curriculum import Entry
from nightschool.intake.packing import Packed

Normalise = Callable[[list[list[tuple[torch.Tensor, int]]]], torch.Tensor]
"""From (sum of losses, label tokens) of each row, in lists of one sequence each, to the loss of the step."""


def mean_over_tokens(sequences: list[list[tuple[torch.Tensor, int]]]) -> torch.Tensor:
    """The right one: every label token of the step weighs the same."""
    rows = [row for sequence in sequences for row in sequence]
    return torch.stack([total for total, _ in rows]).sum() / sum(count for _, count in rows)


def mean_of_cell_means(size: int) -> Normalise:
    """The usual mistake: the mean over cells of `size` sequences of each cell's own mean."""

    def normalise(sequences: list[list[tuple[torch.Tensor, int]]]) -> torch.Tensor:
        cells = [sequences[at : at + size] for at in range(0, len(sequences), size)]
        return torch.stack([mean_over_tokens(cell) for cell in cells]).mean()

    return normalise


def losses(
    model: Any,
    entries: Sequence[Entry],
    data: Mapping[str, Sequence[Packed]],
    seed: int,
    normalise: Normalise = mean_over_tokens,
) -> list[float]:
    """Train `model` on the whole curriculum and return the loss of every step.

    Args:
        model: gives logits; its parameters that require gradients are trained.
        entries: what to train.
        data: the sequences by digest.
        seed: the run's.
    """
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    found = []
    for done in range(curriculum.total_steps(entries)):
        place = curriculum.place(entries, done)
        assert place is not None
        entry = entries[place.index]
        recipe = entry.settings
        numbers = curriculum.step_sequences(seed, entry, place.local)
        loss = normalise([_rows(model, data[entry.data_digest][int(n)]) for n in numbers])
        loss.backward()
        found.append(loss.item())
        _update(model, moments, recipe, done)
    return found


def _rows(model: Any, packed: Packed) -> list[tuple[torch.Tensor, int]]:
    result, at = [], 0
    for length in packed.lengths.tolist():
        ids = torch.tensor(packed.ids[at : at + length].tolist())
        learned = torch.tensor(packed.train[at : at + length].tolist(), dtype=torch.bool)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        each = F.cross_entropy(logits, ids[1:], reduction="none")
        result.append((each[learned[1:]].sum(), int(learned[1:].sum())))
        at += length
    return result


def _update(model: Any, moments: dict[str, Any], recipe: dict[str, Any], done: int) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norm = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in trained.values()))
    shrink = min(1.0, recipe["max_grad_norm"] / (norm + 1e-6))
    warmup = recipe["warmup_steps"]
    rate = recipe["learning_rate"] * min(1.0, done / warmup)
    beta1, beta2 = recipe["adam_beta1"], recipe["adam_beta2"]
    with torch.no_grad():
        for name, p in trained.items():
            first, second = moments.setdefault(name, (torch.zeros_like(p), torch.zeros_like(p)))
            gradient = p.grad * shrink
            first.mul_(beta1).add_((1 - beta1) * gradient)
            second.mul_(beta2).add_((1 - beta2) * gradient**2)
            if not ("norm" in name or "ln_" in name or name.endswith("bias")):
                p.mul_(1 - rate * recipe["weight_decay"])
            unbiased = first / (1 - beta1 ** (done + 1))
            p.sub_(rate * unbiased / ((second / (1 - beta2 ** (done + 1))).sqrt() + recipe["adam_epsilon"]))
            p.grad = None
