"""Whether rows packed into one line stay apart in this model: measured, since no flag of a model says so.

Attention can be told where a row ends; a recurrence or a convolution over the sequence often cannot, and carries the
end of one row into the next. Then rows are never packed into one pass (`batch.collate(packed=False)`), which gives the
same sum of losses at the price of some padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nightschool.training.loss import own_logits, takes_positions, vocabulary

if TYPE_CHECKING:
    from nightschool.training.model import Built

_LENGTHS = (13, 9, 11)
_VARIATIONS = 3
# Largest difference between a row packed and a row alone, as a share of the largest logit, that is rounding.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}


@torch.no_grad()
def packing_leaks(built: Built) -> str | None:
    """Why rows must not share a line in this model, or None if they may.

    Three rows in one line, and the one in the middle is looked at. Its logits must be those it has alone, to rounding.
    And they must not change with the content of the row before it: the finer measurement, since nothing about the
    shapes differs, so that it finds leaks far below the rounding of 16-bit types. The content of the row after it
    cannot matter to a causal model; what changes all the same (experts share their work among all tokens) is the
    yardstick.
    """
    if not takes_positions(built.base):
        return "the model takes no position ids, so it cannot be told where a row begins"
    training = built.model.training
    built.model.eval()
    try:
        return _measure(built)
    except torch.OutOfMemoryError:
        # Says nothing about the model.
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError, AssertionError) as error:
        return f"packed rows do not go through the model ({type(error).__name__}: {error})"
    finally:
        built.model.train(training)


def _measure(built: Built) -> str | None:
    size = vocabulary(built)
    draw = torch.Generator().manual_seed(0)
    before, row, after = (torch.randint(0, size, (n,), generator=draw) for n in _LENGTHS)
    packed, alone = _logits(built, [before, row, after], 1), _logits(built, [row], 0)
    if not (bool(torch.isfinite(packed).all()) and bool(torch.isfinite(alone).all())):
        return "the model's logits are not finite"
    scale = max(float(alone.abs().max()), 1e-9)
    leaked = noise = 0.0
    for number in range(1, _VARIATIONS + 1):
        shift = number * size // (_VARIATIONS + 1)
        other_before = _logits(built, [(before + shift) % size, row, after], 1)
        other_after = _logits(built, [before, row, (after + shift) % size], 1)
        leaked = max(leaked, float((other_before - packed).abs().max()) / scale)
        noise = max(noise, float((other_after - packed).abs().max()) / scale)
    if leaked > 4 * noise + 1e-6:
        return f"a row's logits change by {leaked:.2g} of their size with what stands in the row before it"
    apart = float((packed - alone).abs().max()) / scale
    if apart > _ROUNDING.get(getattr(torch, built.dtype), 1e-4):
        return f"a packed row's logits differ by {apart:.2g} of their size from those it has alone"
    return None


def _logits(built: Built, rows: list[Tensor], which: int) -> Tensor:
    """Logits of one of the rows, all in one line, [its length, V] float32 on the host."""
    ids = torch.cat(rows)[None].to(built.device)
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None].to(built.device)
    begin = sum(len(row) for row in rows[:which])
    return own_logits(built, ids, positions)[0, begin : begin + len(rows[which])].float().cpu()
