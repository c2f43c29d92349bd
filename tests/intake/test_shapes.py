"""Recognising every shape of row; refusing what would be learned wrongly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake.shapes import (
    ALPACA,
    CALLS_READ,
    PAIR,
    QUESTION,
    ROLES_TRANSLATED,
    SHAREGPT,
    Chat,
    Pair,
    RowError,
    Text,
    map_columns,
    recognise,
)
from nightschool.intake.shapes.columns import COLUMNS

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}


def test_the_shapes():
    assert recognise({"messages": [USER, BOT], "id": 3}) == Chat([USER, BOT])
    assert recognise({"prompt": "a", "completion": "b"}) == Pair("a", "b")
    assert recognise({"prompt": [USER], "completion": [BOT]}) == Chat([USER, BOT], given=1, shape=PAIR)
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
        ({"messages": [{"from": None, "value": "a"}]}, "a message has no role"),
        ({"conversations": [{"from": 5, "value": "a"}]}, "a role must be a string"),
        ({"conversations": [{"from": "human", "value": None}]}, "a message has no content"),
        ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, "the call of a tool must be JSON text"),
        ({"conversations": {"from": "human"}}, '"conversations" must be a list of messages'),
        ({"instruction": 5, "output": "a"}, '"instruction" must be a string'),
        ({"instruction": "a", "output": None}, '"output" must be a string'),
        ({"instruction": "a", "input": 5, "output": "a"}, '"input" must be a string'),
        ({"instruction": "", "output": "a"}, "there is nothing that is answered"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, '"history" must be a list of [question, answer]'),
        ({"instruction": "a", "output": "b", "history": "x"}, '"history" must be a list of [question, answer]'),
        ({"instruction": "a", "output": "b", "system": 5}, '"system" must be a string'),
        ({"question": "a", "answer": ["b"]}, '"answer" must be a string'),
        ({"question": "a", "answer": {"text": ["b"]}}, '"answer" must be a string'),
        ({"messages": [USER, {"role": "assistant", "tool_calls": "f"}]}, '"tool_calls" must be a list of objects'),
        ({"messages": [{"role": 5, "content": "a"}]}, "a role must be a string"),
        ({"messages": [{"role": "user"}]}, "a message has no content"),
        ({"messages": [{"role": "user", "content": None}]}, "a message has no content"),
        ({"messages": [{"role": "user", "content": 5}]}, "the content of a message must be a string"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "the content of a message must be a string"),
        ({"messages": [{"role": "user", "content": [5]}]}, "a message holds something else than text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "images are not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "a message holds something else than text"),
        ({"messages": [USER, BOT], "tools": "x"}, '"tools" must be a list of JSON schemas'),
        ({"messages": [USER, BOT], "chat_template_kwargs": 1}, '"chat_template_kwargs" must be an object'),
        ({"messages": [USER, {**BOT, "weight": 0}]}, "leaving single messages out of the learning is not supported"),
        ({"messages": [USER, {**BOT, "loss": False}]}, "leaving single messages out of the learning is not supported"),
        (
            {"messages": [USER, {**BOT, "content": "", "function_call": {"name": "f"}}]},
            '"function_call" is not supported',
        ),
        (
            {"prompt": "a", "completion": "b", "system": "c"},
            'a "system" beside a prompt that is plain text has no place',
        ),
        ({}, "the keys of the row are not known"),
        ({"prompt": "a"}, "the keys of the row are not known"),
        ({"instruction": "a"}, "the keys of the row are not known"),
        ({"question": "a"}, "the keys of the row are not known"),
        ({"prompt": "a", "response": "b"}, "the keys of the row are not known"),
    ],
)
def test_e19_a_value_of_the_wrong_kind_is_a_bad_row_with_the_reason(row, reason):
    with pytest.raises(RowError) as caught:
        recognise(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "row",
    [
        {"text": ""},
        {"messages": []},
        {"conversations": []},
        {"prompt": "a", "completion": ""},
        {"prompt": [USER], "completion": []},
        {"instruction": "a", "output": ""},
        {"question": "a", "answer": ""},
        {"messages": [USER, {"role": "assistant", "content": ""}]},
    ],
)
def test_e17_a_row_without_tokens_is_a_bad_row(row):
    with pytest.raises(RowError, match="no tokens to learn"):
        recognise(row)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"prompt": "a", "response": "b"}, 'no "completion"; map it'),
        ({"instruction": "a"}, 'no "output"; map it'),
        ({"content": "a"}, 'text = "content" in [inbox.columns]'),
        ({"Text": "a"}, 'it has "Text"'),
        ({"chosen": [USER, BOT], "rejected": [USER]}, 'messages = "chosen"'),
    ],
)
def test_the_reason_says_what_to_do(row, advice):
    with pytest.raises(RowError) as caught:
        recognise(row)
    assert advice in caught.value.detail


ASKED = [USER, BOT]


@pytest.mark.parametrize(
    ("row", "shape", "messages"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, SHAREGPT, ASKED),
        ({"conversation": [{"from": "prompter", "value": "Hi"}, {"from": "bot", "value": "Yo"}]}, SHAREGPT, ASKED),
        ({"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Yo"}]}, SHAREGPT, ASKED),
        ({"conversations": ASKED}, SHAREGPT, ASKED),
        ({"conversations": [{"role": "Human", "content": "Hi"}, BOT]}, SHAREGPT, ASKED),
        ({"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, SHAREGPT, ASKED),
        ({"instruction": "Hi", "output": "Yo"}, ALPACA, ASKED),
        ({"instruction": "Hi", "input": None, "output": "Yo", "text": "### Hi Yo"}, ALPACA, ASKED),
        ({"instruction": "Hi", "input": "", "output": "Yo", "history": [], "system": ""}, ALPACA, ASKED),
        ({"instruction": "", "input": "Hi", "output": "Yo"}, ALPACA, ASKED),
        ({"instruction": "Hi", "context": "", "response": "Yo", "category": "open_qa"}, ALPACA, ASKED),
        ({"question": "Hi", "answer": "Yo"}, QUESTION, ASKED),
        ({"query": "Hi", "response": "Yo"}, QUESTION, ASKED),
        ({"input": "Hi", "output": "Yo"}, QUESTION, ASKED),
        ({"prompt": [], "completion": ASKED}, PAIR, ASKED),
    ],
)
def test_the_same_exchange_in_every_shape_is_the_same_chat(row, shape, messages):
    chat = recognise(row)
    assert isinstance(chat, Chat)
    assert (chat.shape, chat.messages, chat.given, chat.repairs) == (shape, messages, 0, ())


def test_alpaca_holds_a_system_prompt_earlier_exchanges_and_an_input():
    row = {"instruction": "Sum", "input": "1 2", "output": "3", "system": "S", "history": [["a", "b"], ["c", "d"]]}
    chat = recognise(row)
    assert isinstance(chat, Chat)
    assert [(m["role"], m["content"]) for m in chat.messages] == [
        ("system", "S"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("user", "Sum\n\n1 2"),
        ("assistant", "3"),
    ]


def test_the_context_of_a_question_is_not_lost():
    chat = recognise({"question": "Who?", "context": "Ann was here.", "answer": "Ann"})
    assert isinstance(chat, Chat)
    assert chat.messages[0]["content"] == "Who?\n\nAnn was here."


def test_sharegpt_with_system_and_tools():
    chat = recognise(
        {
            "system": "S",
            "tools": '[{"name": "f"}]',
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "f", "arguments": "{\\"x\\": 1}"}'},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": " Yo "},
            ],
        }
    )
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert chat == Chat(
        [
            {"role": "system", "content": "S"},
            USER,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": " Yo "},
        ],
        tools=[{"name": "f"}],
        shape=SHAREGPT,
        repairs=(CALLS_READ,),
    )


@pytest.mark.parametrize("arguments", [{"x": 1}, '{"x": 1}'])
def test_the_arguments_of_a_call_are_an_object_whatever_they_came_as(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    chat = recognise({"messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    assert isinstance(chat, Chat)
    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert call["function"]["arguments"] == arguments, "the row itself is not changed"


def test_a_system_prompt_beside_the_messages_is_one_of_them_but_not_twice():
    system = {"role": "system", "content": "S"}
    for row in ({"messages": ASKED, "system": "S"}, {"messages": [system, *ASKED], "system_prompt": "S"}):
        assert recognise(row) == Chat([system, *ASKED])
    row = {"prompt": [USER], "completion": [BOT], "system": [{"type": "text", "text": "S"}]}
    assert recognise(row) == Chat([system, *ASKED], given=2, shape=PAIR)


def test_other_names_of_roles_in_messages_are_translated_and_counted():
    chat = recognise({"messages": [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Yo"}]})
    assert chat == Chat(ASKED, repairs=(ROLES_TRANSLATED,))
    # A template may know these by their names.
    row = {"messages": [{"role": "developer", "content": "D"}, USER, {"role": "ipython", "content": "7"}, BOT]}
    assert recognise(row) == Chat(row["messages"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference rows are not supported"),
        ({"chosen": ASKED, "rejected": ASKED}, "preference rows are not supported"),
        ({"question": "a", "answer": "b", "rejected": "c"}, "preference rows are not supported"),
        ({"prompt": "a", "completion": "b", "label": False}, "preference rows are not supported"),
        ({"messages": ASKED, "images": ["a.png"]}, "images are not supported"),
        ({"text": "a", "image": {"bytes": "x"}}, "images are not supported"),
        ({"instruction": "a", "output": "b", "image": "a.png"}, "images are not supported"),
        ({"prompt": "a", "completion": "b", "audio": "a.wav"}, "audio is not supported"),
        ({"messages": ASKED, "videos": ["a.mp4"]}, "videos are not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "audio is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "images are not supported"),
    ],
)
def test_preferences_images_and_audio_are_named_as_not_supported(row, reason):
    with pytest.raises(RowError) as caught:
        recognise(row)
    assert caught.value.reason == reason


def test_empty_columns_for_images_and_preferences_are_no_hindrance():
    assert recognise({"messages": ASKED, "images": [], "audio": None, "chosen": None, "rejected": None}) == Chat(ASKED)
    # The messages are the chosen answer: the two columns beside them are not needed.
    assert recognise({"messages": ASKED, "chosen": ASKED, "rejected": ASKED}) == Chat(ASKED)
    assert recognise({"text": "a", "label": 1}) == Text("a")


def test_what_is_not_learned_anyway_may_be_marked_so():
    rows = [{**USER, "weight": 0, "loss": False}, {**BOT, "train": True, "loss": 1, "function_call": None}]
    assert recognise({"messages": rows}) == recognise({"messages": [USER, BOT]})
    assert isinstance(recognise({"prompt": "a", "completion": "b", "system": ""}), Pair)


def test_white_space_around_a_role_does_not_cost_its_answer():
    found = recognise({"messages": [USER, BOT, USER, {**BOT, "role": "Assistant "}]})
    assert isinstance(found, Chat)
    assert [message["role"] for message in found.messages] == ["user", "assistant"] * 2


_INNER = ["role", "content", "from", "value", "type", "text", "tool_calls", "function", "arguments"]
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_INNER),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


_key = st.sampled_from([*COLUMNS, "conversation", "context", "response", "query", "chosen", "images", "label", "x"])


@given(st.dictionaries(_key, _json, max_size=4), st.dictionaries(st.sampled_from(COLUMNS), _key, max_size=3))
def test_e19_any_object_is_a_shape_or_a_row_error(row, columns):
    before = copy.deepcopy(row)
    try:
        shape = recognise(map_columns(row, columns), columns)
    except RowError:
        return
    finally:
        assert row == before, "a row is never changed: bad ones are reported as they came"
    assert isinstance(shape, Chat | Pair | Text)
