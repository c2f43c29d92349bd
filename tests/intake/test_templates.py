"""The masks under the templates that models really come with, and what every mask must keep to."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake import template as templates
from nightschool.intake import tokenise
from nightschool.intake.packing import blocks, sequences
from nightschool.intake.rows import BadRow
from nightschool.intake.shapes import recognise
from nightschool.intake.tokenise import Encoded, Tokeniser, load_tokenizer
from tests import tiny

FAMILIES = (
    "cohere",
    "deepseekv3",
    "gemma",
    "gemma3",
    "glm4moe",
    "gptoss",
    "idefics3",
    "lfm2",
    "llama3",
    "phi3",
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
    "qwen3_5_think",
    "qwen3_6",
)
"""Names of trl's copies of well-known templates."""

QUESTIONS, ANSWERS = ("Qone", "Qtwo", "Qthree"), ("Aone", "Atwo", "Athree")
CHAT = {
    "messages": [
        {"role": role, "content": content}
        for pair in zip(QUESTIONS, ANSWERS, strict=True)
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
}


def of_family(name: str) -> str:
    return getattr(importlib.import_module("trl.chat_template_utils"), f"{name}_chat_template")


@pytest.fixture(scope="module")
def any_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(tiny.make_tokenizer(tmp_path_factory.mktemp("any")))


def encode(tokenizer: Any, row: dict[str, Any], **options: Any) -> Encoded | BadRow:
    template = templates.choose(tokenizer, "assistant")
    (result,) = Tokeniser(tokenizer, template, date="2026-11-22", **options).encode([(1, recognise(row))])
    return result


def learned(tokenizer: Any, row: Encoded) -> str:
    return tokenizer.decode([token for token, flag in zip(row.ids, row.train, strict=True) if flag])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("edited", [False, True])
def test_a11_every_answer_and_no_question_is_learned_under_the_template_of(family, edited, any_tokenizer):
    """As the model has it, and with a comment in it, so that nobody recognises it any more."""
    any_tokenizer.chat_template = of_family(family) + ("{# edited #}" if edited else "")
    template = templates.choose(any_tokenizer, "assistant")
    assert template.how == ("prefix" if edited else "trl") or templates._MARKER.search(of_family(family))
    row = encode(any_tokenizer, CHAT)
    assert isinstance(row, Encoded), row
    text = learned(any_tokenizer, row)
    assert [answer for answer in ANSWERS if answer in text] == list(ANSWERS)
    assert not [question for question in QUESTIONS if question in text]
    assert all(question in any_tokenizer.decode(row.ids) for question in QUESTIONS)


_pieces = st.sampled_from([*"ab<>|\n ", "é", "😀", "<eos>", "<|im_end|>"])
_words = st.lists(_pieces, min_size=1, max_size=12).map("".join)
_chat = st.lists(st.tuples(_words, _words), min_size=1, max_size=3).map(
    lambda pairs: {
        "messages": [
            {"role": role, "content": content}
            for pair in pairs
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
    }
)
_row = st.one_of(
    _chat,
    st.fixed_dictionaries({"prompt": _words, "completion": _words}),
    st.fixed_dictionaries({"text": _words}),
    st.fixed_dictionaries({"instruction": _words, "output": _words}),
)


@given(rows=st.lists(_row, min_size=1, max_size=6), size=st.integers(1, 4), length=st.integers(2, 40))
@pytest.mark.parametrize("markers", [True, False])
@pytest.mark.parametrize("packing", [True, False])
def test_splitting_loses_no_token_and_the_same_rows_give_the_same(tokenizers, markers, packing, rows, size, length):
    tokenizer = tokenizers[markers]
    template = templates.choose(tokenizer, "assistant")
    numbered = [(number, recognise(row)) for number, row in enumerate(rows, 1)]

    def encoded(batch: int) -> list[Encoded]:
        before, tokenise.BATCH_ROWS = tokenise.BATCH_ROWS, batch
        try:
            results = [r for r in Tokeniser(tokenizer, template).encode(numbered) if isinstance(r, Encoded)]
        finally:
            tokenise.BATCH_ROWS = before
        return sorted(results, key=lambda row: row.number)

    whole = encoded(128)
    for a, b in zip(whole, encoded(size), strict=True):
        assert (a.number, a.shape, a.ids.tolist(), a.train.tolist()) == (
            b.number,
            b.shape,
            b.ids.tolist(),
            b.train.tolist(),
        )
    parts: dict[int, list[tuple[int, ...]]] = {}
    learned_tokens = 0
    for block in blocks(iter(whole)):
        for sequence in sequences(block, length, packing):
            assert len(sequence.ids) <= length
            learned_tokens += int(sequence.train.sum())
            stop = 0
            for size_, row in zip(sequence.lengths.tolist(), sequence.rows.tolist(), strict=True):
                parts.setdefault(row + 1, []).append(tuple(sequence.ids[stop : stop + size_].tolist()))
                stop += size_
            assert stop == len(sequence.ids)
    for row in whole:
        found = parts.pop(row.number)
        assert sorted(token for part in found for token in part) == sorted(row.ids.tolist())
        # The pieces are those of the row cut every so many tokens, in whatever order they were packed.
        cut = [tuple(row.ids[i : i + length].tolist()) for i in range(0, len(row.ids), length)]
        assert sorted(found) == sorted(cut)
    assert not parts
    # Only the first token of a piece can stop being learned.
    starts = sum(int(row.train[i]) for row in whole for i in range(0, len(row.ids), length))
    assert learned_tokens == sum(int(row.train.sum()) for row in whole) - starts


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    return {
        markers: load_tokenizer(tiny.make_tokenizer(tmp_path_factory.mktemp("t"), generation_markers=markers))
        for markers in (True, False)
    }


@given(row=_chat)
def test_the_checked_prefix_method_gives_the_mask_that_markers_give(tokenizers, row):
    marked, found = encode(tokenizers[True], row), encode(tokenizers[False], row)
    assert isinstance(marked, Encoded)
    assert isinstance(found, Encoded)
    assert marked.ids.tolist() == found.ids.tolist()
    assert marked.train.tolist() == found.train.tolist()
