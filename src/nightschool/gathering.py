"""Which waiting files begin together. Pure: rows of the queue in, files out.

A file of ten rows makes two steps, and an end that is worth a checkpoint; ten thousand of them would be all ends. So
small files that wait next to each other begin as one entry. What goes together follows from the queue alone, never from
how far intake happens to be: while it is not known whether the next file is small, nothing begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nightschool.ledger import FileRow

MOST_FILES = 500
MOST_TIMES = 20
"""A gathering holds at most so many files, and ends once it has so many times `gather_rows` rows."""
MOST_TOKENS = 1 << 24
"""Nor does it go on behind so many tokens: they are held in memory while they are trained on."""
MOST_BYTES = 8 << 20
"""A file with more bytes is never small, however few rows it has: nobody should wait until it is read."""


ALONE = "alone"
"""The option of a file that is trained on by itself: one of those it was gathered with had to be found out."""


def is_small(row: FileRow, gather_rows: int) -> bool | None:
    """Whether a file is gathered with its neighbours; None while that cannot be told yet."""
    if gather_rows == 0 or (row.bytes or 0) > MOST_BYTES or row.options.get(ALONE) or row.state == "skipped":
        return False
    return None if row.rows_good is None or row.state != "ready" else row.rows_good < gather_rows


def together(
    queue: Iterable[FileRow], gather_rows: int, recipe_of: Callable[[FileRow], str | None]
) -> list[tuple[FileRow, str]]:
    """The files that begin now, each with its recipe; empty while the first, or where they end, is not known.

    Args:
        queue: waiting files in their order; only as many are taken from it as are needed.
        gather_rows: files with fewer rows are small; 0 gathers nothing.
        recipe_of: the canonical recipe a ready file would begin with, or None where it has to be prepared again.
    """
    found: list[tuple[FileRow, str]] = []
    for row in _candidates(queue, gather_rows):
        recipe = recipe_of(row) if row.state == "ready" else None
        if recipe is None:
            return []
        if found and recipe != found[0][1]:
            break
        found.append((row, recipe))
    return found


def awaited(queue: Iterable[FileRow], gather_rows: int) -> FileRow | None:
    """The first file that must be ready before the next ones can begin; None where there is none."""
    return next((row for row in _candidates(queue, gather_rows) if row.state not in ("ready", "skipped")), None)


def _candidates(queue: Iterable[FileRow], gather_rows: int) -> Iterator[FileRow]:
    """The files that begin now, as their sizes have it; the last may be one whose size is not known yet."""
    first: FileRow | None = None
    rows = tokens = 0
    for number, row in enumerate(queue):
        if number == MOST_FILES or rows >= MOST_TIMES * gather_rows > 0 or tokens >= MOST_TOKENS:
            return
        small = is_small(row, gather_rows)
        if first is not None and (small is False or row.priority != first.priority):
            return
        yield row
        if not small:
            return
        first = first or row
        rows += row.rows_good or 0
        tokens += row.tokens or 0
