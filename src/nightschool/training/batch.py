"""From sequences to tensors.

No attention mask is ever passed. Rows that share one line of the tensor are told apart by position ids that begin
again at 0, which transformers turns into a block-diagonal mask; padding on the right is one more such row. So padding
can never be attended to by what is learned, and every attention implementation sees the same three tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that nothing is learned at; the value cross entropy skips."""

Sequence3 = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(input_ids, train, lengths) as the prepared data gives them."""


@dataclass(frozen=True)
class Batch:
    """What goes through the model in one pass; B lines of T tokens.

    Attributes:
        input_ids: [B, T] int64.
        position_ids: [B, T] int64, beginning again at 0 with every row and with the padding.
        labels: [B, T] int64: the token that should come NEXT after this position, or IGNORED. Already shifted.
        label_index: [N] int64: the places in the flattened labels that are not IGNORED, in order. Made on the host, so
            that choosing them on a GPU does not wait for it.
        label_tokens: N.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    label_index: Tensor
    label_tokens: int


class _Line(NamedTuple):
    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def collate(
    sequences: Sequence[Sequence3], device: torch.device | str, packed: bool, pad_id: int, flatten: bool
) -> list[Batch]:
    """The batches of one cell. Their label tokens, together, are those of the sequences, whatever the arguments.

    Args:
        sequences: the cell's sequences: token ids, 1 where a token is to be predicted, lengths of the rows packed in.
        packed: whether rows may share a line. False splits every sequence into its rows and groups rows of like
            length; no group, padding included, is larger than the packed cell would have been.
        pad_id: token to pad with; nothing is ever learned from or about it.
        flatten: one line for the whole cell and no padding: what flash attention is made for. Needs `packed`.

    Returns:
        Batches that have at least one label token: passes that nothing would be learned from are left out.
    """
    lines = [_line(*sequence) for sequence in sequences]
    if packed and flatten:
        groups = [[_joined(lines)]]
    elif packed:
        groups = [lines]
    else:
        budget = len(lines) * max((len(line.ids) for line in lines), default=0)
        rows = [row for line, (_, _, lengths) in zip(lines, sequences, strict=True) for row in _rows(line, lengths)]
        groups = _grouped(rows, budget)
    return [_batch(group, device, pad_id) for group in groups if any((line.labels != IGNORED).any() for line in group)]


def _line(ids: np.ndarray, train: np.ndarray, lengths: np.ndarray) -> _Line:
    positions = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]) if len(lengths) else np.empty(0, int)
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    # A row's first token has train == 0, so nothing is predicted across the seam of two rows; what a careless file
    # says otherwise is not followed.
    learned = (np.asarray(train[1:]) == 1) & (positions[1:] != 0)
    labels[:-1][learned] = ids[1:][learned]
    return _Line(np.asarray(ids, dtype=np.int64), positions, labels)


def _rows(line: _Line, lengths: Iterable[int]) -> list[_Line]:
    ends = list(accumulate(int(n) for n in lengths))
    return [_Line(*(part[end - int(n) : end] for part in line)) for n, end in zip(lengths, ends, strict=True)]


def _joined(lines: Sequence[_Line]) -> _Line:
    return _Line(*(np.concatenate(parts) for parts in zip(*lines, strict=True)))


def _grouped(rows: list[_Line], budget: int) -> list[list[_Line]]:
    """Groups of rows of like length, longest first, each of at most `budget` tokens with its padding."""
    groups: list[list[_Line]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        # The first of a group is its longest, so the group's width is known when it begins.
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].ids) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _batch(lines: Sequence[_Line], device: torch.device | str, pad_id: int) -> Batch:
    width = max(len(line.ids) for line in lines)
    ids = np.full((len(lines), width), pad_id, dtype=np.int64)
    positions = np.zeros_like(ids)
    labels = np.full_like(ids, IGNORED)
    for at, line in enumerate(lines):
        used = len(line.ids)
        ids[at, :used], positions[at, :used], labels[at, :used] = line
        positions[at, used:] = np.arange(width - used)
    index = np.flatnonzero(labels != IGNORED)
    input_ids, position_ids, targets, label_index = (
        torch.from_numpy(array).to(device) for array in (ids, positions, labels, index)
    )
    return Batch(input_ids, position_ids, targets, label_index, len(index))
