"""Removing the snapshots that retention lets go of."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool import durable
from nightschool.snapshots import states
from nightschool.snapshots.retention import Rules, Verdict, decide
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.ledger import Ledger
    from nightschool.settings import SnapshotSettings


@dataclass(frozen=True)
class Room:
    """Bytes of a snapshot that nothing else holds, and that other folders hold too."""

    own: int
    shared: int


def rules_of(settings: SnapshotSettings) -> Rules:
    """The rules that the settings make."""
    return Rules(settings.keep_daily, settings.keep_weekly, settings.keep_monthly)


def judged(folder: Path, rules: Rules, today: date) -> list[Verdict]:
    """What becomes of each snapshot in a folder of them. Sizes are looked at, contents are not."""
    every = states.snapshots(folder)
    whole = {one.name for one in every if not durable.check(one.folder, deep=False)}
    return decide(every, rules, today, whole)


def prune(layout: Layout, ledger: Ledger, rules: Rules, today: date) -> list[Verdict]:
    """Remove what retention lets go of, and return those verdicts. Each goes as a whole or not at all.

    To be called with the lock of the way back held.

    Raises:
        StorageError: the disk refuses; those that are gone are gone, the others stay.
    """
    durable.sweep(layout.snapshots)
    gone = [verdict for verdict in judged(layout.snapshots, rules, today) if not verdict.keep]
    for verdict in gone:
        one = verdict.snapshot
        durable.remove_tree(one.folder)
        text = f"Removed the snapshot {one.name}: {verdict.why}."
        ledger.events.add("snapshot-removed", text, name=one.name, step=one.step)
    return gone


def room_of(folder: Path) -> Room:
    """What a folder weighs: a file with more names than it has here is shared with another folder."""
    names: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, int], os.stat_result] = {}
    for path in folder.rglob("*"):
        info = path.lstat()
        if stat.S_ISREG(info.st_mode):
            key = (info.st_dev, info.st_ino)
            names[key] = names.get(key, 0) + 1
            found[key] = info
    own = sum(info.st_size for key, info in found.items() if info.st_nlink <= names[key])
    return Room(own, sum(info.st_size for info in found.values()) - own)
