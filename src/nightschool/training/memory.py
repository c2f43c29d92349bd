"""Out of memory, and a GPU that is lost: whose fault it is, and what to do about it."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from nightschool import gpus
from nightschool.errors import DeviceError, TrainingError

if TYPE_CHECKING:
    from nightschool.ledger import Ledger

CELL = "cell"
"""The machine row with the size of a cell that fits, where the one in the settings did not: {"asked", "size"}."""
UPDATE = "update_out_of_memory"
"""The machine row with the step whose update did not fit, in which generation, and how often in a row: {"step",
"generation", "times"}. After a cut, a step of that number may be another one."""
UPDATES = 3
"""So often the update of one step is tried, each time in a new process, which begins with an unused device."""

_LOST = (
    "unspecified launch failure",
    "no cuda-capable device",
    "devices are busy or unavailable",
    "invalid device ordinal",
    "uncorrectable",
    "gpu is lost",
    "fallen off the bus",
    "hardware stack error",
    "driver shutting down",
    "system not yet initialized",
    "cuda unknown error",
    "unknown error",
    "contained by",
)
"""Of what CUDA says, that which no data file can bring about. A failed assertion on the device is not among it."""

_OUT = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What is said where it is not torch's allocator that finds no memory: on the host, or as a card is first used."""


def is_out(error: BaseException) -> bool:
    """Whether it says that memory ran out, on the device or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT)
    )


def is_lost(error: BaseException) -> bool:
    """Whether it says that the GPU, and not what was computed on it, failed."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and "cuda" in text and any(words in text for words in _LOST)


@dataclass(frozen=True)
class Verdict:
    """What to do about a step that did not fit.

    Attributes:
        what: `again` as it was; `split` into cells of size `cell`; `wait` for others to let go; `stop`.
        cell: sequences that go through the model together from now on.
    """

    what: Literal["again", "split", "wait", "stop"]
    cell: int


def after_failure(failures: int, cell: int, others: bool) -> Verdict:
    """Decide what follows when memory ran out.

    Args:
        failures: how often in a row, in this step and at this size, counted from 1.
        cell: the size of a cell.
        others: whether other programs hold a good part of the device.
    """
    if others:
        return Verdict("wait", cell)
    if failures == 1:
        # What lies about in the allocator's cache may have been in the way.
        return Verdict("again", cell)
    return Verdict("split", cell // 2) if cell > 1 else Verdict("stop", cell)


def keep_what_is() -> None:
    """Let collections pass over all that there is now: libraries and the model, which stay until the process ends.

    Of their hundreds of thousands of objects each `free` looked at every one, for a third of a second and more: time in
    which the device waits for a step to be made again, or whoever pauses the machine waits for the device.
    """
    gc.collect()
    gc.freeze()


def free(device: torch.device) -> None:
    """Give back what no tensor uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def others_hold(device: torch.device) -> str | None:
    """Who holds so much of the device that it is no wonder if memory runs out; None where nobody else does."""
    if device.type != "cuda":
        return None
    try:
        unused, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        if not is_out(error):
            raise
        # The first call to a card takes some of its memory, and there is not even that.
        return gpus.named("other programs hold all of it", gpus.programs())
    theirs = total - unused - torch.cuda.memory_reserved(device)
    if theirs <= gpus.others_may_hold(total):
        return None
    return gpus.told(theirs, total, gpus.programs())


def taken(device: torch.device, who: str) -> DeviceError:
    """The error for a device that others hold."""
    return DeviceError(
        f"There is no room on {device}: {who}. Training goes on by itself when there is; nothing is held against the "
        "file in training."
    )


def lost(error: BaseException) -> DeviceError:
    """The error for a GPU that failed."""
    said = str(error).strip().splitlines()[0]
    return DeviceError(
        f"The GPU failed ({said}). Training goes on from the last checkpoint as soon as it works again; `dmesg` and "
        "`nvidia-smi` may tell more."
    )


def explained(error: BaseException, chosen: str) -> DeviceError | None:
    """The error to raise where the process ends by what the device, or others on it, did; None where it is another.

    Args:
        error: what ends it.
        chosen: the setting model.device.
    """
    if is_lost(error):
        return lost(error)
    if not is_out(error) or chosen == "cpu" or not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if chosen == "auto" else chosen)
    others = others_hold(device)
    return None if others is None else taken(device, others)


class UpdateError(DeviceError):
    """An update that did not fit, although nobody else holds the device. The state must not be saved."""


def update_failed(ledger: Ledger, step: int, generation: int, error: UpdateError) -> DeviceError | TrainingError:
    """The error to end the process with: it is tried again from the last checkpoint, but not for ever.

    Smaller cells would not help: moments are as large as they are.

    Args:
        ledger: keeps count over the processes.
        step: the step that was not taken, from 1.
        generation: that of the run.
    """
    place = {"step": step, "generation": generation}
    before = ledger.machine.get(UPDATE) or {}
    times = 1 + (int(before["times"]) if place.items() <= before.items() else 0)
    if times < UPDATES:
        ledger.machine.set(UPDATE, {**place, "times": times})
        return DeviceError(f"{error} It is begun again from the last checkpoint.")
    # Whoever resumes has changed something, and gets as many tries.
    ledger.machine.delete(UPDATE)
    return TrainingError(
        f"{error} That was {times} times in a row, so it does not fit. End what else uses memory, then `nightschool "
        "resume` goes on; or make a new run with a lower lora.r, or an optimizer with a smaller state."
    )


def cell_size(asked: int, remembered: Mapping[str, Any] | None) -> int:
    """Sequences that go through the model together: as the settings ask, or what was found to fit under them."""
    if remembered and remembered.get("asked") == asked:
        return int(remembered["size"])
    return asked
