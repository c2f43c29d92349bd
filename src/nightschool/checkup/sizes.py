"""How large a checkpoint is, or will be: measured, or told from the shapes in the base model's files. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nightschool import basemodel
from nightschool.settings import Settings
from nightschool.words import in_bytes
from nightschool.workspace import Layout

LONGEST_HEADER = 100_000_000
NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "score")
"""What an adapter on all linear layers leaves out, by a part of its name."""


def checkpoint_bytes(layout: Layout, settings: Settings, measured: int | None = None) -> tuple[int, str]:
    """How large a checkpoint is, or will be (0: not known), and how that is known.

    Raises:
        ModelError: there is no checkpoint, and the base model cannot be looked at.
    """
    saved = layout.checkpoints()
    if saved:
        size = sum(path.stat().st_size for path in saved[-1][1].rglob("*") if path.is_file())
        return size, f"a checkpoint takes {in_bytes(size)}"
    if measured is not None:
        return measured, f"a checkpoint will take {in_bytes(measured)}"
    folder = basemodel.resolve(settings.model.name, settings.model.revision)
    if settings.training.method == "lora":
        # Weights and two moments, in float32.
        size = 12 * adapter_parameters(folder, settings.lora_config())
        return size, f"a checkpoint will take about {in_bytes(size)}" if size else "no checkpoint yet"
    # The same of what lies on the disk in 2 bytes a parameter or more.
    size = 6 * weight_bytes(folder)
    return size, f"a checkpoint will take up to {in_bytes(size)}"


def weight_bytes(folder: Path) -> int:
    """Size of a base model's weight files."""
    return sum(p.stat().st_size for p in basemodel.model_files(folder) if p.suffix in (".safetensors", ".bin"))


def adapter_parameters(folder: Path, lora: Mapping[str, Any]) -> int:
    """Parameters of an adapter, about; 0 where the shapes of the base model cannot be read."""
    rank, targets = int(lora.get("r") or 0), lora.get("target_modules")
    found = 0
    for name, shape in _shapes(folder):
        if len(shape) == 2 and _is_target(name, targets):
            found += rank * (shape[0] + shape[1])
    return found


def _is_target(name: str, targets: Any) -> bool:
    module = name.removesuffix(".weight")
    if module == name:
        return False
    if isinstance(targets, str) and targets != "all-linear":
        return re.fullmatch(targets, module) is not None
    if isinstance(targets, list):
        return any(module == target or module.endswith(f".{target}") for target in targets)
    return not any(part in module for part in NOT_LINEAR)


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor in the safetensors files, from their headers; none of what is not one."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length)) if length <= LONGEST_HEADER else {}
            items = [(name, value["shape"]) for name, value in header.items() if name != "__metadata__"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        yield from items
