"""The loss: the sum of cross entropy over label tokens, with logits made for those alone.

A causal LM's own forward makes logits for every position and keeps them for the backward pass: at a vocabulary of
150,000 and 2,048 tokens that is 1.2 GB in float32, several times over. Here the backbone is run by itself and the
output layer only where something is learned, in chunks whose logits are made again in the backward pass.

What a model does between its output layer and its logits (caps, scales) is part of its forward and not of any module.
`check_head` finds out which of the known ways gives the model's own logits, and falls back to its own forward if none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from nightschool.training.batch import Batch
    from nightschool.training.model import Built

CHUNK_ELEMENTS = 2**26
"""Logits made at a time: 256 MiB in float32."""


@dataclass(frozen=True)
class Head:
    """How logits come from the output layer.

    Attributes:
        scale: the output layer's result is multiplied by it.
        cap: afterwards, cap * tanh(x / cap).
        own_forward: reason to use the model's own forward instead; None where backbone and output layer suffice.
    """

    scale: float = 1.0
    cap: float | None = None
    own_forward: str | None = None

    def finish(self, logits: Tensor) -> Tensor:
        """From the output layer's result to logits, in the order and type the models do it."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def sum_loss(built: Built, batch: Batch, chunk_tokens: int | None = None) -> Tensor:
    """Sum of cross entropy, in nats, over the batch's label tokens: a float32 scalar that knows its gradient.

    Args:
        built: `check_head` must have been called on it.
        batch: see `batch.collate`.
        chunk_tokens: label tokens whose logits exist at a time; as many as CHUNK_ELEMENTS allows if None.
    """
    head = built.head
    if head is None:
        raise AssertionError("check_head comes before the first loss")
    labels = batch.labels.reshape(-1).index_select(0, batch.label_index)
    if head.own_forward is not None:
        logits = own_logits(built, batch.input_ids, batch.position_ids)
        return _entropy(logits.reshape(-1, logits.shape[-1]).index_select(0, batch.label_index), labels)
    states = hidden_states(built, batch.input_ids, batch.position_ids)
    states = states.reshape(-1, states.shape[-1]).index_select(0, batch.label_index)
    output = built.base.get_output_embeddings()

    def part(chunk: Tensor, targets: Tensor) -> Tensor:
        return _entropy(head.finish(output(chunk)), targets)

    size = chunk_tokens or chunk_size(built)
    if len(labels) <= size:
        return part(states, labels)
    total = states.new_zeros((), dtype=torch.float32)
    for chunk, targets in zip(states.split(size), labels.split(size), strict=True):
        total = total + checkpoint(part, chunk, targets, use_reentrant=False)  # pyright: ignore[reportOperatorIssue]
    return total


def chunk_size(built: Built) -> int:
    """Label tokens per chunk for this model's vocabulary."""
    return max(64, CHUNK_ELEMENTS // vocabulary(built))


def vocabulary(built: Built) -> int:
    """Number of tokens the model knows."""
    return int(built.base.config.get_text_config().vocab_size)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def hidden_states(built: Built, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """The backbone's last hidden states, [B, T, H]."""
    backbone = built.base.base_model
    # Explicitly: with a cache, transformers ignores where packed rows begin, and they leak into each other.
    result = backbone(input_ids=input_ids, use_cache=False, **_positions(backbone, position_ids))
    return result[0] if isinstance(result, tuple) else result.last_hidden_state


def own_logits(built: Built, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Logits by the model's own forward, [B, T, V]."""
    base = built.base
    return base(input_ids=input_ids, use_cache=False, **_positions(base, position_ids)).logits


def takes_positions(module: Any) -> bool:
    """Whether a model's forward takes position ids."""
    return _names_positions(getattr(module.forward, "__func__", module.forward))


@lru_cache(maxsize=64)
def _names_positions(forward: Callable[..., Any]) -> bool:
    # By name: a model that swallows them among its further arguments may not read them. Kept: reading a signature takes
    # a tenth of a millisecond, in every cell.
    return "position_ids" in inspect.signature(forward).parameters


def _positions(module: Any, position_ids: Tensor) -> dict[str, Tensor]:
    return {"position_ids": position_ids} if takes_positions(module) else {}


@torch.no_grad()
def check_head(built: Built) -> str | None:
    """Find how this model makes logits, and set `built.head`; to be called once, before the first loss.

    Returns:
        None, or why the model's own forward has to be used, which takes more memory.
    """
    training = built.model.training
    built.model.eval()
    try:
        built.head = _find_head(built)
    finally:
        built.model.train(training)
    return built.head.own_forward


def _find_head(built: Built) -> Head:
    output = built.base.get_output_embeddings()
    if output is None:
        return Head(own_forward="the model has no output layer of its own")
    if built.base.base_model is built.base:
        return Head(own_forward="the model's backbone cannot be told from its output layer")
    rows = torch.arange(1, 17, device=built.device).reshape(1, -1) % vocabulary(built)
    places = torch.arange(16, device=built.device).reshape(1, -1)
    wanted = own_logits(built, rows, places)
    # A random model's logits are so small that a cap of 30 hardly shows: look also at large ones.
    factor = 50.0 / wanted.abs().max().clamp(min=1e-6).item()
    try:
        with _scaled_input(output, factor):
            large = own_logits(built, rows, places)
        states = hidden_states(built, rows, places)
        small_made = output(states)
        with _scaled_input(output, factor):
            large_made = output(states)
    except (TypeError, AttributeError, RuntimeError, IndexError) as error:
        return Head(own_forward=f"its backbone cannot be run by itself ({error})")
    if torch.equal(large, wanted):
        return Head(own_forward="its logits do not come from its output layer")
    for head in _candidates(built.base):
        if _agree(head.finish(small_made), wanted) and _agree(head.finish(large_made), large):
            return head
    return Head(own_forward="its logits are not those of its output layer in any way known here")


@contextmanager
def _scaled_input(module: Any, factor: float) -> Iterator[None]:
    def scale(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * factor, *inputs[1:])

    handle = module.register_forward_pre_hook(scale)
    try:
        yield
    finally:
        handle.remove()


def _candidates(base: Any) -> Iterator[Head]:
    """The known ways from output layer to logits that this model's configuration could mean, the simplest last."""
    config = base.config.get_text_config()
    scales = [1.0]
    for name, use in _SCALES:
        for holder in (config, base, base.base_model):
            value = getattr(holder, name, None)
            if isinstance(value, int | float) and not isinstance(value, bool) and value:
                scales.append(use(float(value)))
    caps: list[float | None] = [None]
    for name in ("final_logit_softcapping", "softcap", "final_logits_softcapping", "logits_soft_cap"):
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value:
            caps.append(float(value))
    for cap, scale in product(reversed(caps), reversed(scales)):
        yield Head(scale, cap)


_SCALES: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("logit_scale", lambda v: v),
    ("logits_scaling", lambda v: v),
    ("logits_scaling", lambda v: 1 / v),
    ("lm_head_multiplier", lambda v: v),
    ("output_multiplier", lambda v: v),
    ("logits_mup_width_multiplier", lambda v: 1 / v),
)


def _agree(ours: Tensor, wanted: Tensor) -> bool:
    """Equal to 1e-4 of the largest logit; to 2 % in 16-bit types, whose rounding alone makes 1 %."""
    if ours.shape != wanted.shape:
        return False
    exact = wanted.dtype in (torch.float32, torch.float64)
    scale = wanted.float().abs().max().clamp(min=1.0)
    return bool((ours.float() - wanted.float()).abs().max() <= (1e-4 if exact else 2e-2) * scale)
