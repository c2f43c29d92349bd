"""The quick way to render a template says what transformers says, or leaves it to transformers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from nightschool.intake import quickly
from nightschool.intake.template import DEFAULT_TEMPLATE, date_macro

TEMPLATES = {
    "default": DEFAULT_TEMPLATE.replace("%BOS%", "{{ bos_token }}"),
    "dated": date_macro("2026-11-22") + "{{ strftime_now('%d %B') }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "looks at everything": (
        "{%- set ns = namespace(n=0) -%}{%- if tools is none and documents is none %}-{% endif -%}"
        "{%- for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m | tojson }}"
        "{%- generation %}{{ m.content | trim }}{% endgeneration %}{%- if loop.last %}{% break %}{% endif %}"
        "{%- endfor %}{{ thinking is defined }}{{ dict(a=1) }}{{ range(3) | list }}"
    ),
}
roles = st.sampled_from(["system", "user", "assistant", "tool"])
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": st.text(max_size=12)}), max_size=5)


def theirs(text: str, chat: list[dict[str, Any]], variables: dict[str, Any], mark: bool, prompt: bool) -> Any:
    texts, spans = render_jinja_template(
        conversations=[chat], chat_template=text, return_assistant_tokens_mask=mark, add_generation_prompt=prompt,
        **variables,
    )  # fmt: skip
    return texts[0], [tuple(span) for span in spans[0]] if mark else []


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=50)
@given(chat=messages, mark=st.booleans(), prompt=st.booleans(), more=st.booleans())
def test_quickly_rendered_is_what_transformers_renders(name, chat, mark, prompt, more):
    variables = {"bos_token": "<s>", "eos_token": "</s>", **({"thinking": False, "n": 3} if more else {})}
    found = quickly.quickly(TEMPLATES[name], chat, variables, mark, prompt)
    assert found == theirs(TEMPLATES[name], chat, variables, mark, prompt)


@pytest.mark.parametrize(
    ("text", "message", "variables"),
    [
        ("{{ messages }}", {"role": "user", "content": ["a"]}, {}),
        ("{{ messages }}", {"role": "assistant", "content": "a", "reasoning": "b"}, {}),
        ("{{ messages }}", {"role": "user", "content": "a"}, {"list": ["a"]}),
        ("{{ messages }}", {"role": "user", "content": "a"}, {"chat_template": "b"}),
        ("{{ messages }}", {"role": "user", "content": "a"}, {"messages": "b"}),
        ("{{ messages }}", {"role": "user", "content": "a"}, {"range": "b"}),
        ("{{ raise_exception('no') }}", {"role": "user", "content": "a"}, {}),
        ("{{ messages.append(1) }}", {"role": "user", "content": "a"}, {}),
        ("{% for %}", {"role": "user", "content": "a"}, {}),
    ],
)
def test_what_is_not_common_is_left_to_transformers(text, message, variables):
    assert quickly.quickly(text, [message], variables, True, False) is None


def test_a_template_changes_nothing_of_the_row():
    chat = [{"role": "user", "content": "a"}]
    assert (
        quickly.quickly("{{ messages[0].update(content='b') }}{{ messages[0].content }}", chat, {}, False, False)
        is None
    )
    assert chat == [{"role": "user", "content": "a"}]


def test_control_without_the_check_of_names_a_setting_would_be_read_in_another_way(monkeypatch):
    monkeypatch.setattr(quickly._Compiled, "takes", lambda *_: True)
    text, variables = "{{ messages }}", {"messages": "b"}
    assert quickly.quickly(text, [{"role": "user", "content": "a"}], variables, False, False) == ("b", [])
    with pytest.raises(TypeError):
        theirs(text, [], variables, False, False)


def test_another_version_of_the_library_is_asked_itself(monkeypatch):
    from transformers.utils import chat_template_utils

    monkeypatch.delattr(chat_template_utils, "_compile_jinja_template")
    quickly._compiled.cache_clear()
    try:
        assert quickly.quickly("{{ 1 }}", [{"role": "user", "content": "a"}], {}, False, False) is None
    finally:
        quickly._compiled.cache_clear()
