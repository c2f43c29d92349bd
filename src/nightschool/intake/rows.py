"""Containers: from the bytes of a data file to numbered rows, one at a time, in bounded memory.

A container is a function that takes an open binary file and yields (row number, object) or (row number, BadRow).
Numbers are what a person finds the row by: for JSON Lines the line, counted from 1. Blank lines are no rows, but are
counted.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nightschool.errors import DataError

LONGEST_LINE = 8 << 20
"""Bytes in one row, at most. Longer ones are bad rows; their bytes are skipped, never held."""

PREVIEW = 2000
"""Characters of a bad row that are kept beside the reason. All of it is in the archived file."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. `reason` is the same text for the same mistake; `detail` is about this row."""

    number: int
    reason: str
    detail: str = ""
    preview: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


Rows = Iterator[tuple[int, Any]]
Container = Callable[[BinaryIO], Rows]


def container_of(name: str) -> Container:
    """The container for a file name.

    Raises:
        DataError: the ending belongs to a kind of file that is not read.
    """
    ending = Path(name).suffix.lower()
    if ending not in CONTAINERS:
        known = ", ".join(sorted(e for e in CONTAINERS if e))
        raise DataError(
            f"files that end in {ending} are not read; convert it to JSON Lines ({known}), one row per line"
        )
    return CONTAINERS[ending]


def read_jsonl(file: BinaryIO, longest: int = LONGEST_LINE) -> Rows:
    """JSON Lines: one object per line, ending in LF or CR LF; UTF-8, or UTF-16 and UTF-32 where they can be told."""
    stream = _as_utf8(file)
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest and not line.endswith(b"\n"):
            size = len(line)
            preview = _preview(line)
            del line
            while rest := stream.readline(_CHUNK):
                size += len(rest.removesuffix(b"\n"))
                if rest.endswith(b"\n"):
                    break
            yield number, BadRow(number, f"longer than {longest} bytes", f"it has {size} bytes", preview)
            continue
        stripped = line.strip(b" \t\r\n")
        if stripped:
            yield number, _parse(number, stripped)


CONTAINERS: dict[str, Container] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".jsonlines": read_jsonl,
    ".json": read_jsonl,
    "": read_jsonl,
}


def _parse(number: int, line: bytes) -> Any:
    """The object on a line, or what is wrong with it."""
    import msgspec

    try:
        value = msgspec.json.decode(line)
        json.loads(line.decode(), object_pairs_hook=_without_duplicates)
    except RecursionError:
        return BadRow(number, "nested too deeply", preview=_preview(line))
    except _DuplicateKey as error:
        return BadRow(number, "a key appears twice in one object", json.dumps(str(error)), _preview(line))
    except UnicodeDecodeError as error:
        return BadRow(number, "not valid UTF-8", _encoding_advice(error), _preview(line))
    except (msgspec.MsgspecError, ValueError) as error:
        return BadRow(number, *_in_words(line, str(error)), _preview(line))
    if not isinstance(value, dict):
        hint = ""
        if number == 1 and isinstance(value, list):
            hint = "the file looks like one JSON array; write one object per line, for instance with jq -c '.[]'"
        return BadRow(number, "not a JSON object", hint or f"it is {_kind(value)}", _preview(line))
    return value


class _DuplicateKey(ValueError):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    # The values were read already; this pass only looks at the keys, and keeps nothing.
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKey(key)
        seen.add(key)


_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_NOT_A_NUMBER = re.compile(rb"[:,\[]\s*-?(NaN|Infinity)")


def _in_words(line: bytes, message: str) -> tuple[str, str]:
    """The parser's complaint as (reason, detail)."""
    if b"\x00" in line:
        return "holds zero bytes", "the file may have been damaged by a crash or a full disk" if not line.strip(
            b"\x00"
        ) else "zero bytes are no JSON"
    if "out of range" in message:
        return "a number is out of range", message.split(" - ")[0].lower()
    if _NOT_A_NUMBER.search(line):
        return "NaN and Infinity are no JSON", ""
    if _LONE_SURROGATE.search(line):
        return "a string holds half a surrogate pair", "it stands for no character"
    if line.startswith(b"["):
        return "not valid JSON", "the file looks like one JSON array; write one object per line (jq -c '.[]')"
    detail = "the line ends too early" if "truncated" in message else message.removeprefix("JSON is malformed: ")
    return "not valid JSON", detail


def _encoding_advice(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"byte 0x{byte:02x}; if the file is in Latin-1, run: iconv -f LATIN1 -t UTF-8"


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _preview(line: bytes) -> str:
    return line[: 4 * PREVIEW].decode("utf-8", "backslashreplace")[:PREVIEW]


# --- encodings


_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def encoding_of(head: bytes) -> tuple[str, int]:
    """(encoding, bytes to skip) of a file that begins with `head`, at least four bytes of it where there are so many.

    The byte order mark decides; without one, where the zero bytes of the first character lie: JSON begins in ASCII.
    """
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8", len(codecs.BOM_UTF8)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    zeros = "".join("0" if byte == 0 else "x" for byte in head[:4])
    guesses = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
    return guesses.get(zeros, "utf-8"), 0


def _as_utf8(file: BinaryIO) -> io.BufferedReader[Any]:
    buffered: io.BufferedReader[Any] = file if isinstance(file, io.BufferedReader) else io.BufferedReader(_Raw(file))
    encoding, skip = encoding_of(buffered.peek(4)[:4])
    buffered.read(skip)
    if encoding == "utf-8":
        return buffered
    return io.BufferedReader(_Transcoded(buffered, encoding), _CHUNK)


class _Raw(io.RawIOBase):
    """Any object with `read` as a raw stream."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Transcoded(io.RawIOBase):
    """A UTF-16 or UTF-32 stream as UTF-8. What stands for no character becomes invalid UTF-8: only its row is bad."""

    def __init__(self, file: io.BufferedReader[Any], encoding: str) -> None:
        codecs.register_error("nightschool-broken", _broken)
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("nightschool-broken")
        self._pending = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and not self._ended:
            raw = self._file.read(_CHUNK)
            self._ended = not raw
            text = self._decoder.decode(raw, final=self._ended)
            self._pending = memoryview(text.encode("utf-8", "surrogatepass"))
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def _broken(error: UnicodeError) -> tuple[str, int]:
    # A lone surrogate can be held in a string, and comes out as three bytes that are no UTF-8.
    assert isinstance(error, UnicodeDecodeError)
    return "\ud800", error.end
