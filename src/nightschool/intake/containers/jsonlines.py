"""JSON Lines: one object per line, ending in LF or CR LF. Blank lines are no rows, but are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightschool.intake.containers.jsonvalue import parse
from nightschool.intake.rows import LONGEST_ROW, PREVIEW, Rows, too_long

if TYPE_CHECKING:
    import io

_CHUNK = 1 << 20


def read(stream: io.BufferedReader, longest: int = LONGEST_ROW) -> Rows:
    """Rows of a stream of UTF-8. A line over `longest` bytes is one bad row and is never held whole."""
    number = 0
    readline = stream.readline
    while line := readline(longest + 1):
        number += 1
        if len(line) > longest and not line.endswith(b"\n"):
            head, size = line[: 4 * PREVIEW], len(line)
            del line
            while rest := readline(_CHUNK):
                size += len(rest.removesuffix(b"\n"))
                if rest.endswith(b"\n"):
                    break
            yield number, too_long(number, size, longest, head)
            continue
        stripped = line.strip(b" \t\r\n")
        if stripped:
            yield number, parse(number, stripped)
