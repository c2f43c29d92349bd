"""CSV and TSV: a header line with the names of the columns, then one row per record.

The delimiter is the one of comma, semicolon and tab that cuts the first records into equal numbers of cells. Cells may
be quoted with "; within quotation marks a line break is text and "" is one mark. Every cell is text as it stands, with
its spaces; those that take a list are read as JSON (see `cells`). A first column without a name, which pandas and R
write for their row numbers, is left out. Rows are numbered by the line on which they begin; empty lines are no rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from nightschool.errors import DataError
from nightschool.intake.containers.cells import Cells
from nightschool.intake.containers.jsonvalue import HOLDS_ZEROS, ZEROS_ONLY, encoding_advice
from nightschool.intake.rows import LONGEST_ROW, BadRow, Rows, preview, too_long

DELIMITERS = (",", ";", "\t")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
_RECORDS = 20
"""Records looked at to find the delimiter."""


def delimiter_of(head: str, first: str = ",") -> tuple[str, bool]:
    """(delimiter, whether the first line only names it) of a table that begins with `head`; `first` wins a tie."""
    line = head.split("\n", 1)[0].rstrip("\r")
    if line[:4].lower() == "sep=" and len(line) == 5:
        return line[4], True  # Excel writes and reads such a line
    best, delimiter = (0, 0), first
    for candidate in sorted(DELIMITERS, key=lambda one: one != first):
        counts = _cells(head, candidate)
        if counts and counts[0] > 1:
            equal = sum(count == counts[0] for count in counts)
            # Two delimiters that fit equally well: the one that makes more cells.
            score = (round(100 * equal / len(counts)), counts[0])
            if score > best:
                best, delimiter = score, candidate
    return delimiter, False


def _cells(head: str, delimiter: str) -> list[int]:
    """Cells in each of the first records; the last one, which may be cut off, only if there is no other."""
    counts = []
    try:
        for record in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True):
            if record:
                counts.append(len(record))
            if len(counts) > _RECORDS:
                break
    except csv.Error:
        pass
    return counts[:-1] or counts


def read(
    stream: io.BufferedReader,
    delimiter: str,
    named_first: bool = False,
    columns: Mapping[str, str] | None = None,
    longest: int = LONGEST_ROW,
) -> Rows:
    """Rows of a stream of UTF-8, as objects from column names to text.

    Args:
        stream: what to read.
        delimiter: one character.
        named_first: the first line only names the delimiter.
        columns: names of columns where they differ, ours to theirs.
        longest: bytes in one row, at most. Longer ones are bad rows and are never held whole.

    Raises:
        DataError: there is no header, its names are no names, or a quotation mark is never closed or stands where none
            may stand, so that nobody can tell where the row ends.
    """
    records = _Records(stream, delimiter, longest)
    if named_first:
        stream.readline()
        records.line += 1
    header = next((one for one in records if isinstance(one[1], BadRow) or any(map(str.strip, one[1]))), None)
    if header is None:
        return
    names = _names(header, delimiter)
    skip = not names[0]
    width, used = len(names), names[skip:]
    cells = Cells(used, columns or {})
    any_row = False
    for number, record in records:
        blank = isinstance(record, list) and len(record) == 1 < width and not record[0].strip()
        if blank:  # a line of white space
            continue
        any_row = True
        if isinstance(record, BadRow):
            yield number, record
        elif len(record) != width:
            detail = f"{len(record)} instead of {width}, cut at {_NAMES.get(delimiter, delimiter)}"
            many = "too many cells" if len(record) > width else "too few cells"
            yield number, BadRow(number, many, detail, preview(delimiter.join(record)[:2000].encode()))
        else:
            row: Any = dict(zip(used, record[skip:], strict=True))
            yield number, cells.read(number, row) if cells.some else row
    if not any_row:
        raise DataError("it holds a header line and no rows")


def _names(header: tuple[int, Any], delimiter: str) -> list[str]:
    """The names of the columns.

    Raises:
        DataError: they cannot be used.
    """
    line, record = header
    if isinstance(record, BadRow):
        raise DataError(f"its header (line {line}) cannot be read: {record}")
    names = [name.strip() for name in record]
    for place, name in enumerate(names, 1):
        if not name and (place > 1 or len(names) == 1):
            cut = _NAMES.get(delimiter, delimiter)
            raise DataError(
                f"column {place} has no name in its header (line {line}, cut at {cut}); the first line must name every "
                "column"
            )
        if name in names[: place - 1]:
            raise DataError(f'two columns have the name "{name[:200]}" in its header (line {line}); rename one')
    return names


class _Broken(Exception):
    """A record that is not worth reading to its end, with what is wrong with it."""

    def __init__(self, bad: BadRow) -> None:
        super().__init__(bad.reason)
        self.bad = bad


class _Records:
    """Records of a table, each with the line on which it begins; a BadRow where one cannot be read.

    The standard library's reader takes what lines it is given. What it must not hold (a cell without end) or cannot
    take (bytes that are no text) is kept from it here: then the rest of the record is passed over by its quotation
    marks, and a new reader begins behind it.
    """

    def __init__(self, stream: io.BufferedReader, delimiter: str, longest: int) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), 2 * LONGEST_ROW))
        self.line = 0
        self._stream = stream
        self._delimiter = delimiter
        self._longest = longest
        self._start = 0  # the line on which the record at hand begins
        self._quotes = 0  # quotation marks in it so far: an odd number is an open one
        self._size = 0
        self._head = b""  # its first line
        self._reader = self._new()

    def _new(self) -> Any:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        return self

    def __next__(self) -> tuple[int, list[str] | BadRow]:
        while True:
            self._start, self._quotes, self._size = 0, 0, 0
            try:
                record = next(self._reader)
            except _Broken as broken:
                self._pass_over()
                self._reader = self._new()
                return self._start, broken.bad
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise self._never_closed() from None
                if self._quotes % 2:
                    # The rest of it may be on the lines that follow, and would be read as rows.
                    raise DataError(
                        f"in the row that begins on line {self._start} a quotation mark stands within a cell, so that "
                        'where the next row begins cannot be told; mend that row, or, if \\" stands for a mark in all '
                        'cells, write it as ""'
                    ) from None
                self._reader = self._new()
                words = str(error)
                if "new-line character" in words:
                    words = "a carriage return stands alone in it; if all lines end so, run: tr '\\r' '\\n'"
                return self._start, BadRow(self._start, "not valid CSV", words, preview(self._head))
            if record:
                return self._start, record

    def _lines(self) -> Iterator[str]:
        """The lines of the file, as the reader asks for them."""
        while line := self._stream.readline(self._longest + 1):
            self.line += 1
            if not self._start:
                self._start, self._head = self.line, line
            self._quotes += line.count(b'"')
            self._size += len(line)
            if self._size > self._longest + line.endswith(b"\n"):
                while not line.endswith(b"\n") and (rest := self._stream.readline(1 << 20)):
                    self._quotes += rest.count(b'"')
                    self._size += len(rest)
                    line = line[:8000] + rest[-1:]
                raise _Broken(too_long(self._start, self._size, self._longest, line))
            if b"\0" in line:
                detail = "zero bytes are no text" if line.strip(b"\0\r\n") else ZEROS_ONLY
                raise _Broken(BadRow(self._start, HOLDS_ZEROS, detail, preview(line)))
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise _Broken(BadRow(self._start, "not valid UTF-8", encoding_advice(error), preview(line))) from None
            yield text

    def _pass_over(self) -> None:
        """Read to the end of the line on which the record's open quotation mark is closed."""
        open_ = self._quotes % 2
        while open_:
            piece = self._stream.readline(1 << 20)
            if not piece:
                raise self._never_closed()
            self.line += piece.endswith(b"\n")
            open_ ^= piece.count(b'"') % 2
            if not open_:
                while not piece.endswith(b"\n") and (piece := self._stream.readline(1 << 20)):
                    open_ ^= piece.count(b'"') % 2
                self.line += not piece.endswith(b"\n")

    def _never_closed(self) -> DataError:
        return DataError(
            f"a quotation mark in the row that begins on line {self._start} is never closed, so that where the next "
            "row begins cannot be told; mend that row, or, if the file is cut off, copy it again"
        )
