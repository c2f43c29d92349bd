"""A small Hub on this machine: as much of it as fetching a model asks for, with faults on request."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves the files of one folder as the model `org/tiny`, whose `main` and `v1` are at COMMIT.

    Attributes:
        gated: files may be listed, not fetched.
        status: every request is answered so; 0: as it should be.
        cut: bytes of a file, by name, after which the connection breaks: each time, also of the rest.
        sizes: sizes that are told in the place of the true ones, by name.
        asked: how often each `METHOD name` was asked for, listings as `api`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gated = False
        self.status = 0
        self.cut: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, True)

            def do_HEAD(self) -> None:
                hub.answer(self, False)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def names(self) -> list[str]:
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        if self.status:
            self._error(request, self.status, "", body)
        elif path.startswith("/api/models/org/tiny"):
            self.asked["api"] += 1
            self._api(request, path.removeprefix("/api/models/org/tiny"), body)
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self._file(request, path.removeprefix(f"/org/tiny/resolve/{COMMIT}/"), body)
        else:
            self._error(request, 404, "RepoNotFound", body)

    def _api(self, request: BaseHTTPRequestHandler, rest: str, body: bool) -> None:
        kind, _, revision = rest.strip("/").partition("/")
        if revision not in ("", "main", "v1", COMMIT):
            self._error(request, 404, "RevisionNotFound", body)
            return
        size = {n: self.sizes.get(n, (self.folder / n).stat().st_size) for n in self.names()}
        found: Any
        if kind == "tree":
            found = [{"type": "file", "path": n, "size": size[n], "oid": self._etag(n)} for n in size]
        else:
            found = {"id": "org/tiny", "sha": COMMIT, "private": False, "tags": []}
            found["siblings"] = [{"rfilename": n, "size": size[n], "blobId": self._etag(n)} for n in size]
        self._send(request, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, request: BaseHTTPRequestHandler, name: str, body: bool) -> None:
        self.asked[f"{request.command} {name}"] += 1
        path = self.folder / name
        if self.gated:
            self._error(request, 403, "GatedRepo", body)
            return
        if not path.is_file():
            self._error(request, 404, "EntryNotFound", body)
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{self._etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status, wanted = 200, request.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        if name in self.cut and status == 206:
            self._error(request, 500, "", body)
            return
        self._send(request, data, headers, body, status, self.cut.get(name))

    def _etag(self, name: str) -> str:
        return hashlib.sha1((self.folder / name).read_bytes()).hexdigest()

    def _error(self, request: BaseHTTPRequestHandler, status: int, code: str, body: bool) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": f"fake: {code}"} if code else {}
        self._send(request, b"{}", headers, body, status)

    def _send(
        self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], body: bool, status: int = 200,
        cut: int | None = None,
    ) -> None:  # fmt: skip
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(data if cut is None else data[:cut])
            if cut is not None and cut < len(data):
                request.wfile.flush()
                request.close_connection = True
                request.connection.shutdown(2)
