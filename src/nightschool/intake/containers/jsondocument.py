"""JSON that is not in lines: an array of rows, one object with one list of rows in it, or objects one after the other.

Where a row ends is told by its brackets alone, so that the file is never held; what is in it is then read as a line of
JSON Lines would be. A row with a mistake in it is a bad row. Where the brackets themselves are wrong nobody can tell
where the next row begins: then the whole file is refused, and nothing of it is half-read.

    [{...}, {...}]                       the rows
    {"version": 1, "data": [{...}]}      the rows are in the only list of objects; what is beside it is left out
    {"messages": [{"role": ...}]}        one row: it has a key that rows have, or its list is one of messages
    {...} {...}                          rows, as tools that indent JSON write them
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from nightschool.errors import DataError
from nightschool.intake.containers.jsonvalue import parse
from nightschool.intake.rows import LONGEST_ROW, PREVIEW, BadRow, Rows, too_long

if TYPE_CHECKING:
    from typing import Any

ROW_KEYS = frozenset({"text", "prompt", "completion", "instruction", "question", "chosen", "rejected"})
"""An object with one of these is a row, whatever lists are in it."""

_ROW_PAIRS = (frozenset({"input", "output"}), frozenset({"query", "answer"}), frozenset({"query", "response"}))
"""So is one with both of these; one alone may stand beside a list of rows, as in the answer of a search."""

_CHATS = frozenset({"messages", "conversations", "conversation"})
_MESSAGE_KEYS = frozenset({"role", "from"})
_PARTS_OF_MESSAGES = frozenset({"content", "value"})
"""What makes an object a message only where it lies in a list with a name of `_CHATS`."""

_CHUNK = 1 << 20
_DEEPEST = 1 << 20

_STRINGS = rb'(?:"(?:[^"\\]++|\\.)*+"'
_FLAT = re.compile(rb'[^"{}\[\],]*+' + _STRINGS + rb'[^"{}\[\],]*+)*+', re.DOTALL)
_DEEP = re.compile(rb'[^"{}\[\]]*+' + _STRINGS + rb'[^"{}\[\]]*+)*+', re.DOTALL)
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_CLOSER = {0x7B: 0x7D, 0x5B: 0x5D}
_QUOTE, _COMMA, _COLON, _LIST, _OBJECT, _END_LIST, _END_OBJECT = b'",:[{]}'


def read(stream: io.BufferedIOBase, longest: int = LONGEST_ROW, keys: Collection[str] = ()) -> Rows:
    """Rows of a stream of UTF-8, numbered from 1. A row over `longest` bytes is one bad row and is never held whole.

    Args:
        stream: what to read.
        longest: bytes in one row, at most.
        keys: further keys that only rows have.

    Raises:
        DataError: the brackets do not match, or the file is cut off.
    """
    scan = _Scanner(stream, longest)
    begin = scan.next_byte()
    if begin == _LIST:
        scan.position += 1
        yield from _rows(scan)
    elif begin == _OBJECT:
        place = _list_in(scan.window(), frozenset(keys) | ROW_KEYS)
        if place is None:
            yield from _one_after_the_other(scan)
            return
        name, offset = place
        scan.position += offset
        yield from _rows(scan)
        _rest_of_object(scan, name)
    elif begin is not None:
        yield 1, parse(1, scan.text_left())
        return
    if scan.next_byte() is not None:
        raise DataError("something stands behind the end of its JSON; a file is one array, or one object per line")


def is_wrapper(text: bytes) -> bool:
    """Whether the object that is `text` holds the one list of rows, and is no row itself."""
    try:
        return _list_in(text, ROW_KEYS) is not None
    except DataError:
        return False


def _rows(scan: _Scanner) -> Rows:
    """The elements of the array whose opening bracket has just been read, and its end."""
    number = 0
    if scan.next_byte() == _END_LIST:
        scan.position += 1
        return
    while True:
        number += 1
        yield number, _row(number, scan.element(f"row {number}"), scan.longest)
        closed = scan.next_byte() == _END_LIST
        scan.position += 1  # the comma or the bracket: an element ends nowhere else
        if closed:
            return


def _one_after_the_other(scan: _Scanner) -> Rows:
    number = 0
    while (byte := scan.next_byte()) is not None:
        number += 1
        if byte != _OBJECT:
            raise DataError(
                f"behind row {number - 1} of its JSON stands something that is no object, and where the next row "
                "begins cannot be told; write an array, or one object per line"
            )
        yield number, _row(number, scan.element(f"row {number}", closes=True), scan.longest)


def _row(number: int, element: bytes | tuple[int, bytes], longest: int) -> Any:
    if isinstance(element, tuple):
        return too_long(number, element[0], longest, element[1])
    stripped = element.strip(b" \t\r\n")
    if not stripped:
        return BadRow(number, "not valid JSON", "nothing stands between its commas")
    return parse(number, stripped)


def _list_in(window: bytes, row_keys: frozenset[str]) -> tuple[str, int] | None:
    """Where the rows are in the object that `window` begins with: (key, offset behind the bracket), or it is a row.

    Raises:
        DataError: there are several lists of objects.
    """
    lists: list[tuple[str, int]] = []
    names: set[str] = set()
    for name, scan in _members(window):
        names.add(name)
        if name in row_keys or any(pair <= names for pair in _ROW_PAIRS):
            return None
        value = scan.position
        if scan.next_byte() == _LIST:
            scan.position = offset = scan.position + 1
            if scan.next_byte() == _OBJECT:
                if _is_message(window[offset:], name):
                    return None  # also behind other lists: "tools" may stand before "messages"
                lists.append((name, offset))
                if len(lists) > 1:
                    raise _several(lists[0][0], name)
        scan.position = value
    return lists[0] if lists else None


def _is_message(text: bytes, name: str) -> bool:
    """Whether the object that `text` begins with, the first of the list `name`, is a message, perhaps a broken one."""
    try:
        first = _Scanner(io.BytesIO(), len(text), text).element("", closes=True)
        value = json.loads(first) if isinstance(first, bytes) else {}
    except (DataError, ValueError, RecursionError):
        return False
    return bool((_MESSAGE_KEYS | _PARTS_OF_MESSAGES if name in _CHATS else _MESSAGE_KEYS) & value.keys())


def _members(window: bytes) -> Iterator[tuple[str, _Scanner]]:
    """The members of the object that `window` begins with, as far as they can be told.

    With each comes the scanner in front of its value; there it must be when the next one is asked for.
    """
    scan = _Scanner(io.BytesIO(), len(window), window)
    scan.position += 1
    try:
        while scan.next_byte() == _QUOTE:
            name = scan.key()
            yield name, scan
            scan.element("", _END_OBJECT)
            if scan.next_byte() != _COMMA:
                return
            scan.position += 1
    except DataError:
        return


def _rest_of_object(scan: _Scanner, name: str) -> None:
    """Read what stands behind the list of rows, to its end.

    Raises:
        DataError: it is cut off, is no JSON, or holds a second list of objects.
    """
    where = f"what stands behind the list {json.dumps(name)}"
    while (byte := scan.next_byte()) == _COMMA:
        scan.position += 1
        if scan.next_byte() != _QUOTE:
            break
        key = scan.key()
        if scan.next_byte() == _LIST:
            scan.position += 1
            if scan.next_byte() == _OBJECT:
                raise _several(name, key)
            while scan.next_byte() != _END_LIST:
                scan.element(where)
                scan.position += scan.next_byte() == _COMMA
            scan.position += 1
        else:
            scan.element(where, _END_OBJECT)
    if byte is None:
        raise scan.too_early(where)
    if byte != _END_OBJECT:
        raise DataError(f"{where} is no valid JSON")
    scan.position += 1


def _several(first: str, second: str) -> DataError:
    return DataError(
        f"its JSON object holds several lists of objects ({json.dumps(first)} and {json.dumps(second)}), and which of "
        f"them are the rows cannot be told; write each to a file of its own (jq -c '.{first}[]')"
    )


class _Scanner:
    """Finds where values end, in bounded memory. `position` is that of the next byte in `buffer`."""

    def __init__(self, stream: io.BufferedIOBase, longest: int, buffer: bytes = b"") -> None:
        self.longest = longest
        self.position = 0
        self._dropped = 0  # bytes that came before those in the buffer
        self._stream = stream
        self._buffer = buffer

    def too_early(self, where: str) -> DataError:
        """The error for a file that is cut off."""
        return DataError(f"its JSON ends too early, in {where}: it was not copied or written to its end")

    def window(self) -> bytes:
        """What lies ahead, up to a few bytes more than the longest row. It is not consumed."""
        while len(self._buffer) - self.position <= self.longest and self._more():
            pass
        return self._buffer[self.position :]

    def text_left(self) -> bytes:
        """The next bytes, as many as a row may have."""
        return self.window()[: self.longest]

    def next_byte(self) -> int | None:
        """The next byte that is no white space, not consumed; None at the end."""
        while True:
            found = _SPACE.match(self._buffer, self.position)
            assert found is not None
            self.position = found.end()
            if self.position < len(self._buffer):
                return self._buffer[self.position]
            if not self._more():
                return None

    def key(self) -> str:
        """Read a key and its colon; the next byte is its quotation mark."""
        start = self.position
        while True:
            found = _IN_STRING.match(self._buffer, start + 1)
            assert found is not None
            if found.end() < len(self._buffer) and self._buffer[found.end()] == _QUOTE:
                break
            if len(self._buffer) - start > self.longest or not self._more(start):
                raise self.too_early("a key")
            start = 0
        self.position = found.end() + 1
        try:
            name = json.loads(self._buffer[start : self.position])
        except ValueError:
            name = self._buffer[start + 1 : self.position - 1].decode("utf-8", "backslashreplace")
        if self.next_byte() != _COLON:
            raise DataError(f"its JSON has no colon behind the key {json.dumps(name[:PREVIEW])}")
        self.position += 1
        return name

    def element(self, where: str, closer: int = _END_LIST, closes: bool = False) -> bytes | tuple[int, bytes]:
        """Read up to the comma or bracket that ends a value, which is left to be read.

        Args:
            where: what is read, for errors.
            closer: the bracket that may end it.
            closes: the value ends with its own last bracket.

        Returns:
            The bytes; for more than `longest` their number and the first of them.

        Raises:
            DataError: the file ends before it, or brackets do not match.
        """
        start, skipped, first = self.position, 0, b""
        open_ = bytearray()
        in_string = False
        while True:
            pattern = _IN_STRING if in_string else _DEEP if open_ else _FLAT
            found = pattern.match(self._buffer, self.position)
            assert found is not None
            self.position = found.end()
            byte = self._buffer[self.position] if self.position < len(self._buffer) else None
            if byte is None or (in_string and byte != _QUOTE):
                # At the end of what was read, perhaps between a backslash and what it stands before.
                if skipped + self.position - start > self.longest:
                    first = first or self._buffer[start : start + 4 * PREVIEW]
                    skipped += self.position - start
                    start = self.position
                if not self._more(start):
                    raise self.too_early(where)
                start = 0
                continue
            if byte == _QUOTE:
                in_string = not in_string
            elif byte in _CLOSER:
                if len(open_) >= _DEEPEST:
                    raise DataError(f"its JSON is nested more than {_DEEPEST} levels deep in {where}")
                open_.append(_CLOSER[byte])
            elif not open_:
                if byte not in (_COMMA, closer):
                    raise self._mismatch(where)
                break
            elif open_.pop() != byte:
                raise self._mismatch(where)
            elif closes and not open_:
                self.position += 1
                break
            self.position += 1
        size = skipped + self.position - start
        return (
            (size, first or self._buffer[start : start + 4 * PREVIEW])
            if size > self.longest
            else self._buffer[start : self.position]
        )

    def _mismatch(self, where: str) -> DataError:
        return DataError(
            f"the brackets of its JSON do not match in {where} (byte {self._dropped + self.position}), so that where "
            "the next row begins cannot be told; mend that row, or write one object per line"
        )

    def _more(self, start: int | None = None) -> bool:
        """Read on. The buffer is kept from `start` (or `position`) on, which becomes 0. False at the end."""
        keep = self.position if start is None else start
        data = self._stream.read(_CHUNK)
        if data:
            self._buffer = self._buffer[keep:] + data
            self._dropped += keep
            self.position -= keep
        return bool(data)
