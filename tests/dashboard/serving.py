"""A client of the page that may stop in the middle of a word."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from tests.dashboard.served import Served, until_closed

WAIT = 60.0


def until(true: Callable[[], bool]) -> None:
    """Wait for it, for a minute."""
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def head(method: str, target: str, length: int | None) -> bytes:
    """The head of a request as a browser's script sends it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    if length is not None:
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {length}"]
    return "\r\n".join((*lines, "", "")).encode()


def sending(page: Served, name: str, length: int, data: bytes) -> socket.socket:
    """A connection on which a file of `length` bytes is announced, and `data` is sent of it."""
    client = page.connect()
    client.sendall(head("POST", f"/api/uploads?name={name}", length) + data)
    return client


def steadily(client: socket.socket, piece: bytes, times: int, pause: float) -> float:
    """Send so many pieces, with a pause before each; the longest that the other side had to wait, in seconds.

    It may be longer than the pause where the computer is busy. Ends early where the other side has had enough.
    """
    longest, last = 0.0, time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(times):
            time.sleep(pause)
            client.sendall(piece)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
    return longest


def answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body, read to the end of the connection."""
    begin, _, body = until_closed(client).partition(b"\r\n\r\n")
    return int(begin.split()[1]), body
