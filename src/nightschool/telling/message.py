"""One message to the owner, and the form in which the webhook and the ledger have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nightschool.words import escape

Kind = Literal["learned", "rejected", "morning", "trouble", "well", "test"]

LONGEST_LINE = 300
MOST_LINES = 20
"""Files and troubles that a message names; the others are counted."""


@dataclass(frozen=True)
class Message:
    """What is sent.

    Attributes:
        id: the same for every target and every try.
        kind: learned, rejected, morning, trouble; well: no trouble is left; test.
        title: one line.
        text: one or several lines.
        at: when it was written (UTC ISO 8601); it may arrive later.
        workspace, machine: where from: the folder, and the name of the computer.
        fields: the same for programs; docs/notifications.md has them by kind.
    """

    id: str
    kind: Kind
    title: str
    text: str
    at: str
    workspace: str
    machine: str
    fields: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Draft:
    """A message as the policy writes it: without who sends it, and when."""

    kind: Kind
    title: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


def line(text: str) -> str:
    """`text` as one line of bounded length on which a terminal cannot act: names of files are in it."""
    plain = escape(text)
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]}…"


def listed(lines: Sequence[str], count: int) -> str:
    """Lines under each other; `count` is how many there were."""
    more = [f"and {count - len(lines):,} more"] if count > len(lines) else []
    return "\n".join([*lines, *more])


def files(count: int) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"
