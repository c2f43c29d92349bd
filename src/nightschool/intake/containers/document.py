"""Plain text and Markdown: a file is one document, and one row {"text": ...}.

White space stays as it is, but for line ends: CR LF and CR become LF. Only a document of more than the longest row is
cut: at the last end of a paragraph that fits, else of a line, else of a word. A row is numbered by the line on which it
begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightschool.intake.containers.jsonvalue import HOLDS_ZEROS, ZEROS_ONLY, encoding_advice
from nightschool.intake.rows import LONGEST_ROW, BadRow, Rows, preview

if TYPE_CHECKING:
    import io


def read(stream: io.BufferedReader, longest: int = LONGEST_ROW) -> Rows:
    """Rows of a stream of UTF-8; no row has more than `longest` bytes, line ends counted as they are in the file."""
    number = 1
    waiting = b""
    while True:
        data = stream.read(longest + 1 - len(waiting))
        waiting += data
        if len(waiting) <= longest:
            break
        end = _end(waiting, longest)
        piece, waiting = waiting[:end], waiting[end:]
        if piece.strip():
            yield number, _row(number, piece)
        number += _lines(piece)
    if waiting.strip():
        yield number, _row(number, waiting)


def _end(data: bytes, longest: int) -> int:
    """Where to cut `data`, which has more than `longest` bytes."""
    half = longest // 2
    for mark in (b"\n\n", b"\n\r\n", b"\n", b"\r", b" "):
        found = data.rfind(mark, half, longest)
        if found >= 0:
            end = found + len(mark)
            # A line end of two bytes is not torn.
            return end - 1 if mark == b"\r" and data[end : end + 1] == b"\n" and end > 1 else end
    end = longest
    while end > 1 and data[end] & 0xC0 == 0x80 and longest - end < 3:  # not within a character
        end -= 1
    return end


def _lines(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def _row(number: int, data: bytes) -> dict[str, Any] | BadRow:
    if b"\0" in data:
        return BadRow(number, HOLDS_ZEROS, "zero bytes are no text" if data.strip(b"\0") else ZEROS_ONLY, preview(data))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return BadRow(number, "not valid UTF-8", encoding_advice(error), preview(data))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return {"text": text}
