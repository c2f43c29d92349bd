"""A terminal that nobody waits for: it may be stopped by Ctrl-S, or be a connection that hangs."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
"""A screen of its own, without a cursor."""
HOME = "\x1b[H"
RESTORE = "\x1b[?1049l\x1b[?25h\x1b[0m"
"""The normal screen, the cursor, no colour."""
SMALLEST = (1, 1)


class Terminal:
    """Writes to a terminal without ever waiting for it, where the system allows that; what it does not take is kept.

    It is opened anew by its name: to make a descriptor non-blocking that the shell has too would make it so for the
    shell. Where that is not possible writing may block, so only a thread that may hang should write.

    Args:
        fd: an open descriptor of the terminal.
        encoding: of the locale.
    """

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._text: list[str] = []
        self._pending = b""
        self._gone = False
        try:
            self._fd = os.open(os.ttyname(fd), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._fd = os.dup(fd)

    @property
    def encoding(self) -> str:
        """What text is encoded as."""
        return self._encoding

    @property
    def busy(self) -> bool:
        """Whether it has not taken all that was written."""
        return bool(self._pending) and not self._gone

    def write(self, text: str) -> int:
        """Take text; `flush` sends it."""
        self._text.append(text)
        return len(text)

    def flush(self) -> None:
        """Send what the terminal takes now."""
        text, self._text = "".join(self._text), []
        self._pending += text.encode(self._encoding, "replace")
        self.drain(0.0)

    def drain(self, seconds: float) -> bool:
        """Send what is left, for so long at most; whether all of it was taken."""
        end = time.monotonic() + seconds
        while self._pending and not self._gone:
            try:
                self._pending = self._pending[os.write(self._fd, self._pending) :]
                continue
            except BlockingIOError:
                pass
            except OSError:
                # It was closed: whoever looked at it is gone.
                self._gone = True
                break
            left = end - time.monotonic()
            if left <= 0:
                return False
            select.select([], [self._fd], [], left)
        return True

    def size(self) -> tuple[int, int]:
        """Columns and lines now."""
        with suppress(OSError):
            found = os.get_terminal_size(self._fd)
            return max(found.columns, SMALLEST[0]), max(found.lines, SMALLEST[1])
        return 80, 24

    def in_front(self) -> bool:
        """Whether it is this process's to write to, as far as the system tells: not behind a shell."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True

    def isatty(self) -> bool:
        """It is one."""
        return True

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def shut(self) -> None:
        """Let go of it. What it did not take is lost."""
        with suppress(OSError):
            os.close(self._fd)
        self._gone = True


def suits(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the view can be shown: a terminal that understands more than lines, and this process in front of it."""
    if environment.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return False
    try:
        fd = stream.fileno()
        # Started with `&`, it would write over what its user does.
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def encoding_of(stream: TextIO) -> str:
    """The encoding of the locale as this program found it."""
    return getattr(stream, "encoding", None) or sys.getdefaultencoding()


def is_unicode(encoding: str) -> bool:
    """Whether bars and curves can be drawn in it."""
    try:
        "━─▁█…".encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
