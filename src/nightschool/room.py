"""Whether there is room on the disk for what comes next. Pure, but for the question how much is free."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool.words import in_bytes

if TYPE_CHECKING:
    from nightschool.ledger import Ledger
    from nightschool.workspace import Layout

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


def lacking(layout: Layout, ledger: Ledger, min_free_gb: float) -> str | None:
    """Why the next checkpoint of a workspace has no room, a clause without a full stop; None where it has.

    Raises:
        OSError: the disk cannot be asked.
        StorageError: the ledger cannot be read.
    """
    newest = ledger.checkpoints.newest()
    size = newest.bytes_adapter + newest.bytes_optimizer if newest else None
    return too_little(free_bytes(layout.current_model), room_needed(size, int(min_free_gb * GB)))
