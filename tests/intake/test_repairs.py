"""What is put right in chats, counted by name; and what is left as people wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake.prepared import read_meta
from nightschool.intake.shapes import LEADING_DROPPED, MERGED, PAIR, ROLES_TRANSLATED, Chat, recognise
from nightschool.intake.shapes import repairs as module

from .workspaces import Workspace, lines

NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(pattern: str) -> list[dict[str, Any]]:
    """Messages by the first letters of their roles; the content of each is its place."""
    return [{"role": NAMES[letter], "content": str(place)} for place, letter in enumerate(pattern)]


def repaired(row: dict[str, Any]) -> tuple[list[str], tuple[str, ...], int]:
    chat = recognise(row)
    assert isinstance(chat, Chat)
    return [f"{m['role'][0]}{m['content']}" for m in chat.messages], chat.repairs, chat.given


@pytest.mark.parametrize(
    ("pattern", "result", "repairs"),
    [
        ("uaua", ["u0", "a1", "u2", "a3"], ()),
        ("aua", ["u1", "a2"], (LEADING_DROPPED,)),
        ("saua", ["s0", "u2", "a3"], (LEADING_DROPPED,)),
        ("atua", ["u2", "a3"], (LEADING_DROPPED,)),
        ("uuaa", ["u0\n\n1", "a2\n\n3"], (MERGED,)),
        ("aauua", ["u2\n\n3", "a4"], (LEADING_DROPPED, MERGED)),
        ("ssua", ["s0\n\n1", "u2", "a3"], (MERGED,)),
        ("uatta", ["u0", "a1", "t2", "t3", "a4"], ()),
        ("sa", ["s0", "a1"], ()),
        ("a", ["a0"], ()),
        ("uau", ["u0", "a1", "u2"], ()),
    ],
)
def test_turns_are_repaired_and_each_kind_is_named_once(pattern, result, repairs):
    assert repaired({"messages": turns(pattern)}) == (result, repairs, 0)
    assert repaired({"conversations": [{"from": m["role"], "value": m["content"]} for m in turns(pattern)]}) == (
        result,
        repairs,
        0,
    )


@pytest.mark.parametrize(
    ("pattern", "split", "result", "repairs", "given"),
    [
        ("uaua", 3, ["u0", "a1", "u2", "a3"], (), 3),
        ("aua", 2, ["u1", "a2"], (LEADING_DROPPED,), 1),
        ("uua", 2, ["u0\n\n1", "a2"], (MERGED,), 1),
        # What is learned and what is not never becomes one turn.
        ("uaa", 2, ["u0", "a1", "a2"], (), 2),
        ("uaaaa", 3, ["u0", "a1\n\n2", "a3\n\n4"], (MERGED,), 2),
    ],
)
def test_repairs_keep_the_prompt_apart_from_the_completion(pattern, split, result, repairs, given):
    messages = turns(pattern)
    assert repaired({"prompt": messages[:split], "completion": messages[split:]}) == (result, repairs, given)


def test_turns_that_carry_more_than_words_are_not_merged():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    for extra in (call, {"role": "assistant", "content": "b", "reasoning_content": "r"}):
        row = {"messages": [*turns("ua"), extra]}
        assert recognise(row) == Chat(row["messages"])
    row = {"messages": [{"role": "user", "name": n, "content": "a"} for n in ("Ann", "Bob")] + turns("a")}
    assert recognise(row) == Chat(row["messages"])
    # What no template reads is no reason.
    merged = recognise({"messages": [{"role": "user", "content": c, "id": c} for c in "xy"] + turns("a")})
    assert merged == Chat([{"role": "user", "content": "x\n\ny", "id": "x"}, *turns("a")], repairs=(MERGED,))


def test_white_space_around_what_people_wrote_stays():
    messages = [{"role": "user", "content": "  a\n"}, {"role": "assistant", "content": "\n b "}]
    assert recognise({"messages": messages}) == Chat(messages)


@given(st.text(alphabet="suat", min_size=1, max_size=10), st.integers(0, 10))
def test_no_word_is_lost_but_what_the_assistant_said_first(pattern, split):
    messages = turns(pattern)
    split = min(split, len(messages) - 1)
    chat = recognise({"prompt": messages[:split], "completion": messages[split:]})
    assert isinstance(chat, Chat)
    assert chat.shape == PAIR
    found = [part for message in chat.messages for part in message["content"].split("\n\n")]
    first = pattern.find("u")
    dropped = {str(i) for i in range(max(first, 0)) if pattern[i] in "at"}
    assert found == [str(i) for i in range(len(pattern)) if str(i) not in dropped]
    assert bool(dropped) == (LEADING_DROPPED in chat.repairs)
    # The line between what is context and what is learned stays between the same words.
    context = [part for message in chat.messages[: chat.given] for part in message["content"].split("\n\n")]
    assert context == [str(i) for i in range(split) if str(i) not in dropped]
    # Repairing again changes nothing.
    assert module.repair(chat.messages, chat.given) == (chat.messages, chat.given, [])


def test_repairs_are_counted_in_rows_by_name_and_said(place: Workspace):
    rows = [
        {"messages": turns("ua")},
        {"messages": turns("aua")},
        {"messages": turns("auuaa")},
        {"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]},
        {"messages": [*turns("aua"), {"role": "user"}]},  # a bad row counts as nothing else
        {"text": "a"},
    ]
    number = place.drop("a.jsonl", lines(*rows))
    place.work()
    row = place.get(number)
    meta = read_meta(place.layout.prepared / (row.prepared or ""))
    assert meta["counts"]["repairs"] == {LEADING_DROPPED: 2, MERGED: 1, ROLES_TRANSLATED: 1}
    assert meta["shape"] == "mixed"
    assert meta["shapes"] == {"messages": 4, "text": 1}
    (event,) = place.ledger.events.of_kind("file-ready")
    assert f"{LEADING_DROPPED} in 2 rows" in event.text
    assert f"{MERGED} in 1 rows" in event.text
    assert json.loads(json.dumps(meta)) == meta


def test_control_without_repairs_the_first_answer_would_be_learned(place: Workspace, monkeypatch):
    digests = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr("nightschool.intake.shapes.reading.repair", lambda m, given: (m, given, []))
        number = place.drop(f"{name}.jsonl", lines({"messages": turns("aua")}) + b"\n" * (name == "without"))
        place.work()
        row = place.get(number)
        digests.append((row.data_digest, row.label_tokens))
    assert digests[0] != digests[1]
    assert digests[0][1] < digests[1][1]
