"""What preview warns of: thinking that is missing, ends that are missing, beginnings that stand twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightschool.intake import template as templates
from nightschool.intake.cautions import warnings
from nightschool.intake.shapes import recognise
from nightschool.intake.tokenise import Encoded, Tokeniser, load_tokenizer
from tests import tiny

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
CHAT = {"messages": [USER, BOT, USER, BOT]}
THINKING = "{% if enable_thinking is defined %}{% endif %}" + tiny.MARKED_TEMPLATE


def warned(folder: Path, *rows: dict[str, Any], loss_on: str = "assistant", **kwargs: Any) -> list[str]:
    tokenizer = load_tokenizer(folder)
    template = templates.choose(tokenizer, loss_on)
    shapes = {number: recognise(row) for number, row in enumerate(rows, 1)}
    encoded = [row for row in Tokeniser(tokenizer, template, kwargs).encode(shapes.items()) if isinstance(row, Encoded)]
    return warnings(tokenizer, template, shapes, encoded, kwargs)


def test_good_rows_of_every_shape_give_no_warning(marked, unmarked, bare):
    for folder in (marked, unmarked, bare):
        for loss_on in ("assistant", "all"):
            rows = (CHAT, {"text": "a"}, {"prompt": "a", "completion": "b"}, {"question": "a", "answer": "b\n"})
            assert warned(folder, *rows, loss_on=loss_on) == []


def test_a_thinking_model_that_meets_rows_without_thinking(tmp_path, marked):
    folder = tiny.make_tokenizer(tmp_path, template=THINKING)
    thought = {"messages": [USER, {"role": "assistant", "content": "<think>h</think>Yo"}]}
    reasoned = {"messages": [USER, {**BOT, "reasoning_content": "h"}]}
    (text,) = warned(folder, thought, CHAT, reasoned, CHAT, {"text": "a"})
    assert "2 of 4 rows (first: row 2)" in text
    assert "enable_thinking = false" in text
    # Whoever turned it off, for the run or for the row, meant it.
    assert warned(folder, CHAT, enable_thinking=False) == []
    assert warned(folder, {**CHAT, "chat_template_kwargs": {"enable_thinking": False}}) == []
    assert warned(folder, thought, reasoned) == []
    assert warned(marked, CHAT) == []


def test_a_thinking_model_of_which_trl_keeps_a_template(tmp_path):
    from trl.chat_template_utils import qwen3_chat_template

    (text,) = warned(tiny.make_tokenizer(tmp_path, template=qwen3_chat_template), CHAT)
    assert "1 of 1 rows" in text


@pytest.mark.parametrize("markers", [True, False])
def test_an_answer_without_an_end_token(tmp_path, markers):
    endless = (tiny.MARKED_TEMPLATE if markers else tiny.PLAIN_TEMPLATE).replace("<|im_end|>", "")
    folder = tiny.make_tokenizer(tmp_path, template=endless)
    (text,) = warned(folder, {"text": "a"}, CHAT)
    assert "1 of 2 rows (first: row 2) have an answer without an end token" in text
    assert "model.chat_template" in text


def test_text_without_an_end_token(tmp_path):
    tiny.make_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    template = templates.choose(tokenizer, "assistant")
    shapes = {1: recognise({"text": "abc"}), 2: recognise(CHAT)}
    encoded = [row for row in Tokeniser(tokenizer, template).encode(shapes.items()) if isinstance(row, Encoded)]
    assert warnings(tokenizer, template, shapes, encoded) == []
    cut = [Encoded(row.number, row.shape, row.ids[:-3], row.train[:-3]) for row in encoded]
    (text,) = warnings(tokenizer, template, shapes, cut)
    assert "2 of 2 rows (first: row 1)" in text


def test_a_begin_token_that_stands_twice(tmp_path, marked):
    (text,) = warned(marked, {"text": "a"}, {"text": "<bos>a"}, {"prompt": "<bos>a", "completion": "b"}, CHAT)
    assert "2 of 4 rows (first: row 2)" in text
    assert "<bos>" in text
    twice = tiny.make_tokenizer(tmp_path, template="{{ bos_token }}" + tiny.MARKED_TEMPLATE)
    (text,) = warned(twice, CHAT)
    assert "1 of 1 rows" in text
