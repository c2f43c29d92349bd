"""What is put right in a chat, so that templates take it as it was meant. Every repair is counted by its name.

White space around what people wrote is no mistake and stays.
"""

from __future__ import annotations

from typing import Any

LEADING_DROPPED = "leading assistant turns dropped"
MERGED = "neighbouring turns of one role merged"
ROLES_TRANSLATED = "names of roles translated"
CALLS_READ = "tool calls read from text"
REASONING_LEFT_OUT = "reasoning left out by the chat template"
"""The names of the repairs, as counts, logs and `preview` have them."""

BETWEEN = "\n\n"
"""What is put between two turns that become one."""

_MERGEABLE = ("user", "assistant", "system")
_PLAIN = {"role", "content"}
MEANINGFUL = ("tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking", "name")
"""Keys that templates read: turns with one of them are never merged, for it would belong to half of the result."""


def repair(messages: list[dict[str, Any]], given: int) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Drop leading assistant turns, and merge neighbours of one role.

    Args:
        messages: checked messages. The list is not changed.
        given: how many of them, from the start, are context only. Turns on both sides of that line are not merged.

    Returns:
        the messages, how many of them are context, and the names of the repairs.
    """
    repairs: list[str] = []
    dropped = _leading(messages)
    if dropped:
        gone = set(dropped)
        messages = [message for index, message in enumerate(messages) if index not in gone]
        given -= sum(index < given for index in dropped)
        repairs.append(LEADING_DROPPED)
    before = None
    for message in messages:
        if message["role"] == before and before in _MERGEABLE:
            merged, kept = _merge(messages, given)
            if len(merged) < len(messages):
                return merged, kept, [*repairs, MERGED]
            break
        before = message["role"]
    return messages, given, repairs


def _leading(messages: list[dict[str, Any]]) -> list[int]:
    """Places of what the assistant and its tools said before the user first spoke. Empty if the user never does.

    A chat without a user, say a system prompt and a story, is meant that way.
    """
    found: list[int] = []
    for index, message in enumerate(messages):
        role = message["role"]
        if role in ("assistant", "tool"):
            found.append(index)
        elif role == "user":
            return found
    return []


def _merge(messages: list[dict[str, Any]], given: int) -> tuple[list[dict[str, Any]], int]:
    merged: list[dict[str, Any]] = []
    kept = 0
    for index, message in enumerate(messages):
        last = merged[-1] if merged else None
        if last is not None and index != given and _alike(last, message):
            parts = [part for part in (last["content"], message["content"]) if part]
            merged[-1] = {**last, "content": BETWEEN.join(parts)}
        else:
            merged.append(message)
        if index < given:
            kept = len(merged)
    return merged, kept


def _alike(first: dict[str, Any], second: dict[str, Any]) -> bool:
    if first["role"] != second["role"] or first["role"] not in _MERGEABLE:
        return False
    if first.keys() == _PLAIN and second.keys() == _PLAIN:
        return True
    return not any(key in first or key in second for key in MEANINGFUL)
