"""Reading checkpoints for minutes while others may move them: a cut moves them away, and back.

Nothing is locked. One that was moved while it was read only looks damaged, and is read once more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from nightschool.record import read_generation
from nightschool.snapshots import inspection
from nightschool.workspace import Layout

T = TypeVar("T")


class Reading(Generic[T]):
    """What was found of checkpoints, one after the other.

    Args:
        layout: the workspace.
        read: reads a checkpoint's folder.
        bad: whether what was found is no good.
    """

    def __init__(self, layout: Layout, read: Callable[[Path], T], bad: Callable[[T], bool]) -> None:
        self._layout = layout
        self._read = read
        self._bad = bad
        self._found: dict[Path, tuple[object, T]] = {}

    def read(self, folder: Path) -> None:
        """Read a checkpoint.

        Raises:
            CheckpointError: the generation cannot be read.
        """
        place = self._place(folder)  # before it is read: what is moved later is noticed
        self._found[folder] = (place, self._read(folder))

    def settled(self, told: Callable[[str], Any] = lambda _: None) -> dict[Path, T]:
        """What was found, in the order of reading; those that were moved and are back are read again for it.

        Those that are gone are left out: retention may have taken one away meanwhile. To be asked as late as can be,
        so that a cut that is at work comes to its end. Raises as `read`.

        Args:
            told: called with what is read again, a sentence.
        """
        for folder, (place, found) in self._found.items():
            while self._bad(found) and folder.is_dir() and place != self._place(folder):
                told(f"Reading {folder.name} once more: it was moved meanwhile.")
                self.read(folder)
                place, found = self._found[folder]
        return {folder: found for folder, (_, found) in self._found.items() if folder.is_dir()}

    def _place(self, folder: Path) -> object:
        """Differs where the folder was moved, or is another one of that name: cuts alone move them."""
        return read_generation(self._layout), inspection.written(folder)
