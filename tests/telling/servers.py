"""Servers that get messages: good ones, and bad ones of every kind."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests import ports

PATIENCE = 60.0


class Server:
    """Answers every request with `code`; what came is in `got`, the headers in `headers`."""

    def __init__(self, code: int = 204, location: str = "") -> None:
        self.code = code
        self.location = location
        self.got: list[Any] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.headers.append(dict(self.headers.items()))
                outer.paths.append(self.path)
                outer.got.append(json.loads(body))
                self.send_response(outer.code)
                if outer.location:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                outer.got.append("GET")
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def server(code: int = 204, location: str = "") -> Iterator[Server]:
    found = Server(code, location)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


def dead_port() -> int:
    """A port where nobody listens."""
    return ports.kept()


def wait_until(what: Callable[[], object], why: str = "") -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > end:
            pytest.fail(f"waited in vain: {why or what}")
        time.sleep(0.01)
