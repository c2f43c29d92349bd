"""Whether there is room on the disk for what comes next. Pure, but for the question how much is free."""

from __future__ import annotations

import shutil
from pathlib import Path

from nightschool.words import in_bytes

GB = 1_000_000_000


def room_needed(checkpoint_bytes: int | None, min_free: int) -> int:
    """Bytes that must be free before training goes on: the next checkpoint, and what is to be left beside it.

    Args:
        checkpoint_bytes: size of the newest checkpoint, for the next one is as large; None before the first.
        min_free: machine.min_free_gb, in bytes.
    """
    return (checkpoint_bytes or 0) + min_free


def too_little(free: int, needed: int) -> str | None:
    """Why it must wait for the disk, a clause without a full stop; None where there is room."""
    if free >= needed:
        return None
    return (
        f"{in_bytes(needed)} must be free for the next checkpoint and what is kept free beside it "
        f"(machine.min_free_gb), and {in_bytes(free)} are"
    )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the disk of `folder`. Raises OSError where it cannot be asked."""
    return shutil.disk_usage(folder).free


def lacking(folder: Path, checkpoint_bytes: int | None, min_free_gb: float) -> str | None:
    """Why the next checkpoint has no room on the disk of `folder`, a clause without a full stop; None where it has.

    Raises OSError where the disk cannot be asked.
    """
    return too_little(free_bytes(folder), room_needed(checkpoint_bytes, int(min_free_gb * GB)))
