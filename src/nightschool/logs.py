"""training_output.log: what a person reads. One line per message, appended with one write, by all processes.

Only the supervisor rotates; the other processes notice that the file was renamed and open the new one.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from nightschool.words import escape, in_bytes

if TYPE_CHECKING:
    from nightschool.workspace import Layout

__all__ = ["HasLog", "LogFile", "Tail", "escape", "in_bytes", "last_lines", "leave", "rotate", "rotated", "setup"]

LOGGER = "nightschool"
LONGEST_LINE = 4000
_STAMP = "%Y-%m-%d %H:%M:%S"


class _LogLimits(Protocol):
    @property
    def max_megabytes(self) -> float: ...
    @property
    def keep(self) -> int: ...


class HasLog(Protocol):
    """Settings with a [log] section, as far as this module needs them."""

    @property
    def log(self) -> _LogLimits:
        """Size and number of the log files."""
        ...


class Lines(logging.Formatter):
    """`2026-11-22 22:04:11  message`; a traceback follows as lines of its own, each with the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one or, with a traceback, several lines."""
        stamp = time.strftime(_STAMP, time.localtime(record.created))
        texts = [escape(record.getMessage())]
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info)
            texts += [f"  | {escape(line)}" for line in trace.splitlines()]
        return "\n".join(f"{stamp}  {_shortened(text)}" for text in texts)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]} … ({len(text)} characters)"


class LogFile(logging.handlers.WatchedFileHandler):
    """Appends each record with a single write, so that lines of several processes never mix."""

    def __init__(self, path: Path, process: str) -> None:
        self.process = process
        super().__init__(path, mode="a", encoding="utf-8", errors="backslashreplace", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; where the file cannot be written, say it on standard error instead."""
        line = ""
        try:
            line = self.format(record) + "\n"
            if self.stream is None:
                self.stream = self._open()
                self._statstream()
            self.reopenIfNeeded()
            data = line.encode("utf-8", "backslashreplace")
            # Not through the stream: its buffer is flushed in pieces of 8 KiB.
            while data:
                data = data[os.write(self.stream.fileno(), data) :]
        except OSError as error:
            # A full disk must not end the work, nor leave the person at the terminal without the message.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"(log not written by {self.process}: {error.strerror}) {line or record.getMessage()}")
        except Exception:
            self.handleError(record)


def setup(layout: Layout, settings: HasLog | None, process: str) -> logging.Logger:
    """Send the messages of this process to the workspace's log; returns the package's logger.

    Args:
        layout: the workspace.
        settings: its [log] section says when the log is rotated.
        process: `supervisor`, `trainer` or `intake`; only the first rotates.
    """
    if process == "supervisor" and settings is not None:
        rotate(layout.log_file, settings.log.max_megabytes, settings.log.keep)
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handler = LogFile(layout.log_file, process)
    handler.setFormatter(Lines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def rotated(path: Path, number: int) -> Path:
    """The name of the `number`-th older log; 1 is the newest of them."""
    return path.with_name(f"{path.name}.{number}")


def rotate(path: Path, max_megabytes: float, keep: int) -> bool:
    """Rename the log to `.1`, `.1` to `.2` and so on when it has reached its size; returns whether it did.

    At most `keep` older logs stay. Called by one process only.
    """
    try:
        if path.stat().st_size < max_megabytes * 1_000_000:
            return False
        for older in path.parent.glob(f"{glob.escape(path.name)}.*"):
            # As many as were kept before the setting was lowered.
            number = older.name.rpartition(".")[2]
            if number.isdecimal() and int(number) > keep:
                older.unlink(missing_ok=True)
        for number in range(keep, 0, -1):
            older = rotated(path, number)
            if number == keep:
                older.unlink(missing_ok=True)
            elif older.exists():
                older.replace(rotated(path, number + 1))
        path.replace(rotated(path, 1))
    except OSError:
        # Storage in trouble is told by those who write what matters; the log goes on in the old file.
        return False
    return True


class Tail:
    """New complete lines of a log as they appear, across rotation. Remembers at most one unfinished line."""

    def __init__(self, path: Path, from_start: bool = False) -> None:
        self.path = path
        self._file = None
        self._rest = b""
        self._open(at_end=not from_start)

    def _open(self, at_end: bool = False) -> None:
        try:
            self._file = self.path.open("rb")
        except OSError:
            self._file = None
            return
        if at_end:
            self._file.seek(0, os.SEEK_END)

    def _moved(self) -> bool:
        if self._file is None:
            return True
        try:
            here, there = os.fstat(self._file.fileno()), self.path.stat()
        except OSError:
            return False
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def lines(self) -> Iterator[str]:
        """Yield the complete lines written since the last call."""
        for _ in range(2):
            if self._file is not None:
                yield from self._read()
            if not self._moved():
                return
            if self._file is not None:
                # A writer that had not noticed the renaming yet may have added a line since.
                yield from self._read()
            self.close()
            self._open()

    def _read(self) -> Iterator[str]:
        assert self._file is not None
        while chunk := self._file.read(1 << 16):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def leave(code: int) -> NoReturn:
    """End this process now, all that it said written out, without taking the interpreter down.

    With torch and transformers loaded that takes one to three seconds, in which the GPU is still held and whoever waits
    for the process waits. To be called when nothing is left to be done: it runs no exit functions.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def last_lines(path: Path, count: int, start: int = 0, most_bytes: int = 1 << 20) -> list[str]:
    """The last `count` lines of a file from byte `start` on, reading at most `most_bytes` from its end."""
    if count <= 0:
        return []
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A file that was cut since has none of what began at `start`.
            begin = max(start if start <= size else 0, size - most_bytes)
            file.seek(begin)
            text = file.read(most_bytes).decode("utf-8", "backslashreplace")
    except OSError:
        return []
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines[-count:]
