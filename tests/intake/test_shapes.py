"""Recognising chats, pairs and text; refusing what would be learned wrongly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake.shapes import Chat, Pair, RowError, Text, recognise

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}


def test_the_shapes():
    assert recognise({"messages": [USER, BOT], "id": 3}) == Chat([USER, BOT])
    assert recognise({"prompt": "a", "completion": "b"}) == Pair("a", "b")
    assert recognise({"prompt": [USER], "completion": [BOT]}) == Chat([USER, BOT], given=1)
    assert recognise({"prompt": "", "completion": "b"}) == Pair("", "b")
    assert recognise({"text": "a", "source": "x"}) == Text("a")
    assert isinstance(recognise({"text": "a", "messages": [USER, BOT]}), Chat)


def test_tools_and_template_variables_are_kept():
    chat = recognise({"messages": [USER, BOT], "tools": [{"type": "function"}], "chat_template_kwargs": {"a": 1}})
    assert chat == Chat([USER, BOT], tools=[{"type": "function"}], template_kwargs={"a": 1})


def test_e19_text_parts_are_joined_and_a_call_of_a_tool_needs_no_content():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    chat = recognise({"messages": [{"role": "user", "content": parts}, BOT]})
    assert isinstance(chat, Chat)
    assert chat.messages[0]["content"] == "a b"
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "name": None}
    chat = recognise({"messages": [USER, call]})
    assert isinstance(chat, Chat)
    assert chat.messages[1] == {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": 5}, '"text" must be a string'),
        ({"text": None}, '"text" must be a string'),
        ({"text": ["a"]}, '"text" must be a string'),
        ({"prompt": "a", "completion": 1}, '"completion" must be a string'),
        ({"prompt": True, "completion": "a"}, '"prompt" must be a string'),
        ({"prompt": [USER], "completion": "a"}, '"completion" must be a list of messages'),
        ({"messages": "hi"}, '"messages" must be a list of messages'),
        ({"messages": ["hi"]}, "a message must be an object"),
        ({"messages": [{"content": "a"}]}, "a message has no role"),
        ({"messages": [{"from": "human", "value": "a"}]}, "a message has no role"),
        ({"messages": [{"role": 5, "content": "a"}]}, "a role must be a string"),
        ({"messages": [{"role": "user"}]}, "a message has no content"),
        ({"messages": [{"role": "user", "content": None}]}, "a message has no content"),
        ({"messages": [{"role": "user", "content": 5}]}, "the content of a message must be a string"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "the content of a message must be a string"),
        ({"messages": [{"role": "user", "content": [5]}]}, "a message holds something else than text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a message holds something else than text"),
        ({"messages": [USER, BOT], "tools": "x"}, '"tools" must be a list of JSON schemas'),
        ({"messages": [USER, BOT], "chat_template_kwargs": 1}, '"chat_template_kwargs" must be an object'),
        ({"messages": [USER, {**BOT, "weight": 0}]}, "leaving single messages out of the learning is not supported"),
        ({}, "the keys of the row are not known"),
        ({"prompt": "a"}, "the keys of the row are not known"),
        ({"conversations": []}, "the keys of the row are not known"),
    ],
)
def test_e19_a_value_of_the_wrong_kind_is_a_bad_row_with_the_reason(row, reason):
    with pytest.raises(RowError) as caught:
        recognise(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "row", [{"text": ""}, {"messages": []}, {"prompt": "a", "completion": ""}, {"prompt": [USER], "completion": []}]
)
def test_e17_a_row_without_tokens_is_a_bad_row(row):
    with pytest.raises(RowError, match="no tokens to learn"):
        recognise(row)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"conversations": []}, 'rename it to "messages"'),
        ({"instruction": "a", "output": "b"}, '"prompt" and "completion"'),
        ({"messages": [{"from": "human", "value": "a"}]}, 'rename them to "role" and "content"'),
        ({"Text": "a"}, 'it has "Text"'),
    ],
)
def test_the_reason_says_what_to_do(row, advice):
    with pytest.raises(RowError) as caught:
        recognise(row)
    assert advice in caught.value.detail


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "prompt", "completion", "text", "role", "content", "type", "tools"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["messages", "prompt", "completion", "text", "tools", "x"]), _json, max_size=4))
def test_e19_any_object_is_a_shape_or_a_row_error(row):
    try:
        shape = recognise(row)
    except RowError:
        return
    assert isinstance(shape, Chat | Pair | Text)
