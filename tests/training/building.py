"""What the tests of the model share: tiny models built, trained a few steps, stopped and taken up again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nightschool.training import loss, model, optimizer
from nightschool.training.batch import Batch
from nightschool.training.determinism import seed_cell
from nightschool.training.model import Built
from tests.training.conftest import RECIPE, some_ids

Build = Callable[..., Built]

SMALL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def config_of(kind: str) -> dict[str, Any]:
    return SMALL_EXPERTS if kind == "mixtral" else {}


def batch(step: int, built: Built) -> Batch:
    ids = some_ids(12, seed=step, lines=2)
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    index = torch.nonzero(labels.flatten() != -100).flatten()
    del built
    return Batch(ids, torch.arange(12).expand(2, -1), labels, index, len(index))


def train(built: Built, made: torch.optim.Optimizer, steps: range) -> None:
    built.model.train()
    for step in steps:
        seed_cell(1, step, 0)
        loss.sum_loss(built, batch(step, built)).div(22).backward()
        optimizer.apply_recipe(made, RECIPE, 1e-2)
        made.step()
        made.zero_grad(set_to_none=True)


@torch.no_grad()
def logits(built: Built) -> Tensor:
    built.model.eval()
    found = built.model(input_ids=some_ids(9, seed=99), use_cache=False).logits
    built.model.train()
    return found


def copies(built: Built) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.trainable_state(built.model, built.method).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def straight_and_resumed(
    build: Build, folder: Path, kind: str = "llama", config: dict[str, Any] | None = None, **sections: Any
) -> tuple[Built, Built]:
    """Four steps without a stop; and two, a checkpoint, everything built anew, and two more."""
    undisturbed = build(kind, config, **sections)
    train(undisturbed, optimizer.build("adamw_torch", undisturbed.model, RECIPE), range(4))
    first = build(kind, config, **sections)
    begun = optimizer.build("adamw_torch", first.model, RECIPE)
    train(first, begun, range(2))
    model.write_model(first.model, first.method, copies(first), folder)
    torch.save(begun.state_dict(), folder / "optimizer.pt")
    torch.rand(7)
    resumed = build(kind, config, **sections)
    made = optimizer.build("adamw_torch", resumed.model, RECIPE)
    model.load_trainable(resumed.model, resumed.method, folder)
    assert torch.equal(logits(resumed), logits(first))
    optimizer.load(made, torch.load(folder / "optimizer.pt", weights_only=True))
    train(resumed, made, range(2, 4))
    return undisturbed, resumed
