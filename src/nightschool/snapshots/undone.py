"""How long what a cut has taken out is kept: as long as that cut is among the last few."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool import durable
from nightschool.snapshots import serving
from nightschool.snapshots.cut import LAST_CUT
from nightschool.snapshots.states import LEDGER
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.ledger import Ledger


def surplus(folders: Iterable[int], cuts: Iterable[int], keep: int) -> list[int]:
    """The folders of `undone/` that go, by the number of their generation.

    Args:
        folders: all there are; what was found damaged is in them too.
        cuts: those in which a cut keeps what it took out.
        keep: how many of these to keep, the latest ones.
    """
    kept = sorted(cuts)[-keep:]
    return sorted(number for number in folders if kept and number < kept[0])


def prune(layout: Layout, ledger: Ledger, keep: int) -> list[str]:
    """Remove what `surplus` lets go of, but never what `current_model/` points at; the names of what is gone.

    To be called with the lock of the way back held.

    Raises:
        StorageError: the disk refuses; those that are gone are gone, the others stay.
    """
    durable.sweep(layout.undone)
    there = {int(path.name): path for path in layout.undone.glob("[0-9]*") if path.name.isdecimal() and path.is_dir()}
    last = (ledger.machine.get(LAST_CUT) or {}).get("undone")
    # A cut that was refused or killed before it came about has left a copy of the ledger, and took nothing out.
    cuts = [
        number
        for number, path in there.items()
        if (path / LEDGER).exists() and (number == last or any(path.glob("checkpoint-*")))
    ]
    served = (layout.current_model / serving.LATEST).resolve()
    gone = []
    for number in surplus(there, cuts, keep):
        folder: Path = there[number]
        if served.is_relative_to(folder.resolve()):
            continue
        durable.remove_tree(folder)
        gone.append(f"{layout.undone.name}/{folder.name}")
        ledger.events.add("undone-removed", f"Removed {gone[-1]}: {keep} later cuts are kept.", generation=number)
    return gone
