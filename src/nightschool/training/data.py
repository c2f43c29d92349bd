"""The sequences of an entry, numbered through over its files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from nightschool.curriculum import Entry, Part
from nightschool.errors import DataError
from nightschool.intake.prepared import PreparedReader

if TYPE_CHECKING:
    import numpy as np

    Sequence4 = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

OpenFile = Callable[[int], PreparedReader]
"""Gives the reader of a data file's prepared folder, by the file's id."""


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
