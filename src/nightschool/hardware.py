"""What the machine underneath has to give: the trainer's memory, the GPU's, room on the disk. Never raises."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nightschool import durable, gpus, inforce
from nightschool.errors import NightschoolError
from nightschool.workspace import Layout

GPU_SECONDS = 15.0
"""Between two questions to nvidia-smi: it takes up to a second of a processor."""
GPU_PATIENCE = 5.0
GPU_COLUMNS = "memory.used,memory.total"


@dataclass(frozen=True)
class Hardware:
    """Bytes; None where there is none, or nobody tells.

    Attributes:
        trainer_bytes: resident memory of the trainer.
        gpu_used, gpu_total: memory of the GPU, that of all programs on it.
        disk_free, disk_total: room where the workspace lies.
    """

    trainer_bytes: int | None = None
    gpu_used: int | None = None
    gpu_total: int | None = None
    disk_free: int | None = None
    disk_total: int | None = None


class Probe:
    """Looks at the hardware; asks the GPU's tool seldom, and never again where there is none.

    Args:
        layout: the workspace.
        clock: monotonic seconds.
    """

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._tool = shutil.which("nvidia-smi")
        self._gpu: tuple[int, int] | None = None
        self._gpu_at: float | None = None

    def look(self) -> Hardware:
        """What there is now; may take as long as nvidia-smi does."""
        pid = None
        with suppress(NightschoolError):
            pid = durable.holder(self._layout.trainer_lock)
        free = disk_total = None
        with suppress(OSError):
            disk = shutil.disk_usage(self._layout.root)
            free, disk_total = disk.free, disk.total
        used, total = self._ask_gpu() or (None, None)
        return Hardware(None if pid is None else resident(pid), used, total, free, disk_total)

    def _ask_gpu(self) -> tuple[int, int] | None:
        now = self._clock()
        if self._tool is None or (self._gpu_at is not None and now - self._gpu_at < GPU_SECONDS):
            return self._gpu
        self._gpu_at = now
        card = card_of(self._device(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._gpu = None if card is None else gpu_memory(gpus.query("gpu", GPU_COLUMNS, GPU_PATIENCE, card))
        return self._gpu

    def _device(self) -> str:
        """What model.device says, as far as that can be read."""
        with suppress(NightschoolError, OSError):
            return inforce.read(self._layout).model.device
        return "auto"


def card_of(device: str, visible: str | None) -> str | None:
    """What nvidia-smi is to be asked about for the GPU of model.device; None for one that is not to be seen. Pure.

    It takes a number or a UUID, so nobody need know all cards, as a lease does, which is named after one for good.

    Args:
        device: as in the settings. With `cpu` it is the first one: the page shows what there is.
        visible: CUDA_VISIBLE_DEVICES.
    """
    number = gpus.number(device) or 0
    if visible is None:
        return str(number)
    cards = [part.strip() for part in visible.split(",") if part.strip()]
    return cards[number] if number < len(cards) else None


def gpu_memory(lines: Sequence[str]) -> tuple[int, int] | None:
    """Bytes used and in all, from the first of nvidia-smi's lines in MiB; None where it says something else."""
    try:
        used, total = (int(part) << 20 for part in lines[0].split(","))
    except (ValueError, IndexError):
        return None
    return used, total


def resident(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Resident memory of a process in bytes; None where it is gone."""
    try:
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[int, int] | None:
    """Bytes of this computer's memory that are taken, and all; None where nobody tells."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return total - free, total
