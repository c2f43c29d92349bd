"""Which shape a row has, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from nightschool.intake.shapes import messages as chats
from nightschool.intake.shapes.kinds import (
    ALPACA,
    MESSAGES,
    PAIR,
    QUESTION,
    SHAREGPT,
    Chat,
    Pair,
    RowError,
    Shape,
    Text,
    kind_of,
    string,
    words,
)
from nightschool.intake.shapes.repairs import MEANINGFUL, repair

QUESTIONS = (
    ("question", "answer"),
    ("question", "response"),
    ("query", "answer"),
    ("query", "response"),
    ("input", "output"),
)
"""Names of the two columns of a question and its answer."""

_ANSWERS = ("output", "response")
_ADDITIONS = ("input", "context")
"""Alpaca's columns: what is learned, and what the instruction is about."""

_FORMS = 'expected "messages", "conversations", "prompt" with "completion", "instruction" with "output", '
_FORMS += '"question" with "answer", or "text"; other names are mapped with [inbox.columns] or --map'
_ADVICE = {
    "prompt": 'it has "prompt", but no "completion"; map it if it has another name, as in completion = "reply"',
    "completion": 'it has "completion", but no "prompt"; map it if it has another name, or map text = "completion"',
    "instruction": 'it has "instruction", but no "output"; map it if it has another name, as in output = "reply"',
    "question": 'it has "question", but no "answer"; map it if it has another name, as in answer = "reply"',
    "content": 'name "content" "text", or map text = "content" in [inbox.columns]',
}
_MEDIA = {
    "images are not supported": ("image", "images"),
    "audio is not supported": ("audio", "audios"),
    "videos are not supported": ("video", "videos"),
}


def recognise(row: dict[str, Any], mapped: Collection[str] = ()) -> Shape:
    """Tell the shape of a row and check it.

    Args:
        row: under our names.
        mapped: names of ours that the user gave a column to: a shape that has one of them comes before others.

    Raises:
        RowError: no shape fits, or something in it is of the wrong kind.
    """
    if mapped:
        for keys, read in _READERS:
            if any(key in mapped for key in keys) and all(key in row for key in keys):
                return read(row)
    if "messages" not in row and "conversations" not in row:
        _refuse_preferences(row)
    for keys, read in _READERS:
        if all(key in row for key in keys):
            return read(row)
    for key, advice in _ADVICE.items():
        if key in row:
            raise RowError("the keys of the row are not known", advice)
    keys = ", ".join(f'"{key}"' for key in list(row)[:8]) or "none"
    raise RowError("the keys of the row are not known", f"it has {keys[:200]}; {_FORMS}")


def _messages(row: dict[str, Any]) -> Shape:
    repairs: set[str] = set()
    messages, sharegpt = chats.clean(row["messages"], "messages", repairs)
    return _chat(row, messages, 0, SHAREGPT if sharegpt else MESSAGES, repairs)


def _conversations(key: str) -> Callable[[dict[str, Any]], Shape]:
    def read(row: dict[str, Any]) -> Shape:
        repairs: set[str] = set()
        messages, _ = chats.clean(row[key], key, repairs)
        return _chat(row, messages, 0, SHAREGPT, repairs)

    return read


def _pair(row: dict[str, Any]) -> Shape:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) or isinstance(completion, list):
        repairs: set[str] = set()
        given, _ = chats.clean(prompt, "prompt", repairs, may_be_empty=True)
        rest, _ = chats.clean(completion, "completion", repairs)
        return _chat(row, given + rest, len(given), PAIR, repairs)
    _refuse_media(row)
    prompt, completion = string(prompt, "prompt"), string(completion, "completion")
    if not completion:
        raise RowError("no tokens to learn", "the completion is empty")
    if ("system" in row or "system_prompt" in row) and chats.system_of(row):
        raise RowError(
            'a "system" beside a prompt that is plain text has no place',
            "put it into the prompt, or write prompt and completion as lists of messages",
        )
    return Pair(prompt, completion)


def _alpaca(output: str) -> Callable[[dict[str, Any]], Shape]:
    def read(row: dict[str, Any]) -> Shape:
        return _exchange(row, "instruction", output, ALPACA)

    return read


def _question(question: str, answer: str) -> Callable[[dict[str, Any]], Shape]:
    def read(row: dict[str, Any]) -> Shape:
        return _exchange(row, question, answer, QUESTION)

    return read


def _exchange(row: dict[str, Any], question: str, answer: str, shape: str) -> Chat:
    """A question, what it is about, and its answer, after what was said before."""
    asked, said = words(row[question], question), string(row[answer], answer)
    about = [words(row.get(key), key) for key in _ADDITIONS if key not in (question, answer)]
    content = "\n\n".join(part for part in (asked, *about) if part)
    if not content:
        raise RowError("there is nothing that is answered", f'"{question}" is empty')
    if not said:
        raise RowError("no tokens to learn", f'"{answer}" is empty')
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": said}]
    return _chat(row, _history(row.get("history")) + messages, 0, shape, set())


def _history(value: Any) -> list[dict[str, Any]]:
    """Alpaca's earlier exchanges: a list of [question, answer]. They are learned like every other answer."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError('"history" must be a list of [question, answer]', f"it is {kind_of(value)}")
    messages = []
    for exchange in value:
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(part, str) for part in exchange)):
            raise RowError('"history" must be a list of [question, answer]', "one of them is something else")
        messages += [
            {"role": role, "content": part} for role, part in zip(("user", "assistant"), exchange, strict=True)
        ]
    return messages


def _text(row: dict[str, Any]) -> Shape:
    _refuse_media(row)
    text = string(row["text"], "text")
    if not text:
        raise RowError("no tokens to learn", "the text is empty")
    return Text(text)


def _chat(row: dict[str, Any], messages: list[dict[str, Any]], given: int, shape: str, repairs: set[str]) -> Chat:
    _refuse_media(row)
    if "system" in row or "system_prompt" in row:
        system = chats.system_of(row)
        if system and not (messages and messages[0] == system[0]):
            messages = system + messages
            given += bool(given)
    messages, given, more = repair(messages, given)
    answers = [m for m in messages[given:] if m["role"] == "assistant"]
    if answers and not any(m["content"] or any(key in m for key in MEANINGFUL) for m in answers):
        raise RowError("no tokens to learn", "every answer is empty")
    tools = chats.tools_of(row["tools"]) if "tools" in row else None
    extra = row.get("chat_template_kwargs")
    if extra is not None and not isinstance(extra, dict):
        raise RowError('"chat_template_kwargs" must be an object')
    return Chat(messages, given, tools, extra or {}, shape, (*sorted(repairs), *more) if repairs or more else ())


def _refuse_preferences(row: dict[str, Any]) -> None:
    if row.get("chosen") is not None or row.get("rejected") is not None:
        raise RowError(
            "preference rows are not supported",
            'it has "chosen" or "rejected"; keep the chosen answer as a chat, or map messages = "chosen"',
        )
    if isinstance(row.get("label"), bool) and "completion" in row:
        raise RowError("preference rows are not supported", 'its "label" says whether the completion is a good one')


def _refuse_media(row: dict[str, Any]) -> None:
    for reason, keys in _MEDIA.items():
        for key in keys:
            if row.get(key):
                raise RowError(reason, f'it has "{key}"')


_READERS: tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], Shape]], ...] = (
    (("messages",), _messages),
    (("conversations",), _conversations("conversations")),
    (("conversation",), _conversations("conversation")),
    (("prompt", "completion"), _pair),
    *((("instruction", answer), _alpaca(answer)) for answer in _ANSWERS),
    *((pair, _question(*pair)) for pair in QUESTIONS),
    (("text",), _text),
)
"""The keys that make a shape, and what reads it; the first that fits counts."""
