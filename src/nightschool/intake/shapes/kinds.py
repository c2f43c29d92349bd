"""The three things a row can become, and the names of the shapes it can come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MESSAGES, SHAREGPT, PAIR = "messages", "sharegpt", "prompt+completion"
ALPACA, QUESTION, TEXT = "alpaca", "question+answer", "text"
"""The names of the shapes, as the ledger, `meta.json` and what users read have them."""


class RowError(ValueError):
    """A row cannot be used. `reason` is the same text for the same mistake; `detail` is about this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages for the chat template. The first `given` of them are context only: nothing in them is learned.

    `repairs` names what was put right in the row, each kind once.
    """

    messages: list[dict[str, Any]]
    given: int = 0
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    shape: str = MESSAGES
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and what is to be learned after it, as plain strings, without a chat template."""

    prompt: str
    completion: str

    shape = PAIR
    repairs = ()


@dataclass(frozen=True, slots=True)
class Text:
    """One document, all of which is learned."""

    text: str

    shape = TEXT
    repairs = ()


Shape = Chat | Pair | Text


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


def string(value: Any, key: str) -> str:
    """`value`, which must be a string.

    Raises:
        RowError: it is something else.
    """
    if not isinstance(value, str):
        raise RowError(f'"{key}" must be a string', f"it is {kind_of(value)}")
    return value


def words(value: Any, key: str) -> str:
    """A string that may be left out: null and an absent key count as empty.

    Raises:
        RowError: it is something else.
    """
    return "" if value is None else string(value, key)
