"""Columns that have other names than ours, as the user says in `[inbox.columns]`, `--map` or NAME.toml.

    {"messages": "dialog", "role": "speaker", "content": "utterance"}

maps a column of the row and, `role` and `content` being keys of a message, two keys inside its messages.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from nightschool.errors import DataError

COLUMNS = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "question",
    "answer",
    "text",
    "tools",
    "chat_template_kwargs",
)
IN_MESSAGES = ("role", "content", "tool_calls", "tool_call_id", "reasoning_content", "name")
"""Names of ours that a mapping may give a column to: of rows, and of the messages in them."""


def check_columns(columns: Mapping[str, Any]) -> None:
    """Check a mapping from our names to those in the file.

    Raises:
        DataError: a name is not one of ours, or theirs is no text, or the same for two of ours.
    """
    known = (*COLUMNS, *IN_MESSAGES)
    for ours, theirs in columns.items():
        if ours not in known:
            near = difflib.get_close_matches(str(ours), known, 1)
            turned = theirs in known
            advice = (
                f'did you mean {theirs} = "{ours}"? Our name stands first.'
                if turned
                else f'did you mean "{near[0]}"?'
                if near
                else f"known are {', '.join(known)}."
            )
            raise DataError(
                f'The mapping of columns names "{ours}", which is no column that rows are read from; {advice}'
            )
        if not isinstance(theirs, str) or not theirs:
            raise DataError(f'The mapping of the column "{ours}" must name a column of the file.')
    for group in (COLUMNS, IN_MESSAGES):
        seen: dict[str, str] = {}
        for ours, theirs in columns.items():
            if ours in group and seen.setdefault(theirs, ours) != ours:
                raise DataError(f'The mapping gives the column "{theirs}" to both "{seen[theirs]}" and "{ours}".')


def map_columns(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names.

    A column that is mapped takes the place of one that had the name already. One that the row lacks is passed over:
    not every row has a "system", and where nothing is left to be recognised, that is said then.

    Args:
        row: as it was read. It is not changed.
        columns: from our names to those in the file.
    """
    if not columns:
        return row
    outer = {ours: theirs for ours, theirs in columns.items() if ours in COLUMNS and theirs in row}
    taken = set(outer.values())
    mapped = {key: value for key, value in row.items() if key not in taken}
    mapped.update((ours, row[theirs]) for ours, theirs in outer.items())
    inner = {ours: theirs for ours, theirs in columns.items() if ours in IN_MESSAGES}
    if inner:
        for key in ("messages", "conversations", "prompt", "completion"):
            if isinstance(value := mapped.get(key), list):
                mapped[key] = [_inside(message, inner) for message in value]
    return mapped


def _inside(message: Any, columns: dict[str, str]) -> Any:
    if not isinstance(message, dict):
        return message
    found = {ours: theirs for ours, theirs in columns.items() if theirs in message}
    taken = set(found.values())
    return {
        **{key: value for key, value in message.items() if key not in taken},
        **{ours: message[theirs] for ours, theirs in found.items()},
    }
