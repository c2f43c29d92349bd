"""The device that a run trains on, and getting the model onto it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from nightschool.errors import DeviceError, ModelError
from nightschool.training import memory, model
from nightschool.training.loop import Loop

if TYPE_CHECKING:
    from accelerate import Accelerator

    from nightschool.record import Record
    from nightschool.settings import Settings
    from nightschool.training.data import OpenFile


def make_accelerator(settings: Settings) -> Accelerator:
    """The device and its arithmetic, through Accelerate: autocast to bfloat16 where the device has it."""
    chosen = settings.model.device
    if chosen not in ("auto", "cpu"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = chosen
    from accelerate import Accelerator
    from accelerate.state import PartialState

    device = PartialState(cpu=chosen == "cpu").device
    assert device is not None
    if device.type == "cuda" and device.index is not None:
        # Accelerate only names it. Seeds, and waiting for copies, are meant for the current device.
        torch.cuda.set_device(device)
    half = model.resolve_dtype(settings.model.dtype, "lora", device) == "bfloat16"
    return Accelerator(mixed_precision="bf16" if half else "no", cpu=chosen == "cpu")


def require(accelerator: Accelerator, settings: Settings, record: Record | None) -> None:
    """A run that trained on a GPU does not go on without one unless it is told to: that could take a year.

    Raises:
        DeviceError: the GPU is not there.
    """
    before = str((record.numerics if record else {}).get("device", "cpu"))
    if before != "cpu" and accelerator.device.type == "cpu" and settings.model.device == "auto":
        raise DeviceError(
            f"This run trained on {before}, and no GPU is there now. Training goes on when it is back (`nvidia-smi` "
            'shows whether it is). To go on without: set model.device = "cpu".'
        )


def make_loop(
    settings: Settings, root: dict[str, Any], accelerator: Accelerator, open_file: OpenFile, cell: int
) -> Loop:  # fmt: skip
    """Load the model onto the device.

    Raises:
        DeviceError: others hold the device's memory.
        ModelError: the model cannot be loaded, or does not fit.
    """
    try:
        return Loop(settings, root, accelerator, open_file, cell)
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out(error):
            raise
    others = memory.others_hold(accelerator.device)
    if others is not None:
        raise memory.taken(accelerator.device, others)
    raise ModelError(
        f"The base model {settings.model.name} does not fit on {accelerator.device} in {root['dtype']}. Begin a new "
        'run with model.quantization = "4bit" or a smaller base model, or end what else uses the device.'
    )
