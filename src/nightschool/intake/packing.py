"""From encoded rows to sequences of at most `max_length` tokens. Masks were computed before, and travel along."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool.intake.tokenise import Encoded

if TYPE_CHECKING:
    import numpy as np

BLOCK_ROWS = 1000
BLOCK_TOKENS = 1 << 21
"""Rows are packed in blocks of at most this size (the last row may go beyond): memory does not grow with the file."""


@dataclass(frozen=True)
class Packed:
    """What the model sees: int32 `ids`, int8 `train`, and for each part in it its length and the index of its row."""

    ids: np.ndarray
    train: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray


def blocks(rows: Iterator[Encoded]) -> Iterator[list[Encoded]]:
    """Group rows into blocks for packing. Where a block ends depends on the rows alone."""
    block: list[Encoded] = []
    tokens = 0
    for row in rows:
        block.append(row)
        tokens += len(row.ids)
        if len(block) >= BLOCK_ROWS or tokens >= BLOCK_TOKENS:
            yield block
            block, tokens = [], 0
    if block:
        yield block


def sequences(block: Sequence[Encoded], max_length: int, packing: bool) -> list[Packed]:
    """Turn a block into sequences; rows over `max_length` are split. No token is left out.

    Without `packing` every row, or piece of a split one, is a sequence of its own, in the order of the rows.
    The first token of each part is never learned: nothing before it belongs to the same text.
    """
    return _packed(block, max_length) if packing else list(plain(block, max_length))


def plain(block: Sequence[Encoded], max_length: int) -> Iterator[Packed]:
    """Every row, or piece of a longer one, as a sequence of its own."""
    import numpy as np

    for row in block:
        for start in range(0, len(row.ids), max_length):
            ids, train = row.ids[start : start + max_length], row.train[start : start + max_length].copy()
            train[0] = 0
            lengths, rows = np.array([len(ids)], np.int32), np.array([row.number - 1], np.int32)
            yield Packed(ids, train, lengths, rows)


def _packed(block: Sequence[Encoded], max_length: int) -> list[Packed]:
    import numpy as np

    sizes = np.array([len(row.ids) for row in block], np.int64)
    counts = -(-sizes // max_length)
    row = np.repeat(np.arange(len(block)), counts)
    offset = (np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)) * max_length
    begins = (np.cumsum(sizes) - sizes)[row] + offset
    lengths = np.minimum(sizes[row] - offset, max_length)

    filled = bins(lengths, max_length)
    order = np.array([piece for one in filled for piece in one], np.int64)
    begins, lengths, row = begins[order], lengths[order], row[order]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # Where each token of the result stands in the block.
    places = np.repeat(begins - starts, lengths) + np.arange(lengths.sum())
    ids = np.concatenate([one.ids for one in block])[places]
    train = np.concatenate([one.train for one in block])[places]
    train[starts] = 0
    lengths = lengths.astype(np.int32)
    rows = np.array([one.number - 1 for one in block], np.int32)[row]
    result: list[Packed] = []
    part = token = 0
    for one in filled:
        part_end = part + len(one)
        token_end = int(ends[part_end - 1])
        within, parts = slice(token, token_end), slice(part, part_end)
        result.append(Packed(ids[within], train[within], lengths[parts], rows[parts]))
        part, token = part_end, token_end
    return result


def bins(lengths: np.ndarray, size: int) -> list[list[int]]:
    """Best-fit decreasing: the longest piece first, each into the fullest bin that still has room for it.

    Among pieces of one length the first comes first; among bins equally full, the one that became so first. That is
    the order of trl's `pack_dataset` with "bfd_split", and must stay: it decides what stands together in a sequence.

    Args:
        lengths: of the pieces, each from 1 up to `size`.
        size: of every bin.

    Returns:
        the numbers of the pieces in each bin, in the order in which bins were begun and pieces put into them.
    """
    import numpy as np

    found: list[list[int]] = []
    spaces: list[int] = []  # in ascending order, those that a bin has left
    having: dict[int, deque[list[int]]] = {}
    order = np.argsort(-lengths, kind="stable")
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect_left(spaces, length)
        if at < len(spaces):
            space = spaces[at]
            queue = having[space]
            one = queue.popleft()
            if not queue:
                del spaces[at]
        else:
            space = size
            one = []
            found.append(one)
        one.append(piece)
        if left := space - length:
            queue = having.setdefault(left, deque())
            if not queue:
                insort(spaces, left)
            queue.append(one)
    return found
