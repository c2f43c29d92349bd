"""Lists in the cells of a table: CSV has only text, and Parquet files often hold their chats as text, too.

In a column that takes a list (`messages`, `conversations`, `tools`, `history`, ...) text is read as JSON, and an empty
cell is one that is not there. A `prompt` or a `completion` may be text as well: there only a JSON list of messages is
read, and everything else stays the text it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nightschool.intake.containers.jsonvalue import parse
from nightschool.intake.rows import BadRow

LISTS = frozenset({"messages", "conversations", "conversation", "tools", "history", "chat_template_kwargs"})
PERHAPS = frozenset({"prompt", "completion", "chosen", "rejected"})


class Cells:
    """Reads the cells of a file's rows.

    Args:
        names: the file's columns.
        columns: names of columns where they differ, ours to theirs.
    """

    def __init__(self, names: list[str], columns: Mapping[str, str]) -> None:
        ours = {name: name for name in names} | {theirs: name for name, theirs in columns.items()}
        self._lists = [name for name in names if ours[name] in LISTS]
        self._perhaps = [name for name in names if ours[name] in PERHAPS]

    @property
    def some(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._lists or self._perhaps)

    def read(self, number: int, row: dict[str, Any]) -> dict[str, Any] | BadRow:
        """The row with its lists as lists; it is changed."""
        for name in self._lists:
            text = row.get(name)
            if not isinstance(text, str):
                continue
            text = text.strip()
            if not text:
                del row[name]
                continue
            value = _json(number, text)
            if isinstance(value, BadRow):
                advice = ""
                if "'" in text[:3]:
                    advice = "; it looks like a Python list: write it with json.dumps"
                detail = f'column "{name}": {value}{advice}'
                return BadRow(number, "a cell that takes a list holds no valid JSON", detail, value.preview)
            row[name] = value
        for name in self._perhaps:
            text = row.get(name)
            if not isinstance(text, str) or not text.lstrip().startswith("["):
                continue
            value = _json(number, text)
            if isinstance(value, list) and value and all(_is_message(item) for item in value):
                row[name] = value
        return row


_FRAME = b'{"":'
_PLACE = re.compile(r"\(byte (\d+)\)")


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and ("role" in item or "from" in item)


def _json(number: int, text: str) -> Any:
    data = text.encode("utf-8", "surrogatepass")
    value = parse(number, _FRAME + data + b"}")
    if isinstance(value, BadRow):
        # Places are told from where the cell begins.
        detail = _PLACE.sub(lambda found: f"(byte {int(found[1]) - len(_FRAME)})", value.detail)
        return BadRow(number, value.reason, detail, text[:2000])
    if len(value) != 1:  # the text closed the brace that was put around it
        return BadRow(number, "not valid JSON", "trailing characters", text[:2000])
    return value[""]
