"""From encoded rows to sequences of at most `max_length` tokens. Masks were computed before, and travel along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool.intake.tokenise import Encoded

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

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
    import datasets
    import numpy as np
    import pyarrow as pa
    from datasets.table import InMemoryTable
    from trl.data_utils import pack_dataset

    sizes = np.array([len(row.ids) for row in block], np.int64)
    ends = np.cumsum(sizes)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    # What is packed is where each token stands in the block. Ids, masks and row numbers are looked up there afterwards.
    places = pa.ListArray.from_arrays(offsets, pa.array(np.arange(ends[-1], dtype=np.int32)))
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        packed = pack_dataset(
            datasets.Dataset(InMemoryTable(pa.table({"places": places}))),
            max_length,
            strategy="bfd_split",
            map_kwargs={"batch_size": len(block), "keep_in_memory": True},
        )
    finally:
        if not bars:
            datasets.enable_progress_bars()
    table = packed.data.table
    where, token_ends = _flat(table.column("places"))
    lengths, part_ends = _flat(table.column("seq_lengths"))
    lengths = lengths.astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    ids = np.concatenate([row.ids for row in block])[where]
    train = np.concatenate([row.train for row in block])[where]
    train[starts] = 0
    numbers = np.array([row.number - 1 for row in block], np.int32)
    rows = numbers[np.searchsorted(ends, where[starts], side="right")]
    result: list[Packed] = []
    token = part = 0
    for token_end, part_end in zip(token_ends.tolist(), part_ends.tolist(), strict=True):
        result.append(
            Packed(ids[token:token_end], train[token:token_end], lengths[part:part_end], rows[part:part_end])
        )
        token, part = token_end, part_end
    return result


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column of lists one after the other, and where each list ends in them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.concat_arrays([chunk.flatten() for chunk in column.chunks])
    return values.to_numpy(), np.cumsum(pc.list_value_length(column).to_numpy())
