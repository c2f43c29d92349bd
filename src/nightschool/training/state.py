"""The training state on the host: a copy that the next step cannot change, and digests that tell two states apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor


@dataclass(frozen=True)
class HostState:
    """Weights by name, and the optimizer's state_dict, all in host memory."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class Digests:
    """xxh3-128 of the weights and of the optimizer's state, as hexadecimal digits."""

    weights: str
    optimizer: str

    def __str__(self) -> str:
        return f"{self.weights}:{self.optimizer}"


class HostBuffer:
    """Host memory that is kept from save to save, so that a copy costs no allocation.

    The copy is explicit for every tensor: `.cpu()` would hand out AdamW's step counter itself, which lives on the CPU
    even when the parameters do not, and the next step would change it in the middle of a save.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Tensor] = {}

    def capture(self, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> HostState:
        """Copy both; finished when this returns. The copy is valid until the next call."""
        host = HostState(
            {name: self._copy(("w", name), tensor) for name, tensor in weights.items()},
            self._copy_tree(("o",), optimizer.state_dict()),
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return host

    def _copy(self, key: tuple[str, ...], tensor: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._kept[key] = kept
        kept.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        return kept

    def _copy_tree(self, key: tuple[str, ...], value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._copy(key, value)
        if isinstance(value, dict):
            return {k: self._copy_tree((*key, str(k)), v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._copy_tree((*key, str(i)), v) for i, v in enumerate(value)]
        return value


def digests(weights: dict[str, Tensor], optimizer_state: dict[str, Any]) -> Digests:
    """Digests of a state, equal exactly when every bit is.

    Hyperparameters of the groups (learning rate, decay) are left out: they follow from the recipe, not from the past.
    """
    return Digests(weights_digest(weights), optimizer_digest(optimizer_state))


def weights_digest(weights: dict[str, Tensor]) -> str:
    """xxh3-128 over name, type, shape and bytes of each tensor, by name."""
    digest = xxhash.xxh3_128()
    for name in sorted(weights):
        _update(digest, name, weights[name])
    return digest.hexdigest()


def optimizer_digest(state: dict[str, Any]) -> str:
    """xxh3-128 over each parameter's optimizer state, by parameter name (by position where names were not kept)."""
    digest = xxhash.xxh3_128()
    for name, values in sorted(_by_parameter(state)):
        for key in sorted(values):
            _update(digest, f"{name}/{key}", values[key])
    return digest.hexdigest()


def _by_parameter(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for group in state["param_groups"]:
        names = group.get("param_names") or [f"{index:08d}" for index in group["params"]]
        for name, index in zip(names, group["params"], strict=True):
            if index in state["state"]:
                yield name, state["state"][index]


def _update(digest: xxhash.xxh3_128, name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        digest.update(f"{name}={value!r};".encode())
        return
    host = value.detach().cpu().contiguous()
    digest.update(f"{name}:{host.dtype}:{tuple(host.shape)};".encode())
    digest.update(host.reshape(-1).view(torch.uint8).numpy().data)
