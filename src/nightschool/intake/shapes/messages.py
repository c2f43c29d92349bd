"""The messages of a chat, brought into one form: role, content as a string, tool calls as objects."""

from __future__ import annotations

import json
from typing import Any

from nightschool.intake.shapes.kinds import RowError, kind_of, string
from nightschool.intake.shapes.repairs import CALLS_READ, ROLES_TRANSLATED

ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "chatgpt", "chatbot", "bard", "bing", "claude", "ai", "model"), "assistant"),
    **dict.fromkeys(("system_prompt", "sys"), "system"),
    **dict.fromkeys(("observation", "function_response", "tool_response", "tool_result", "ipython"), "tool"),
}
"""Names that other formats give to the roles. In `messages` only those of user and assistant are translated: a template
may know the others by these names."""

_CALLS = ("function_call", "tool_call", "function-call", "tool-call")
"""ShareGPT's roles of a turn in which the assistant calls a tool: its text is the call, as JSON."""

_LEARNED = frozenset({"weight", "train", "training", "trainable", "loss"})
"""Keys by which other programs leave single answers out of the learning: all of them mean yes with 1, true or null."""

_ASKED_OR_SAID = ("user", "assistant")
_TEXT = ("text", "input_text", "output_text")
_MEDIA = {
    **dict.fromkeys(("image", "image_url", "input_image"), "images are not supported"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio is not supported"),
    **dict.fromkeys(("video", "video_url"), "videos are not supported"),
}


def clean(value: Any, key: str, repairs: set[str], may_be_empty: bool = False) -> tuple[list[dict[str, Any]], bool]:
    """The messages in a list, checked.

    Args:
        value: what stands in the row under `key`.
        key: its name, for the reasons.
        repairs: gets the names of what was put right.
        may_be_empty: whether an empty list is a list too.

    Returns:
        the messages, and whether they came with "from" and "value".

    Raises:
        RowError: something in it is of the wrong kind.
    """
    if not isinstance(value, list):
        raise RowError(f'"{key}" must be a list of messages', f"it is {kind_of(value)}")
    if not value and not may_be_empty:
        raise RowError("no tokens to learn", f'"{key}" is empty')
    sharegpt = any(isinstance(message, dict) and "from" in message and "role" not in message for message in value)
    translated = sharegpt or key.startswith("conversation")
    return [_message(message, index, key, translated, repairs) for index, message in enumerate(value, 1)], sharegpt


def _message(message: Any, index: int, key: str, sharegpt: bool, repairs: set[str]) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RowError("a message must be an object", f"{_where(index, key)} is {kind_of(message)}")
    # Templates test whether a key is there; one that is null is meant as not there.
    found = {k: v for k, v in message.items() if v is not None and k not in _LEARNED}
    if "role" not in found and "from" in found:
        found["role"] = found.pop("from")
        if "value" in found and "content" not in found:
            found["content"] = found.pop("value")
    role = found.get("role")
    if not isinstance(role, str) or not role:
        missing = message.get("role", message.get("from")) is None
        raise RowError("a message has no role" if missing else "a role must be a string", _where(index, key))
    if role not in _ASKED_OR_SAID:
        _translate(found, role, index, key, sharegpt, repairs)
    if len(message) > 2:
        _refuse_what_would_be_lost(message, found["role"], _where(index, key))
    content = found.get("content")
    if content is None:
        if "tool_calls" not in found:
            raise RowError("a message has no content", _where(index, key))
        found["content"] = ""
    elif not isinstance(content, str):
        found["content"] = _joined(content, index, key)
    if "tool_calls" in found:
        _check_calls(found, index, key)
    return found


def _refuse_what_would_be_lost(message: dict[str, Any], role: str, where: str) -> None:
    if role == "assistant" and any(message.get(key, 1) not in (1, None) for key in _LEARNED):
        raise RowError(
            "leaving single messages out of the learning is not supported",
            f'{where}; put what comes before it into "prompt" and the rest into "completion"',
        )
    if message.get("function_call"):
        raise RowError('"function_call" is not supported', f'{where}; write it as "tool_calls"')


def _where(index: int, key: str) -> str:
    return f'message {index} of "{key}"'


def _translate(found: dict[str, Any], role: str, index: int, key: str, sharegpt: bool, repairs: set[str]) -> None:
    """Put our name of a role in the place of another, in `found`."""
    if sharegpt and role in _CALLS:
        if not isinstance(found.get("content"), str):
            raise RowError("the call of a tool must be JSON text", _where(index, key))
        found["tool_calls"] = _calls(found["content"], _where(index, key))
        found["role"], found["content"] = "assistant", ""
        repairs.add(CALLS_READ)
        return
    plain = role.strip().lower()
    ours = ROLES.get(plain) or (plain if plain in _KNOWN else None)
    if ours is None or ours == role or not (sharegpt or ours in _ASKED_OR_SAID):
        return
    found["role"] = ours
    # In ShareGPT these names are the rule, not a slip.
    if not sharegpt:
        repairs.add(ROLES_TRANSLATED)


_KNOWN = ("user", "assistant", "system", "tool")


def _calls(text: str, where: str) -> list[dict[str, Any]]:
    """Tool calls that are written as JSON: one, or a list of them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not (isinstance(call, dict) and isinstance(call.get("name"), str)):
            calls = []
            break
        calls.append({"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}})
    if not calls:
        raise RowError("the call of a tool must be JSON text", f'{where} needs {{"name": ..., "arguments": {{...}}}}')
    return [_call(call) for call in calls]


def _check_calls(found: dict[str, Any], index: int, key: str) -> None:
    """Tool calls as templates read them: arguments that are JSON text, as OpenAI has them, become objects."""
    calls = found["tool_calls"]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowError('"tool_calls" must be a list of objects', _where(index, key))
    if not calls:
        del found["tool_calls"]
        return
    found["tool_calls"] = [_call(call) for call in calls]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    holder = function if isinstance(function, dict) else call
    arguments = holder.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return call
    if not isinstance(value, dict):
        return call
    holder = {**holder, "arguments": value}
    return {**call, "function": holder} if isinstance(function, dict) else holder


def text_of(content: Any, where: str) -> str:
    """Content as a string: text parts, as the OpenAI format has them, are joined as they stand.

    Raises:
        RowError: it is neither.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("the content of a message must be a string", f"{where} has {kind_of(content)}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in _MEDIA:
            raise RowError(_MEDIA[kind], f"{where} has a part of type {kind!r}")
        text = part.get("text") if isinstance(part, dict) and kind in _TEXT else None
        if not isinstance(text, str):
            detail = f"{where} has a part of type {kind!r}" if isinstance(kind, str) else where
            raise RowError("a message holds something else than text", detail)
        texts.append(text)
    return "".join(texts)


def _joined(content: Any, index: int, key: str) -> str:
    return text_of(content, _where(index, key))


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The "tools" of a row: a list of JSON schemas, or that as JSON text.

    Raises:
        RowError: it is something else.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError('"tools" must be a list of JSON schemas', "it is text that is no JSON") from None
    if value is None:
        return None
    if not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise RowError('"tools" must be a list of JSON schemas', f"it is {kind_of(value)}")
    return value or None


def system_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The message that "system" or "system_prompt" beside the others is, or none.

    Raises:
        RowError: it is no text.
    """
    for key in ("system", "system_prompt"):
        if (value := row.get(key)) is not None:
            content = text_of(value, f'"{key}"') if isinstance(value, list) else string(value, key)
            return [{"role": "system", "content": content}] if content else []
    return []
