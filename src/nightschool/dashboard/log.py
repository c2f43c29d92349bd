"""The log, read from its end: the newest lines that hold a text, and older ones on request.

Positions count through all log files, the oldest first: so they mean the same after the log was rotated, until the
oldest file goes.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.files import folded
from nightschool.logs import rotated

PIECE = 64 << 10
MOST_BYTES = 4 << 20
"""Read for one request."""
LONGEST = 16 << 10
"""Bytes of a line that are looked at and shown: as many as the log's own lines have at most."""
MOST_FILES = 100


@dataclass
class _Part:
    """One file of the log: where it begins among all, and how long it was when it was opened."""

    file: BinaryIO
    begin: int
    size: int


def read(path: Path, search: str, before: int | None, limit: int) -> shapes.Log:
    """The newest `limit` lines of a log that contain `search`, of those that begin before byte `before`.

    Reads backwards in pieces, and at most MOST_BYTES. A log that is not there has no lines.
    """
    with ExitStack() as stack:
        parts = _opened(path, stack)
        size = parts[-1].begin + parts[-1].size if parts else 0
        end = size if before is None else min(before, size)
        wanted, found, at = folded(search), list[shapes.LogLine](), end
        for at, data in _lines(parts, end, max(0, end - MOST_BYTES)):
            text = data.decode("utf-8", "backslashreplace")
            if not wanted or wanted in folded(text):
                found.append(shapes.LogLine(at=at, text=text))
                if len(found) == limit:
                    break
    return shapes.Log(lines=found[::-1], before=at or None)


def _opened(path: Path, stack: ExitStack) -> list[_Part]:
    """The files of the log, oldest first, each once: it may be rotated while they are opened."""
    files: list[tuple[BinaryIO, os.stat_result]] = []
    for name in (path, *(rotated(path, number) for number in range(1, MOST_FILES))):
        try:
            # Not blocked by what only looks like a file.
            file = stack.enter_context(os.fdopen(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"))
        except OSError:
            if name == path:
                continue  # just being rotated
            break
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and not any(os.path.samestat(found, other) for _, other in files):
            files.append((file, found))
    parts: list[_Part] = []
    for file, found in reversed(files):
        begin = parts[-1].begin + parts[-1].size if parts else 0
        parts.append(_Part(file, begin, found.st_size))
    return parts


def _lines(parts: Sequence[_Part], end: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """(where it begins, its first bytes) of each line before byte `end`, from the last one back.

    None that begins before `stop`, unless there is no other: what lies between is then taken for a line.
    """
    if not end:
        return
    # The newline at the very end begins no line.
    position = end - 1 if _bytes(parts, end - 1, end) == b"\n" else end
    rest, given = b"", False
    while position > stop:
        begin = max(stop, position - PIECE)
        head, *lines = _bytes(parts, begin, position).split(b"\n")
        at = position
        for line in reversed(lines):
            at -= len(line)
            yield at, (line + rest)[:LONGEST]
            rest, given = b"", True
            at -= 1
        rest = (head + rest)[:LONGEST]
        position = begin
    if not stop or not given:
        yield stop, rest


def _bytes(parts: Sequence[_Part], begin: int, end: int) -> bytes:
    found = []
    for part in parts:
        first, last = max(begin, part.begin), min(end, part.begin + part.size)
        if first < last:
            part.file.seek(first - part.begin)
            # Somebody may have emptied the file meanwhile.
            found.append(part.file.read(last - first).ljust(last - first, b"\n"))
    return b"".join(found)


async def log(call: Call) -> shapes.Log:
    """GET /api/log."""
    query: shapes.LogQuery = call.query
    path = call.services.layout.log_file
    return await asyncio.to_thread(read, path, query.search, query.before, query.limit)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/api/log", "The newest lines of the log", log, shapes.Log, query=shapes.LogQuery, tag="health"),
)
