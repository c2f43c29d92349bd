"""The sequences of an entry, numbered through over its files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from nightschool import durable
from nightschool.curriculum import Entry, Part
from nightschool.errors import DataError, StorageError
from nightschool.intake.prepared import HOLDOUT, PreparedReader

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from nightschool.ledger import Ledger
    from nightschool.workspace import Layout

    Sequence4 = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

OpenFile = Callable[[int], PreparedReader]
"""Gives the reader of a data file's prepared folder, by the file's id."""


class PreparedFiles:
    """The tokens of the data files of one workspace."""

    def __init__(self, layout: Layout, ledger: Ledger) -> None:
        self._layout = layout
        self._ledger = ledger

    def open(self, file_id: int) -> PreparedReader:
        """What is trained on. Raises StorageError where it is gone or not whole."""
        return PreparedReader(self._folder(file_id))

    def open_holdout(self, file_id: int) -> PreparedReader | None:
        """What was held out, if anything was. Raises StorageError where it is gone or not whole."""
        folder = self._folder(file_id)
        return PreparedReader(folder, name=HOLDOUT) if (folder / HOLDOUT).exists() else None

    def _folder(self, file_id: int) -> Path:
        """Looked at without reading the tokens."""
        row = self._ledger.files.get(file_id)
        folder = self._layout.prepared / str(row.prepared)
        if durable.check(folder, deep=False):
            # Not for the user to mend: intake makes it again, and the next start finds it.
            raise StorageError(
                f"The prepared data of {row.name} in {folder} is gone or not whole. It is prepared again from the "
                "archive."
            )
        return folder


class EntryData:
    """Reads the sequences of an entry, having made sure that they are what its training began with.

    Of several files, which are small, all sequences are held in memory; one file, of any size, is read as it goes.

    Raises:
        DataError: the prepared data of a file is not what it was.
    """

    def __init__(self, entry: Entry, open_file: OpenFile) -> None:
        self._reader: PreparedReader | None = None
        self._parts: list[list[Sequence4]] = []
        if len(entry.parts) == 1:
            self._reader = _checked(open_file(entry.parts[0].file_id), entry.parts[0])
        else:
            for part in entry.parts:
                with _checked(open_file(part.file_id), part) as reader:
                    self._parts.append([reader.sequence(at) for at in range(part.sequences)])
        self._ends = list(accumulate(part.sequences for part in entry.parts))

    def sequence(self, number: int) -> Sequence4:
        """(input_ids int32, train int8, lengths int32, rows int32) of a sequence of the entry, read-only."""
        if self._reader is not None:
            return self._reader.sequence(number)
        part = bisect_right(self._ends, number)
        return self._parts[part][number - self._ends[part]]

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()


def _checked(reader: PreparedReader, part: Part) -> PreparedReader:
    found = reader.digest()
    if found != part.data_digest:
        reader.close()
        raise DataError(
            f"The prepared data of file {part.file_id} is not what its training began with (digest {found[:12]}, "
            f"expected {part.data_digest[:12]}): the tokens would be others. Restore .nightschool/prepared from a "
            "backup."
        )
    return reader
