"""The page on a real socket, and clients of the kind that browsers are not."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.app import guarded
from nightschool.dashboard.endpoints import Endpoint
from nightschool.dashboard.limits import Limits
from nightschool.dashboard.services import Services
from nightschool.dashboard.serving import configured, listen

PATIENCE = 60.0


@dataclass(frozen=True)
class Served:
    """Where it is."""

    port: int

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        made = socket.socket()
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(PATIENCE)
        made.connect(("127.0.0.1", self.port))
        return made

    def ask(self, target: str, method: str = "GET", *headers: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request as it stands, and give the status and all that came."""
        with self.connect() as client:
            client.sendall(head(target, method, *headers, "Connection: close") + body)
            got = until_closed(client)
        return int(got.split(b" ", 2)[1]), got


def head(target: str, method: str = "GET", *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def until_closed(client: socket.socket) -> bytes:
    """All that comes until the other side is done. Raises TimeoutError where it keeps the connection."""
    got = b""
    try:
        while part := client.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


@contextmanager
def served(services: Services, endpoints: Sequence[Endpoint] = (), limits: Limits | None = None) -> Iterator[Served]:
    """The whole page on a port of its own, in a thread."""
    with served_app(guarded(services, endpoints, Rules(), None, limits), limits) as found:
        yield found
        services.live.close()


@contextmanager
def served_app(app: ASGIApp, limits: Limits | None = None) -> Iterator[Served]:
    listening, _ = listen("127.0.0.1", 0)
    server = uvicorn.Server(configured(app, limits or Limits()))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield Served(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
