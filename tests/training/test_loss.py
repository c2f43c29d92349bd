"""The loss equals the one transformers computes, in less memory, whatever a model does to its logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nightschool.training import batch as batches
from nightschool.training import loss
from nightschool.training.batch import Batch
from tests.training.conftest import bare, make_config, some_ids

# kind: what is special about how it makes logits, made large enough to show.
SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "gemma2": {"final_logit_softcapping": 0.5},
    "gemma3_text": {},
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 8.0, "num_local_experts": 4, "num_experts_per_tok": 2},
    "hyperclovax": {"logits_scaling": 0.25},
    "cohere": {"logit_scale": 0.0625},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False},
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "nanochat": {},
    "phi": {},
}


def a_batch(lengths: tuple[int, ...] = (9, 4, 12), learned: float = 0.6, lines: int = 1) -> Batch:
    made = []
    for line in range(lines):
        total = sum(lengths)
        train = (np.random.default_rng(line).random(total) < learned).astype(np.int8)
        train[np.cumsum([0, *lengths[:-1]])] = 0
        made.append((some_ids(total, line)[0].numpy(), train, np.array(lengths)))
    (batch,) = batches.collate(made, "cpu", packed=True, pad_id=0, flatten=False)
    return batch


def plain_loss(built: Any, batch: Batch) -> Tensor:
    """What transformers gives for labels that are shifted already, times the number of labels."""
    found = built.base(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        labels=batch.labels,
        shift_labels=batch.labels,
        use_cache=False,
    )
    return found.loss * batch.label_tokens


def gradients(built: Any, value: Tensor) -> dict[str, Tensor]:
    built.base.zero_grad()
    value.backward()
    return {n: p.grad.clone() for n, p in built.base.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("chunk", [None, 5])
def test_loss_and_gradients_are_those_of_transformers(kind: str, chunk: int | None) -> None:
    built = bare(make_config(kind, **SPECIAL[kind]))
    built.base.eval()
    # Random logits of a fresh model are nearly uniform and would let a missing scale pass.
    with torch.no_grad():
        built.base.get_output_embeddings().weight.mul_(20)
    assert loss.check_head(built) is None
    batch = a_batch((25,) if kind == "mamba" else (9, 4, 12))
    wanted = plain_loss(built, batch)
    theirs = gradients(built, wanted)
    ours_value = loss.sum_loss(built, batch, chunk)
    ours = gradients(built, ours_value)
    assert ours_value.dtype == torch.float32
    assert ours_value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        assert torch.allclose(grad, theirs[name], rtol=1e-4, atol=1e-5 * float(theirs[name].abs().max()) + 1e-8), name


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere", "hyperclovax"])
def test_control_leaving_out_what_is_special_is_found(kind: str) -> None:
    built = bare(make_config(kind, **SPECIAL[kind]))
    built.base.eval()
    assert loss.check_head(built) is None
    assert built.head != loss.Head()
    batch = a_batch()
    right = loss.sum_loss(built, batch).item()
    built.head = loss.Head()
    with torch.no_grad():
        built.base.get_output_embeddings().weight.mul_(20)
    assert loss.sum_loss(built, batch).item() != pytest.approx(plain_loss(built, batch).item(), rel=1e-3)
    assert right != pytest.approx(loss.sum_loss(built, batch).item(), rel=1e-3)


def test_a_cap_is_seen_though_a_random_models_logits_are_small() -> None:
    """With the usual cap of 30 and logits below 1, a head without a cap would pass a look at the logits alone."""
    built = bare(make_config("gemma2", final_logit_softcapping=30.0))
    built.base.eval()
    with torch.no_grad():
        ids = some_ids(16)
        places = torch.arange(16)[None]
        bare_logits = built.base.get_output_embeddings()(loss.hidden_states(built, ids, places))
        assert torch.allclose(bare_logits, loss.own_logits(built, ids, places), atol=1e-4)
    assert loss.check_head(built) is None
    assert built.head.cap == 30.0


class Peculiar(torch.nn.Module):
    """Wraps a model's output layer so that its forward does something nobody knows."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.inner = base
        self.config = base.config

    @property
    def base_model(self) -> Any:
        return self.inner.base_model

    def get_output_embeddings(self) -> Any:
        return self.inner.get_output_embeddings()

    def forward(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool = False) -> Any:
        found = self.inner(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)
        found.logits = found.logits + 0.1 * torch.sin(3 * found.logits)
        return found


def test_unknown_ways_to_logits_fall_back_to_the_models_own_forward() -> None:
    built = bare(make_config("llama"))
    built.base = Peculiar(built.base)
    built.model = built.base
    built.base.eval()
    reason = loss.check_head(built)
    assert reason is not None
    assert "not those of its output layer" in reason
    batch = a_batch()
    logits = loss.own_logits(built, batch.input_ids, batch.position_ids)
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    assert loss.sum_loss(built, batch).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_check_head_leaves_the_model_as_it_was() -> None:
    built = bare(make_config("llama"))
    built.base.train()
    loss.check_head(built)
    assert built.base.training
    assert not built.base.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_chunks_do_not_change_the_sum(chunk: int) -> None:
    built = bare(make_config("llama"))
    loss.check_head(built)
    batch = a_batch(lines=3)
    whole = loss.sum_loss(built, batch, 10**9).item()
    assert loss.sum_loss(built, batch, chunk).item() == pytest.approx(whole, rel=1e-6)


def test_dropout_is_the_same_when_a_chunk_is_made_again(build: Callable) -> None:
    """An adapter with dropout on the output layer: the backward pass must see the mask the forward pass saw."""
    built = build("llama", lora={"target_modules": ["lm_head"], "lora_dropout": 0.5, "init_lora_weights": False})
    batch = a_batch(lines=2)

    def run() -> list[Tensor]:
        built.model.zero_grad()
        torch.manual_seed(1)
        value = loss.sum_loss(built, batch, 7)
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in built.model.parameters() if p.grad is not None)]

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # One chunk keeps its mask without being made again; the masks are drawn alike for the same chunks.
    torch.manual_seed(1)
    output = built.base.get_output_embeddings()
    states = loss.hidden_states(built, batch.input_ids, batch.position_ids)
    states = states.reshape(-1, states.shape[-1])[batch.label_index]
    targets = batch.labels.reshape(-1)[batch.label_index]
    kept = sum(
        F.cross_entropy(output(s).float(), t, reduction="sum")
        for s, t in zip(states.split(7), targets.split(7), strict=True)
    )
    built.model.zero_grad()
    assert isinstance(kept, Tensor)
    kept.backward()
    for a, b in zip(second[1:], (p.grad for p in built.model.parameters() if p.grad is not None), strict=True):
        assert b is not None
        assert torch.allclose(a, b, atol=1e-6)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, and all that autograd saves, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.saved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return found


def measured(make: Callable[[], Tensor]) -> Largest:
    with Largest() as seen:

        def keep(tensor: Tensor) -> Tensor:
            seen.saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            value = make()
        value.backward()
    return seen


def test_memory_is_that_of_a_chunk_not_of_all_logits() -> None:
    config = make_config("llama", vocab_size=5000, hidden_size=8, intermediate_size=8, num_attention_heads=2)
    built = bare(config)
    built.base.get_output_embeddings().requires_grad_(False)
    built.base.get_input_embeddings().requires_grad_(False)
    loss.check_head(built)
    batch = a_batch((15, 15), learned=1.0, lines=10)
    assert batch.label_tokens == 280
    seen = measured(lambda: loss.sum_loss(built, batch, 20))
    control = measured(lambda: plain_loss(built, batch))
    layers = measured(lambda: loss.hidden_states(built, batch.input_ids, batch.position_ids).sum())
    assert control.largest == 300 * 5000
    assert control.saved - layers.saved > 300 * 5000
    assert seen.largest == 20 * 5000
    # For the backward pass, the loss keeps the hidden states, 8 numbers a token, and no logits.
    assert seen.saved - layers.saved < 20 * 300


def test_logits_are_made_for_labels_only() -> None:
    config = make_config("llama", vocab_size=5000, hidden_size=8, intermediate_size=8, num_attention_heads=2)
    built = bare(config)
    loss.check_head(built)
    batch = a_batch((15, 15), learned=0.1, lines=10)
    assert batch.label_tokens < 50
    seen = measured(lambda: loss.sum_loss(built, batch))
    assert seen.largest == max(batch.label_tokens * 5000, 5000 * 8)


def test_default_chunk_follows_the_vocabulary() -> None:
    small, large = bare(make_config("llama")), bare(make_config("llama"))
    large.base.config.vocab_size = 2_000_000
    assert loss.chunk_size(small) == loss.CHUNK_ELEMENTS // small.base.config.vocab_size
    assert loss.chunk_size(large) == 64
