"""Which tokens of a row are learned: by hand, for the three ways of finding the assistant's part, pairs and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightschool.errors import SettingsError
from nightschool.intake import rendering
from nightschool.intake import template as templates
from nightschool.intake.rows import BadRow
from nightschool.intake.tokenise import Encoded, Tokeniser, load_tokenizer
from tests import tiny

from .tokens import RENDERED, TWO_TURNS, encode, learned, one


def by_hand(text: str, spans: list[str]) -> tuple[list[int], list[int]]:
    """Ids and mask of a rendered chat, from the bytes alone: one token per byte, specials counted by hand."""
    ids: list[int] = []
    mask: list[int] = []
    alphabet = byte_ids()
    wanted = iter(spans)
    rest = text
    pieces: list[tuple[str, int]] = []
    for span in wanted:
        before, rest = rest.split(span, 1)
        pieces += [(before, 0), (span, 1)]
    pieces.append((rest, 0))
    for piece, flag in pieces:
        while piece:
            for i, special in enumerate(tiny.SPECIALS):
                if piece.startswith(special):
                    ids.append(256 + i)
                    mask.append(flag)
                    piece = piece[len(special) :]
                    break
            else:
                for byte in piece[0].encode():
                    ids.append(alphabet[byte])
                    mask.append(flag)
                piece = piece[1:]
    return ids, mask


def byte_ids() -> dict[int, int]:
    """The id of each byte, built from the published rule of byte-level tokenizers."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in printable}
    for n, byte in enumerate(byte for byte in range(256) if byte not in characters):
        characters[byte] = chr(256 + n)
    order = sorted(characters.values())
    return {byte: order.index(character) for byte, character in characters.items()}


@pytest.mark.parametrize("way", ["markers", "prefix"])
def test_a11_every_answer_is_learned_with_the_token_that_ends_it_and_nothing_else(way, marked, unmarked):
    tokenizer = load_tokenizer(marked if way == "markers" else unmarked)
    assert templates.choose(tokenizer, "assistant").how == way
    row = one(tokenizer, {"messages": TWO_TURNS})
    ids, mask = by_hand(RENDERED, ["Yes.<|im_end|>", "Né.<|im_end|>"])
    assert row.ids.tolist() == ids
    assert row.train.tolist() == mask


def test_a11_control_masking_only_after_the_first_prompt_is_not_the_same(marked):
    """What the lived failure did: everything behind the first prompt was learned, later prompts too."""
    tokenizer = load_tokenizer(marked)
    row = one(tokenizer, {"messages": TWO_TURNS})
    first = row.train.tolist().index(1)
    wrong = [0] * first + [1] * (len(row.train) - first)
    assert wrong != row.train.tolist()


def test_a_known_template_is_replaced_by_the_marked_one_that_trl_keeps(tmp_path):
    from trl.chat_template_utils import qwen2_5_chat_template

    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=qwen2_5_chat_template))
    template = templates.choose(tokenizer, "assistant")
    assert template.how == "trl"
    assert template.text != qwen2_5_chat_template
    assert tokenizer.chat_template == qwen2_5_chat_template, "talking with the model goes on with its own template"
    messages = [{"role": "system", "content": "S"}, *TWO_TURNS]
    row = one(tokenizer, {"messages": messages})
    text = "<|im_start|>system\nS<|im_end|>\n" + RENDERED.removeprefix("<bos>")
    ids, mask = by_hand(text, ["\nYes.<|im_end|>\n", "\nNé.<|im_end|>\n"])
    assert row.ids.tolist() == ids
    assert row.train.tolist() == mask


def test_the_mask_agrees_with_the_one_of_transformers(marked):
    tokenizer = load_tokenizer(marked)
    for chat in tiny.chat_rows(20, seed=3):
        row = one(tokenizer, chat)
        expected = tokenizer.apply_chat_template(
            chat["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        assert row.ids.tolist() == expected["input_ids"]
        assert row.train.tolist() == expected["assistant_masks"]


def test_an_end_of_turn_token_behind_the_markers_is_learned_too(tmp_path):
    outside = tiny.MARKED_TEMPLATE.replace(
        "message['content'] + '<|im_end|>' }}{% endgeneration %}", "message['content'] }}{% endgeneration %}<|im_end|>"
    )
    assert outside != tiny.MARKED_TEMPLATE
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=outside))
    row = one(tokenizer, {"messages": TWO_TURNS})
    assert learned(tokenizer, row) == ["Yes.<|im_end|>", "Né.<|im_end|>"]
    # Control: what the markers alone say.
    alone = tokenizer.apply_chat_template(TWO_TURNS, return_dict=True, return_assistant_tokens_mask=True)
    assert sum(alone["assistant_masks"]) == int(row.train.sum()) - 2


def test_white_space_at_the_edges_of_an_answer_is_learned_though_offsets_are_trimmed(tmp_path):
    from tokenizers import processors

    content_only = "{% for m in messages %}[{% generation %}{{ m['content'] }}{% endgeneration %}]{% endfor %}"
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=content_only))
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    for content in (" a", "a ", "  a b  ", "\n\n", "a\n"):
        row = one(
            tokenizer, {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]}
        )
        assert learned(tokenizer, row) == ["q", content]


def test_the_beginning_of_the_next_turn_is_never_taken_for_the_end_of_an_answer(tmp_path):
    no_end = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=no_end))
    assert learned(tokenizer, one(tokenizer, {"messages": TWO_TURNS})) == ["Yes.", "Né."]


def test_a_base_model_without_a_template_gets_the_default_one(bare):
    tokenizer = load_tokenizer(bare)
    row = one(tokenizer, {"messages": TWO_TURNS})
    text = RENDERED.replace("<|im_end|>", "<eos>")
    ids, mask = by_hand(text, ["Yes.<eos>", "Né.<eos>"])
    assert row.ids.tolist() == ids
    assert row.train.tolist() == mask
    assert "im_start" in tokenizer.chat_template, "it must be saved with the model"


def test_the_default_template_writes_no_bos_where_the_tokenizer_adds_none(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=False, adds_bos=False))
    row = one(tokenizer, {"messages": TWO_TURNS})
    assert tokenizer.bos_token_id not in row.ids.tolist()


def test_a_template_file_of_the_user_comes_before_the_models(tmp_path, unmarked):
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{% generation %}{{ m['content'] }}|{% endgeneration %}{% endfor %}")
    tokenizer = load_tokenizer(unmarked)
    assert templates.choose(tokenizer, "assistant", file).text == file.read_text()
    with pytest.raises(SettingsError, match=r"missing\.jinja.*model\.chat_template"):
        templates.choose(tokenizer, "assistant", tmp_path / "missing.jinja")


def test_a_chat_never_gets_a_second_bos(marked):
    tokenizer = load_tokenizer(marked)
    row = one(tokenizer, {"messages": TWO_TURNS})
    assert row.ids.tolist().count(tokenizer.bos_token_id) == 1
    # Control: the tokenizer does add one when it is asked to.
    assert tokenizer(RENDERED)["input_ids"].count(tokenizer.bos_token_id) == 2


@pytest.mark.parametrize("adds_bos", [True, False])
def test_text_is_learned_whole_with_the_tokenizers_bos_and_an_eos(tmp_path, adds_bos):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, adds_bos=adds_bos))
    row = one(tokenizer, {"text": "añb"})
    ids, _ = by_hand("<bos>" * adds_bos + "añb<eos>", [])
    assert row.ids.tolist() == ids
    assert row.train.tolist() == [0] + [1] * (len(ids) - 1)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a11_of_a_pair_the_completion_and_eos_are_learned(tmp_path, adds_bos):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, adds_bos=adds_bos))
    row = one(tokenizer, {"prompt": "2+2=", "completion": " 4"})
    ids, mask = by_hand("<bos>" * adds_bos + "2+2= 4<eos>", [" 4<eos>"])
    assert row.ids.tolist() == ids
    assert row.train.tolist() == mask


def test_a_token_across_the_end_of_the_prompt_belongs_to_the_completion(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"a": 0, "b": 1, "ab": 2, "c": 3, "<eos>": 4}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    row = one(tokenizer, {"prompt": "ca", "completion": "bc"})
    assert row.ids.tolist() == [3, 2, 3, 4]
    assert row.train.tolist() == [0, 1, 1, 1]


def test_a_pair_of_messages_is_a_chat_of_which_only_the_completion_is_learned(marked, unmarked):
    for folder in (marked, unmarked):
        tokenizer = load_tokenizer(folder)
        row = one(tokenizer, {"prompt": TWO_TURNS[:3], "completion": TWO_TURNS[3:]})
        assert row.ids.tolist() == one(tokenizer, {"messages": TWO_TURNS}).ids.tolist()
        assert learned(tokenizer, row) == ["Né.<|im_end|>"]


def test_loss_on_all_learns_every_token(marked):
    tokenizer = load_tokenizer(marked)
    for row in ({"messages": TWO_TURNS}, {"prompt": "a", "completion": "b"}, {"text": "c"}):
        result = one(tokenizer, row, loss_on="all")
        assert result.train.tolist() == [0] + [1] * (len(result.ids) - 1)


def test_settings_and_rows_pass_variables_to_the_template(tmp_path):
    text = "{% for m in messages %}{% generation %}{{ m['content'] ~ flag }}{% endgeneration %}{% endfor %}"
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=text))
    row: dict[str, Any] = {"messages": TWO_TURNS[1:2]}
    assert tokenizer.decode(one(tokenizer, row, kwargs={"flag": "x"}).ids) == "Yes.x"
    row["chat_template_kwargs"] = {"flag": "y"}
    assert tokenizer.decode(one(tokenizer, row, kwargs={"flag": "x"}).ids) == "Yes.y"


def test_e17_rows_without_anything_to_learn_are_bad_with_the_reason(marked):
    tokenizer = load_tokenizer(marked)
    (asked,) = encode(tokenizer, {"messages": [{"role": "user", "content": "Hi"}, {"role": "robot", "content": "Yo"}]})
    assert isinstance(asked, BadRow)
    assert asked.reason == "no tokens to learn"
    assert 'no message has the role "assistant"' in asked.detail
    assert "robot, user" in asked.detail


# --- the date (E20)

DATED = "Today is {{ strftime_now('%d %B %Y, %-d/%m %% %H') }}.\n" + tiny.MARKED_TEMPLATE


def test_e20_with_a_fixed_date_the_tokens_are_the_same_on_every_day(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=DATED))
    assert templates.choose(tokenizer, "assistant").dated
    seen = []
    for day in (1, 2):
        at(monkeypatch, 2031, 5, day)
        seen.append(one(tokenizer, {"messages": TWO_TURNS}, date="2026-07-04"))
    assert seen[0].ids.tolist() == seen[1].ids.tolist()
    text = "Today is 04 July 2026, 4/07 % 00.\n" + RENDERED
    ids, mask = by_hand(text, ["Yes.<|im_end|>", "Né.<|im_end|>"])
    assert seen[0].ids.tolist() == ids
    assert seen[0].train.tolist() == mask, "the macro must not shift the marked characters"


def test_e20_control_without_the_fixed_date_the_tokens_change_with_the_day(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=DATED))
    monkeypatch.setattr(rendering, "_dated", lambda text, date: text)
    seen = []
    for day in (1, 2):
        at(monkeypatch, 2031, 5, day)
        seen.append(one(tokenizer, {"messages": TWO_TURNS}, date="2026-07-04").ids.tolist())
    assert seen[0] != seen[1]


def test_e20_a_template_may_ask_whether_the_date_is_known_and_use_it_in_a_macro(tmp_path):
    text = (
        "\n{% macro head() %}{{ strftime_now('%A') }}{% endmacro %}"
        "{% if strftime_now is defined %}[{{ head() }}]{% endif %}" + tiny.MARKED_TEMPLATE
    )
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=text))
    row = one(tokenizer, {"messages": TWO_TURNS}, date="2026-07-04")
    assert tokenizer.decode(row.ids).startswith("\n[Saturday]<bos>")
    assert learned(tokenizer, row) == ["Yes.<|im_end|>", "Né.<|im_end|>"]


def test_e20_a_dated_template_without_a_date_is_an_error(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=DATED))
    with pytest.raises(ValueError, match="needs one"):
        encode(tokenizer, {"messages": TWO_TURNS})


def at(monkeypatch: pytest.MonkeyPatch, *date: int) -> None:
    """Let templates believe that it is this day."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(date[0], date[1], date[2])

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def test_a_row_becomes_the_same_whatever_comes_with_it(marked, monkeypatch):
    from nightschool.intake import tokenise

    tokenizer = load_tokenizer(marked)
    rows = [*tiny.chat_rows(5), *tiny.text_rows(5), *tiny.pair_rows(5)]
    together = encode(tokenizer, *rows)
    monkeypatch.setattr(tokenise, "BATCH_ROWS", 1)
    alone = encode(tokenizer, *rows)
    for a, b in zip(together, alone, strict=True):
        assert isinstance(a, Encoded)
        assert isinstance(b, Encoded)
        assert a.number == b.number
        assert a.ids.tolist() == b.ids.tolist()
        assert a.train.tolist() == b.train.tolist()


def test_the_tokenizer_of_a_folder_without_one_is_a_clear_error(tmp_path: Path):
    from nightschool.errors import ModelError

    with pytest.raises(ModelError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_e17_control_without_the_check_a_row_without_labels_would_be_used(marked, monkeypatch):
    tokenizer = load_tokenizer(marked)
    row = {"messages": [{"role": "user", "content": "Hi"}]}
    assert isinstance(encode(tokenizer, row)[0], BadRow)
    monkeypatch.setattr(Tokeniser, "_mask", lambda self, tokens, *_: np.ones(len(tokens), np.int8))
    assert isinstance(encode(tokenizer, row)[0], Encoded), "the mask decides, nothing else"
