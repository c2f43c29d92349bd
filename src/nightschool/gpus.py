"""What nvidia-smi tells about GPUs and who uses them. Imports no torch: the supervisor asks too."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nightschool.words import escape, in_bytes

SMALL_SHARE = 10
LITTLE = 1_000_000_000
SECONDS = 20.0

_stuck: subprocess.Popen[str] | None = None
"""One that did not answer, and perhaps cannot even be killed."""

log = logging.getLogger("nightschool.gpus")


@dataclass(frozen=True)
class Program:
    """A process on a GPU: its number, its name, and the bytes it holds there, where the driver tells them."""

    pid: int
    name: str
    bytes: int | None


def number(device: str) -> int | None:
    """Which of the GPUs that a process may use model.device means, counted from 0; None for what is no GPU."""
    found = re.fullmatch(r"(?:auto|cuda(?::(\d+))?)", device)
    return None if found is None else int(found[1] or 0)


def others_may_hold(total: int) -> int:
    """Bytes that other programs may hold on a GPU of this size without being called the cause of anything.

    A desktop and a browser are always there; the context of CUDA itself counts as others', too.
    """
    return max(LITTLE, total // SMALL_SHARE)


def programs() -> list[Program]:
    """The processes that compute on any GPU, this one left out; none where nvidia-smi is missing or tells nothing."""
    found = []
    for line in query("compute-apps", "pid,used_memory,process_name"):
        pid, used, name = (part.strip() for part in (*line.split(",", 2), "", "")[:3])
        if pid.isdigit() and int(pid) != os.getpid():
            held = int(used) * 1024 * 1024 if used.isdigit() else None
            found.append(Program(int(pid), Path(name).name or "a program", held))
    return found


def query(what: str, columns: str, seconds: float = SECONDS, index: str | None = None) -> list[str]:
    """Lines of `nvidia-smi --query-WHAT=COLUMNS`, without headings and units; none where it cannot be run.

    Args:
        what, columns: as it names them.
        seconds: after so long it is given up, which is said in the log. While one that was given up is still there, no
            other is started.
        index: number or UUID of the one GPU to be asked about; all, if not given.
    """
    which = [] if index is None else ["-i", index]
    command = ["nvidia-smi", *which, f"--query-{what}={columns}", "--format=csv,noheader,nounits"]
    global _stuck
    if _stuck is not None and _stuck.poll() is None:
        return []
    try:
        tool = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError:
        return []
    _stuck = None
    try:
        said, _ = tool.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # Not waited for after that: inside a driver that hangs, no signal reaches it.
        tool.kill()
        if tool.stdout is not None:
            tool.stdout.close()
        _stuck = tool
        log.warning(
            "nvidia-smi did not answer within %.0f s and was given up: nothing is known about the GPU just now. Its "
            "driver may hang; `dmesg` may tell more.", seconds,
        )  # fmt: skip
        return []
    return [line for line in said.splitlines() if line.strip()] if tool.returncode == 0 else []


def told(theirs: int, total: int, who: Sequence[Program]) -> str:
    """Who holds how much, in words."""
    return named(f"other programs hold {in_bytes(theirs)} of {in_bytes(total)}", who)


def named(text: str, who: Sequence[Program]) -> str:
    """A text, with the first of some programs behind it."""
    names = [
        f"{escape(one.name)} (process {one.pid}{f', {in_bytes(one.bytes)}' if one.bytes else ''})" for one in who[:3]
    ]
    return text + (f": {', '.join(names)}" if names else "")
