"""From a row to its tokens, and what of them is learned, for the tests of masks."""

from __future__ import annotations

from typing import Any

from nightschool.intake import template as templates
from nightschool.intake.rows import BadRow
from nightschool.intake.shapes import recognise
from nightschool.intake.tokenise import Encoded, Tokeniser

TWO_TURNS = [
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Ok?"},
    {"role": "assistant", "content": "Né."},
]
RENDERED = (
    "<bos><|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    "<|im_start|>user\nOk?<|im_end|>\n<|im_start|>assistant\nNé.<|im_end|>\n"
)


def encode(tokenizer: Any, *rows: dict[str, Any], loss_on: str = "assistant", **kwargs: Any) -> list[Encoded | BadRow]:
    template = templates.choose(tokenizer, loss_on)
    tokeniser = Tokeniser(tokenizer, template, **kwargs)
    results = tokeniser.encode((number, recognise(row)) for number, row in enumerate(rows, 1))
    return sorted(results, key=lambda result: result.number)


def one(tokenizer: Any, row: dict[str, Any], **kwargs: Any) -> Encoded:
    (result,) = encode(tokenizer, row, **kwargs)
    assert isinstance(result, Encoded), result
    return result


def learned(tokenizer: Any, row: Encoded) -> list[str]:
    """The runs of learned tokens, as text."""
    runs: list[list[int]] = []
    before = 0
    for token, train in zip(row.ids.tolist(), row.train.tolist(), strict=True):
        if train and not before:
            runs.append([])
        if train:
            runs[-1].append(token)
        before = train
    return [tokenizer.decode(run) for run in runs]
