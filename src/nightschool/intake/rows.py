"""Rows as they come out of a file: a number and an object, or a number and what is wrong with it.

Numbers are what a person finds the row by. For JSON Lines, CSV and TSV it is the line on which the row begins, counted
from 1; for JSON and Parquet the position of the row, counted from 1; for text the line on which the piece begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LONGEST_ROW = 8 << 20
"""Bytes in one row, at most. Longer ones are bad rows; their bytes are skipped, never held."""

PREVIEW = 2000
"""Characters of a bad row that are kept beside the reason. All of it is in the archived file."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. `reason` is the same text for the same mistake; `detail` is about this row."""

    number: int
    reason: str
    detail: str = ""
    preview: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


Rows = Iterator[tuple[int, Any]]
"""(row number, object or BadRow), each number once and in order."""


def preview(data: bytes | bytearray | memoryview) -> str:
    """The beginning of a row's bytes as text, whatever they are."""
    return bytes(data[: 4 * PREVIEW]).decode("utf-8", "backslashreplace")[:PREVIEW]


def too_long(number: int, size: int, longest: int, head: bytes | bytearray | memoryview) -> BadRow:
    """The bad row that stands for one of `size` bytes, more than `longest`; `head` is how it begins."""
    return BadRow(number, f"longer than {longest} bytes", f"it has {size} bytes", preview(head))
