"""What a template makes of a chat: never guessed, nothing of it left out, everything it refuses a bad row."""

from __future__ import annotations

from typing import Any

import pytest

from nightschool.intake import rendering
from nightschool.intake import template as templates
from nightschool.intake.rows import BadRow
from nightschool.intake.shapes import REASONING_LEFT_OUT
from nightschool.intake.tokenise import Encoded, load_tokenizer
from tests import tiny

from .tokens import TWO_TURNS, encode, learned, one

REWRITING = (  # as templates do that drop an earlier answer's reasoning
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('.')[0] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_an_earlier_turn_that_is_rewritten_is_learned_as_it_is_written(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=REWRITING))
    assert learned(tokenizer, one(tokenizer, {"messages": TWO_TURNS})) == ["Yes<|im_end|>", "Né.<|im_end|>"]
    assert learned(tokenizer, one(tokenizer, {"messages": TWO_TURNS[:2]})) == ["Yes.<|im_end|>"]


def test_the_check_of_the_prefix_method_is_needed(tmp_path, monkeypatch):
    """Control: without the comparison the mask would sit on the wrong characters."""
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=REWRITING))

    def unchecked(draw: Any, chat: Any) -> Any:
        whole, _ = draw(chat.messages, mark=False)
        spans = []
        for i, message in enumerate(chat.messages):
            if message["role"] == "assistant":
                before = draw(chat.messages[:i], mark=False, prompt=True)[0]
                spans.append((len(before), len(draw(chat.messages[: i + 1], mark=False)[0])))
        return whole, spans

    monkeypatch.setattr(rendering, "_by_prefix", unchecked)
    assert learned(tokenizer, one(tokenizer, {"messages": TWO_TURNS})) != ["Yes<|im_end|>", "Né.<|im_end|>"]


THINKING = (  # the prompt opens a thought that rows without one never have
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] if not loop.last else m['content'] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_a_prompt_that_opens_a_thought_does_not_hide_the_answers(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=THINKING))
    assert templates.choose(tokenizer, "assistant").how == "prefix"
    assert learned(tokenizer, one(tokenizer, {"messages": TWO_TURNS})) == ["Yes.<|im_end|>", "Né.<|im_end|>"]
    thoughts = [
        dict(m, content=f"<think>\nh\n</think>{m['content']}") if m["role"] == "assistant" else m for m in TWO_TURNS
    ]
    assert learned(tokenizer, one(tokenizer, {"messages": thoughts})) == [
        "Yes.<|im_end|>",
        "h\n</think>Né.<|im_end|>",  # what the prompt opens is not learned
    ]


@pytest.mark.parametrize(
    "written",
    [
        "{{ m['content'] | upper }}",  # not what the row says
        "{{ m['content'] }}{{ m['content'] }}",  # which of the two?
        "{{ m['content'] }}{% if 'zq' in m['content'] %}!{% endif %}",  # what comes after depends on it
        "{{ m['content'] | length }}",
    ],
)
def test_the_assistants_part_is_never_guessed(tmp_path, written):
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
        + written
        + "{% else %}{{ m['content'] }}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
    )
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=template))
    (result,) = encode(tokenizer, {"messages": TWO_TURNS})
    assert isinstance(result, BadRow)
    # A template that never writes the words is refused for that before or after.
    assert "cannot be told from the rest" in result.reason
    assert "message 2" in result.detail
    assert "generation" in result.detail
    assert "loss_on" in result.detail


ONLY_TWO_ROLES = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] | trim }}]"
    "{% elif m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim }}<eos>{% endgeneration %}"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([{"role": "system", "content": "S"}, *TWO_TURNS], "message 1"),
        ([*TWO_TURNS[:1], {"role": "robot", "content": "Zz"}, *TWO_TURNS[1:]], "message 2"),
        ([*TWO_TURNS, {"role": "tool", "content": "Zz"}], "message 5"),
    ],
)
def test_e18_a_message_that_the_template_passes_over_makes_a_bad_row(tmp_path, messages, place, loss_on):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=ONLY_TWO_ROLES))
    good, bad = encode(tokenizer, {"messages": TWO_TURNS}, {"messages": messages}, loss_on=loss_on)
    assert isinstance(good, Encoded)
    assert isinstance(bad, BadRow)
    assert bad.reason == "the chat template leaves a message out"
    assert place in bad.detail


def test_e18_control_without_the_check_it_would_be_learned_without_the_message(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=ONLY_TWO_ROLES))
    row = {"messages": [{"role": "system", "content": "Zz"}, *TWO_TURNS]}
    monkeypatch.setattr(rendering, "_writes", lambda *_: True)
    assert "Zz" not in tokenizer.decode(one(tokenizer, row).ids)


def test_e18_what_a_template_trims_or_rewrites_is_not_left_out(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=ONLY_TWO_ROLES))
    messages = [{"role": "user", "content": "  a "}, {"role": "assistant", "content": "\nb\n"}]
    assert tokenizer.decode(one(tokenizer, {"messages": messages}).ids) == "[a]b<eos>"
    upper = ONLY_TWO_ROLES.replace("[{{ m['content'] | trim }}]", "[{{ m['content'].split('|')[-1] }}]")
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path / "b", template=upper))
    messages[0]["content"] = "x|y"
    assert tokenizer.decode(one(tokenizer, {"messages": messages}).ids) == "[y]b<eos>"


CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"x": "é"}'}}]}
CALLED = {"messages": [TWO_TURNS[0], CALL, {"role": "tool", "content": "7"}, TWO_TURNS[1]]}


def test_tools_and_calls_that_the_template_does_not_know_make_a_bad_row(marked, unmarked):
    for folder in (marked, unmarked):
        called, told = encode(load_tokenizer(folder), CALLED, {"messages": TWO_TURNS, "tools": [{"name": "f"}]})
        assert isinstance(called, BadRow)
        assert called.reason == "the chat template does not write calls of tools"
        assert isinstance(told, BadRow)
        assert told.reason == "the chat template does not write tools"


@pytest.mark.parametrize(
    ("write", "call"),
    [
        ("{{ c.function.arguments | tojson }}", '<call>f{"x": "é"}<|im_end|>'),
        ("{{ '!' + c.function.arguments }}", '<call>f!{"x": "é"}<|im_end|>'),  # wants text
    ],
)
def test_a_call_is_learned_whether_the_template_wants_objects_or_text(tmp_path, write, call):
    text = tiny.PLAIN_TEMPLATE.replace(
        "message['content'] +",
        "message['content'] }}{% for c in message.tool_calls or [] %}<call>{{ c.function.name }}"
        + write
        + "{% endfor %}{{",
    )
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=text))
    assert learned(tokenizer, one(tokenizer, CALLED)) == [call, "Yes.<|im_end|>"]


IMAGES_TOO = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


def test_a_template_that_wants_lists_of_parts_gets_them(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=IMAGES_TOO))
    assert learned(tokenizer, one(tokenizer, {"messages": TWO_TURNS})) == ["Yes.<|im_end|>", "Né.<|im_end|>"]


def test_parts_are_never_learned_as_python_writes_them(tmp_path):
    strict = "{% if messages[0]['content'] is string %}{{ raise_exception('No text!') }}{% endif %}"
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=strict + "{{ messages[1]['content'] ~ 'text' }}"))
    (bad,) = encode(tokenizer, {"messages": TWO_TURNS[:2]})
    assert isinstance(bad, BadRow)
    assert "No text!" in bad.detail


def test_reasoning_that_the_template_does_not_write_is_counted(marked, tmp_path):
    messages = [TWO_TURNS[0], {**TWO_TURNS[1], "reasoning_content": "Hm."}]
    assert one(load_tokenizer(marked), {"messages": messages}).repairs == (REASONING_LEFT_OUT,)
    knows = tiny.MARKED_TEMPLATE.replace(
        "{{ message['content'] +", "{{ message.reasoning_content + message['content'] +"
    )
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=knows))
    row = one(tokenizer, {"messages": messages})
    assert row.repairs == ()
    assert learned(tokenizer, row) == ["Hm.Yes.<|im_end|>"]


def test_e18_roles_that_the_template_refuses_make_a_bad_row_with_its_words(tmp_path):
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Start with the user!') }}{% endif %}"
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template=strict + tiny.MARKED_TEMPLATE))
    good, bad, last = encode(
        tokenizer,
        {"messages": TWO_TURNS},
        {"messages": [{"role": "system", "content": "S"}, *TWO_TURNS]},
        {"messages": TWO_TURNS[:2]},
    )
    assert isinstance(good, Encoded)
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    assert "refuses" in bad.reason
    assert "Start with the user!" in bad.detail
    assert "system, user" in bad.detail
    assert isinstance(last, Encoded)
    assert last.number == 3


def test_e18_a_template_that_fails_in_its_own_way_is_no_crash(tmp_path):
    tokenizer = load_tokenizer(tiny.make_tokenizer(tmp_path, template="{{ messages[5]['content'] + 1 }}"))
    (bad,) = encode(tokenizer, {"messages": TWO_TURNS})
    assert isinstance(bad, BadRow)
