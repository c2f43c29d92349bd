"""What equal bits depend on besides root and curriculum: randomness, kernels, threads, versions."""

from __future__ import annotations

import hashlib
import os
import platform
import random
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from nightschool.errors import SettingsError

if TYPE_CHECKING:
    from nightschool.settings import NumericsSettings, Settings
    from nightschool.training.model import Built

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def hashed_seed(*parts: object) -> int:
    """63 bits from a hash of the parts: independent streams for neighbouring numbers."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_cell(seed: int, step: int, cell: int) -> None:
    """Make every random draw that follows a function of (seed, step, cell), wherever and after whatever it happens.

    Covers torch on the CPU and the current GPU and Python's `random`: what transformers and PEFT draw from in a forward
    pass. 10 microseconds; `torch.manual_seed` asks every kind of device there might be and takes fifteen times as long.
    """
    value = hashed_seed(seed, "cell", step, cell)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)
    random.seed(value)


def configure(settings: NumericsSettings) -> None:
    """Pin kernels and threads for this process. To be called before the first tensor reaches a GPU.

    One core is left free by default: saving and intake need it, and with all cores taken a background save slows
    training several times as much.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(settings.threads or max(1, cores - 1))
    if settings.deterministic:
        # cuBLAS reads this once, when the first handle is made; without it, torch refuses deterministic matmuls.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
    # Not warn_only: a kernel that cannot repeat its bits must be known, and some choose their repeatable variant only
    # in this mode.
    torch.use_deterministic_algorithms(settings.deterministic)
    torch.backends.cudnn.deterministic = settings.deterministic
    torch.backends.cudnn.benchmark = False
    # Filling fresh memory with NaN finds bugs, not differences, and costs a pass over every allocation.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - unknown to the type checker


def advice(error: BaseException) -> SettingsError | None:
    """The error to show when torch refused an operation because it has no deterministic kernel; None for others."""
    text = str(error)
    if "deterministic" not in text or not isinstance(error, RuntimeError):
        return None
    operation = text.split(" does not have", maxsplit=1)[0].strip() if " does not have" in text else "an operation"
    return SettingsError(
        f"The model needs {operation}, which has no kernel here that gives the same bits twice. Set "
        "numerics.deterministic = false in nightschool.toml to train all the same; the change is recorded, and a run "
        "that is stopped and started then agrees with an undisturbed one to rounding only."
    )


def numerics(built: Built, settings: Settings, packed: bool, cell: int) -> dict[str, Any]:
    """Everything recorded in a checkpoint about how its bits came to be; plain JSON values."""
    device = torch.device(built.device)
    found: dict[str, Any] = {
        "processes": 1,
        "cell": cell,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": _device_name(device),
        "driver": _driver(device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "dtype": built.dtype,
        "attention": built.attention,
        "optimizer": settings.training.optimizer,
        "packed": packed,
    }
    if device.type == "cpu":
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _driver(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    # The runtime decides the kernels; the driver's own number is the module's, where the kernel shows it.
    try:
        with open("/sys/module/nvidia/version", encoding="ascii") as stream:  # noqa: PTH123 - no Path work to do
            return f"{stream.read().strip()} (CUDA {torch.version.cuda})"
    except OSError:
        return f"CUDA {torch.version.cuda}"


_WORDS = {
    "processes": "the number of processes",
    "cell": "sequences in a cell (training.micro_batch_size)",
    "threads": "the number of threads",
    "python": "Python",
    "machine": "the processor type",
    "cpu_capability": "the processor's vector instructions",
    "device": "the device",
    "driver": "the GPU driver",
    "deterministic": "deterministic kernels",
    "matmul_precision": "the precision of float32 products",
    "dtype": "the model's type",
    "autocast": "the type that products are computed in",
    "attention": "the attention implementation",
    "optimizer": "the optimizer",
    "packed": "packing of rows in one pass",
}
# Shown in a checkpoint, but no cause of other bits.
_NO_MATTER = {"python"}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two records of numerics, in plain words; empty where equal bits are to be expected."""
    keys = [*_WORDS, *sorted((set(old) | set(new)) - set(_WORDS))]
    return [
        f"{_WORDS.get(key, key)}: {_value(old.get(key))} before, {_value(new.get(key))} now"
        for key in keys
        if key not in _NO_MATTER and old.get(key) != new.get(key)
    ]


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
