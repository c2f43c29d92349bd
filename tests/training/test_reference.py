"""The trainer's losses are those of an independent loop, whatever the size of its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool.intake.packing import Packed
from nightschool.ledger import Ledger
from nightschool.record import entries_of
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import plain, rig

FILES = {"a": (118, 1), "b": (47, 2), "c": (183, 1)}
"""30, 2 x 12 and 46 steps."""
STEPS = 100
TRAINING: dict[str, Any] = {"learning_rate": 2e-3, "warmup_steps": 10, "weight_decay": 0.1, "adam_beta2": 0.98}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 16}


def data() -> dict[str, list[Packed]]:
    return {name: rig.sequences(count, seed) for seed, (name, (count, _)) in enumerate(FILES.items())}


def train(root: Path, base: Path, method: str, cell: int, keep: dict[str, Any] | None = None) -> Layout:
    """Train everything; the adapter that it begins with is put into `keep`."""
    layout = rig.workspace(
        root, base, training={**TRAINING, "method": method, "micro_batch_size": cell}, checkpoints={"save_steps": 1000},
        **({"lora": LORA} if method == "lora" else {}),
    )  # fmt: skip
    for name, rows in data().items():
        rig.add(layout, name, rows, epochs=FILES[name][1])

    def on_start(trainer: Trainer) -> None:
        if keep is not None:
            keep.update({name: tensor.detach().clone() for name, tensor in trainer.loop.weights.items()})

    rig.run(layout, on_start=on_start)
    return layout


def curve(layout: Layout) -> torch.Tensor:
    return torch.tensor([loss for _, loss, _ in rig.outcome(layout).curve], dtype=torch.float64)


def reference(
    layout: Layout, base: Path, adapter: Mapping[str, torch.Tensor] | None, normalise: plain.Normalise
) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **LORA))
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert trained.keys() == adapter.keys()
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(adapter[name])
    model.train()
    with Ledger.open(layout.ledger) as ledger:
        entries = entries_of(ledger)
    by_digest = dict(zip([entry.data_digest for entry in entries], data().values(), strict=True))
    return torch.tensor(plain.losses(model, entries, by_digest, 42, normalise), dtype=torch.float64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Layout, dict[str, Any]]]:
    """A function that gives base, workspace and first adapter of a run that is made once."""
    made: dict[tuple[str, str, int], Any] = {}

    def get(kind: str, method: str, cell: int) -> tuple[Path, Layout, dict[str, Any]]:
        key = (kind, method, cell)
        if key not in made:
            root = tmp_path_factory.mktemp("-".join(map(str, key)))
            base, keep = rig.make_base(root / "base", kind), {}
            made[key] = base, train(root / "run", base, method, cell, keep), keep
        return made[key]

    return get


@pytest.mark.parametrize(("kind", "method"), [("llama", "full"), ("llama", "lora"), ("gpt2", "full")])
def test_a_plain_loop_gives_the_same_losses(runs: Callable[..., Any], kind: str, method: str) -> None:
    base, layout, adapter = runs(kind, method, 2)
    ours = curve(layout)
    assert len(ours) == STEPS
    theirs = reference(layout, base, adapter if method == "lora" else None, plain.mean_over_tokens)
    assert (ours - theirs).abs().max() < 1e-5
    assert ours[-10:].mean() < ours[:10].mean() - 0.1, "nothing was learned: equal losses would prove little"


def test_control_a_mean_of_cell_means_is_told_apart(runs: Callable[..., Any]) -> None:
    """The wrong normalisation is off from the first step on, though each step's cells differ by a few tokens only."""
    base, layout, _ = runs("llama", "full", 2)
    wrong = reference(layout, base, None, plain.mean_of_cell_means(2))
    difference = (curve(layout) - wrong).abs()
    assert difference[0] > 1e-4
    assert difference.max() > 1e-3


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_size_of_cells_changes_rounding_only(runs: Callable[..., Any], method: str) -> None:
    _, single, _ = runs("llama", method, 1)
    _, whole, _ = runs("llama", method, 4)
    assert (curve(single) - curve(whole)).abs().max() < 1e-5
    assert rig.outcome(single).lineage == rig.outcome(whole).lineage
    assert rig.outcome(single).weights != rig.outcome(whole).weights, "rounding differs: cells belong to the numerics"
