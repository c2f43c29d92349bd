"""The page on a real socket, in a thread, and a client that may stop in the middle of a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from nightschool.dashboard.app import application
from nightschool.dashboard.endpoints import Endpoint
from nightschool.dashboard.services import Services

WAIT = 30.0


def until(true: Callable[[], bool]) -> None:
    """Wait for it, for half a minute."""
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


@contextmanager
def served(services: Services, endpoints: Sequence[Endpoint]) -> Iterator[int]:
    """The port that the page is served on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(application(services, endpoints), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(WAIT)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT)


def head(method: str, target: str, length: int | None, *more: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *more]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join((*lines, "", "")).encode()


def answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body, read to the end of the connection."""
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    begin, _, body = data.partition(b"\r\n\r\n")
    return int(begin.split()[1]), body
