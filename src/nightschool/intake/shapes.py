"""What a row means: a chat, a prompt with its completion, or plain text. Told by its keys, row by row.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}     chat
    {"prompt": "...", "completion": "..."}                                                          prompt+completion
    {"prompt": [messages], "completion": [messages]}                       chat, only the completion is learned
    {"text": "..."}                                                                                 text

Where a row has the keys of several, the first in this list counts. Other keys are left alone, except those that would
change what is learned: they are named as unsupported instead of being passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MESSAGES, PAIR, TEXT = "messages", "prompt+completion", "text"
"""The names of the shapes, as the ledger and `meta.json` hold them."""

_FORMS = 'expected "messages", "prompt" with "completion", or "text"'
_OTHER_FORMATS = {
    "conversations": 'rename it to "messages", with "role" and "content" in each',
    "conversation": 'rename it to "messages", with "role" and "content" in each',
    "instruction": 'rename "instruction" and "output" to "prompt" and "completion"',
    "question": 'rename "question" and "answer" to "prompt" and "completion"',
    "chosen": "preference data is not trained on; keep the chosen answer as a chat",
    "content": 'rename it to "text"',
}


class RowError(ValueError):
    """A row cannot be used. `reason` is the same text for the same mistake; `detail` is about this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages for the chat template. The first `given` of them are context only: nothing in them is learned."""

    messages: list[dict[str, Any]]
    given: int = 0
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    shape = MESSAGES


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and what is to be learned after it, as plain strings, without a chat template."""

    prompt: str
    completion: str

    shape = PAIR


@dataclass(frozen=True, slots=True)
class Text:
    """One document, all of which is learned."""

    text: str

    shape = TEXT


Shape = Chat | Pair | Text


def recognise(row: dict[str, Any]) -> Shape:
    """Tell the shape of a row and check it.

    Raises:
        RowError: no shape fits, or something in it is of the wrong kind.
    """
    if "messages" in row:
        return _chat(row, _messages(row["messages"], "messages"), given=0)
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) or isinstance(completion, list):
            given = _messages(prompt, "prompt", may_be_empty=True)
            return _chat(row, given + _messages(completion, "completion"), given=len(given))
        prompt, completion = _string(prompt, "prompt"), _string(completion, "completion")
        if not completion:
            raise RowError("no tokens to learn", "the completion is empty")
        return Pair(prompt, completion)
    if "text" in row:
        text = _string(row["text"], "text")
        if not text:
            raise RowError("no tokens to learn", "the text is empty")
        return Text(text)
    for key, advice in _OTHER_FORMATS.items():
        if key in row:
            raise RowError("the keys of the row are not known", f'"{key}" is not read; {advice}')
    keys = ", ".join(f'"{key}"' for key in list(row)[:8]) or "none"
    raise RowError("the keys of the row are not known", f"it has {keys[:200]}; {_FORMS}")


def _chat(row: dict[str, Any], messages: list[dict[str, Any]], given: int) -> Chat:
    tools = row.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise RowError('"tools" must be a list of JSON schemas')
    extra = row.get("chat_template_kwargs")
    if extra is not None and not isinstance(extra, dict):
        raise RowError('"chat_template_kwargs" must be an object')
    return Chat(messages, given, tools or None, extra or {})


def _string(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise RowError(f'"{key}" must be a string', f"it is {_kind(value)}")
    return value


def _messages(value: Any, key: str, may_be_empty: bool = False) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise RowError(f'"{key}" must be a list of messages', f"it is {_kind(value)}")
    if not value and not may_be_empty:
        raise RowError("no tokens to learn", f'"{key}" is empty')
    return [_message(message, f'message {index} of "{key}"') for index, message in enumerate(value, 1)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RowError("a message must be an object", f"{where} is {_kind(message)}")
    if "role" not in message and "from" in message:
        raise RowError("a message has no role", f'{where} has "from" and "value"; rename them to "role" and "content"')
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RowError("a message has no role" if role is None else "a role must be a string", where)
    if message.get("weight", 1) != 1 or message.get("train", True) is not True:
        raise RowError(
            "leaving single messages out of the learning is not supported",
            f'{where}; put what comes before it into "prompt" and the rest into "completion"',
        )
    # Templates test whether a key is there; one that is null is meant as not there.
    clean = {k: v for k, v in message.items() if v is not None and k not in ("weight", "train")}
    if "content" in clean:
        clean["content"] = _content(clean["content"], where)
    elif "tool_calls" in clean:
        clean["content"] = ""
    else:
        raise RowError("a message has no content", where)
    return clean


def _content(content: Any, where: str) -> str:
    """Content as a string: text parts, as the OpenAI format has them, are joined as they stand."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("the content of a message must be a string", f"{where} has {_kind(content)}")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise RowError(
                "a message holds something else than text",
                f"{where} has a part of type {kind!r}" if isinstance(kind, str) else where,
            )
        texts.append(part["text"])
    return "".join(texts)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")
