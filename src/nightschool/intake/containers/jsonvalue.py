"""One JSON object, read strictly: what the standard library lets pass (NaN, a key twice, half a surrogate pair) is not.

Parsing is msgspec's. It does not see a key that stands twice in one object, so the keys are counted: in the text (a
string and a colon behind it) and in what was read. That costs a third of a second parse that watches the keys.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from nightschool.intake.rows import BadRow, preview

if TYPE_CHECKING:
    from collections.abc import Callable

DEEPEST = 200
"""Levels of nesting, at most. What is deeper is no row, and later steps would run out of stack on it."""


def parse(number: int, data: bytes) -> Any:
    """The object in `data`, or a BadRow that says why there is none. White space around it is allowed."""
    try:
        value = _decoder()(data)
    except RecursionError:
        return BadRow(number, "nested too deeply", preview=preview(data))
    except UnicodeDecodeError as error:
        return BadRow(number, "not valid UTF-8", encoding_advice(error), preview(data))
    except ValueError as error:
        return BadRow(number, *_in_words(data, str(error)), preview(data))
    if type(value) is not dict:
        return BadRow(number, "not a JSON object", f"it is {_kind(value)}", preview(data))
    keys = _keys_in(value)
    if keys < 0:
        return BadRow(number, "nested too deeply", f"more than {DEEPEST} levels", preview(data))
    # The first count is quick and may be too high, for what looks like a key inside a string.
    if keys != len(_COLON.findall(data)) and keys != _keys_of(data):
        return BadRow(number, "a key appears twice in one object", _repeated(data), preview(data))
    return value


@cache
def _decoder() -> Callable[[bytes], Any]:
    import msgspec

    return msgspec.json.Decoder().decode


_COLON = re.compile(rb'"[ \t\r\n]*+:')
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"([ \t\r\n]*+:)?+', re.DOTALL)


def _keys_of(data: bytes) -> int:
    """How many keys stand in a valid JSON text."""
    return sum(1 for colon in _STRING.findall(data) if colon)


def _keys_in(value: Any) -> int:
    """How many keys all objects in a value have together; -1 if it is nested too deeply."""
    count = 0
    level = [value]
    for _ in range(DEEPEST):
        below = []
        for one in level:
            if type(one) is dict:
                count += len(one)
                one = one.values()
            for item in one:
                if type(item) is dict or type(item) is list:
                    below.append(item)
        if not below:
            return count
        level = below
    return -1


class _DuplicateKey(ValueError):
    pass


def _repeated(data: bytes) -> str:
    """The first key that stands twice, as JSON."""
    try:
        json.loads(data, object_pairs_hook=_without_duplicates)
    except _DuplicateKey as error:
        return json.dumps(str(error))
    return ""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKey(key)
        seen.add(key)


_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_NOT_A_NUMBER = re.compile(rb"[:,\[]\s*-?(NaN|Infinity)")


def _in_words(data: bytes, message: str) -> tuple[str, str]:
    """The parser's complaint as (reason, detail)."""
    if b"\x00" in data:
        whole = not data.strip(b"\x00")
        return HOLDS_ZEROS, ZEROS_ONLY if whole else "zero bytes are no JSON"
    if "out of range" in message:
        return "a number is out of range", message.split(" - ")[0].lower()
    if _NOT_A_NUMBER.search(data):
        return "NaN and Infinity are no JSON", ""
    if _LONE_SURROGATE.search(data):
        return "a string holds half a surrogate pair", "it stands for no character"
    return "not valid JSON", "it ends too early" if "truncated" in message else message.removeprefix(
        "JSON is malformed: "
    )


HOLDS_ZEROS = "holds zero bytes"
ZEROS_ONLY = "the file may have been damaged by a crash or a full disk"


def encoding_advice(error: UnicodeDecodeError) -> str:
    """What to do about text that is no UTF-8."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x}; if the file is in Latin-1, run: iconv -f LATIN1 -t UTF-8"


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
