"""A first look at a data file: what it is and about how many rows it has, in the time of a command. No tokenizer."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nightschool.errors import DataError
from nightschool.intake.containers import Opened, open_rows
from nightschool.intake.rows import BadRow
from nightschool.intake.shapes import RowError, map_columns, recognise

ROWS = 200
"""Rows whose shape is looked at."""
BYTES, MOST = 4 << 20, 20_000
"""Bytes and rows that are read to count rows, at most; beyond them the rest is taken to be like them."""


@dataclass(frozen=True)
class Glance:
    """What the beginning of a file says.

    Attributes:
        container: jsonl, csv.gz, …; None where it is nothing that is read.
        shape: of the first rows, or `mixed`; None where none of them can be used.
        rows: how many there are, rounded where they were not counted; None where that cannot be told.
        exact: whether they were counted.
        problem: what is wrong with the file, or with the first row that cannot be used; else "".
    """

    container: str | None
    shape: str | None
    rows: int | None
    exact: bool
    problem: str = ""

    def __str__(self) -> str:
        parts = [part for part in (self.container, self.shape) if part]
        if self.rows is not None:
            noun = "row" if self.rows == 1 else "rows"
            parts.append(f"{'' if self.exact else 'about '}{self.rows:,} {noun}")
        return ", ".join(parts)


def glance(path: Path, name: str, columns: Mapping[str, str] | None = None) -> Glance:
    """Look at the beginning of a file. Whatever is wrong with it is in the answer.

    Args:
        path: where its bytes are.
        name: what it is called.
        columns: names of its columns where they differ, ours first.
    """
    try:
        with path.open("rb", buffering=0) as file:
            opened = open_rows(file, name, columns=columns)
            if opened.container == "parquet":
                return _parquet(opened, path, columns or {})
            return _look(opened, file.tell, path.stat().st_size, columns or {})
    except DataError as error:
        return Glance(None, None, None, False, str(error))
    except OSError as error:
        return Glance(None, None, None, False, f"it cannot be read: {error.strerror or error}")


def _parquet(opened: Opened, path: Path, columns: Mapping[str, str]) -> Glance:
    """Such a file says itself how many rows it has, and is not read from its beginning to its end."""
    import pyarrow.parquet

    some = _look(Opened(opened.container, itertools.islice(opened.rows, ROWS)), lambda: 0, 0, columns)
    with pyarrow.parquet.ParquetFile(path) as file:
        return replace(some, rows=file.metadata.num_rows, exact=True)


def _look(opened: Opened, position: Callable[[], int], size: int, columns: Mapping[str, str]) -> Glance:
    shapes: Counter[str] = Counter()
    count, problem, ended = 0, "", False
    rows = iter(opened.rows)
    while not (ended := (row := next(rows, None)) is None):
        count += 1
        if count <= ROWS:
            shape, wrong = _shape(row[1], columns)
            if shape:
                shapes[shape] += 1
            problem = problem or (f"row {row[0]}: {wrong}" if wrong else "")
        if count >= ROWS and (count >= MOST or position() >= BYTES):
            break
    if not count and not problem:
        problem = "it holds no rows"
    shape = None if not shapes else next(iter(shapes)) if len(shapes) == 1 else "mixed"
    if ended:
        return Glance(opened.container, shape, count, True, problem)
    return Glance(opened.container, shape, _rough(count * size / max(position(), 1)), False, problem)


def _shape(value: Any, columns: Mapping[str, str]) -> tuple[str | None, str]:
    if isinstance(value, BadRow):
        return None, str(value)
    try:
        return recognise(map_columns(value, columns), columns).shape, ""
    except RowError as error:
        return None, str(error)


def _rough(number: float) -> int:
    """Two digits of a number: 1234 becomes 1200."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return max(1, round(number / unit) * unit)
