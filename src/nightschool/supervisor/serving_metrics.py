"""Serves the figures of `metrics` at /metrics, from a thread that the supervisor never waits for."""

from __future__ import annotations

import errno
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from nightschool import metrics
from nightschool.addresses import is_local_name, is_loopback
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.status import status_of
from nightschool.workspace import Layout

CACHE_SECONDS = 1.0
"""However many ask, the ledger is read once in so long."""
CLIENT_SECONDS = 5.0
"""A client that says or takes nothing for so long is let go."""
MOST_CLIENTS = 16
END_SECONDS = 2.0
NEXT_PORTS = 20
PATH = "/metrics"


class Wanted(Protocol):
    """The settings [metrics]."""

    @property
    def port(self) -> int:
        """0: none."""
        ...

    @property
    def host(self) -> str:
        """The address to listen on."""
        ...


class ServingMetrics:
    """The server, while the settings ask for one.

    Args:
        layout: the workspace.
        restarts: how often the trainer was started again.
        say: takes one line for the log.
        note: takes the address, or None when there is none any more.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        layout: Layout,
        restarts: Callable[[], int],
        say: Callable[[str], Any],
        note: Callable[[str | None], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._restarts = restarts
        self._say = say
        self._note = note
        self._page = Cached(self._text, clock)
        self._server: _Server | None = None
        self._applied: tuple[str, int] | None = None
        self._problem = ""

    @property
    def address(self) -> str | None:
        """Where the figures are, or None."""
        return None if self._server is None else self._server.url

    def apply(self, settings: Wanted) -> None:
        """Follow the settings: begin, end, or move. Never raises: figures are not what the machine is for."""
        wanted = (settings.host, settings.port)
        if wanted == self._applied:
            return
        before = self._applied
        self._applied = wanted
        ending = self.end()
        if not settings.port:
            if before is not None and before[1]:
                self._say("Figures for Prometheus are not served any more.")
            self._note(None)
            return
        if ending is not None:
            ending.join(END_SECONDS)  # half a second; the port may be the one that is wanted again
        self._begin(*wanted)

    def again(self) -> None:
        """Try once more where it could not begin: an address may come up after the machine, as that of a tunnel."""
        if self._server is None and self._applied is not None and self._applied[1]:
            self._begin(*self._applied)

    def end(self) -> threading.Thread | None:
        """Stop serving; returns at once, with the thread that does it, if there is something to stop."""
        server, self._server = self._server, None
        if server is None:
            return None
        ending = threading.Thread(target=server.end, name="metrics end", daemon=True)
        ending.start()
        return ending

    def _begin(self, host: str, port: int) -> None:
        problem: OSError | None = None
        for number in range(port, min(port + NEXT_PORTS, 65536)):
            try:
                self._server = _Server(host, number, self._page)
            except OSError as error:
                problem = problem or error
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    break  # nothing that another port would help; a name that is not found takes long each time
                continue
            threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
            taken = "" if number == port else f" (port {port} could not be had: {_why(problem)})"
            self._say(f"Figures for Prometheus are at {self._server.url}{taken}.")
            self._note(self._server.url)
            self._problem = ""
            return
        text = (
            f"No figures for Prometheus are served: {host} port {port} and those after it cannot be had "
            f"({_why(problem)}). Set metrics.host and metrics.port; it is tried again each minute."
        )
        if text != self._problem:
            self._say(text)
            self._note(None)
        self._problem = text

    def _text(self) -> bytes:
        with Ledger.open(self._layout.ledger) as ledger:
            status, files = status_of(self._layout, ledger), ledger.files.counts()
        free = None
        with suppress(OSError):
            free = shutil.disk_usage(self._layout.root).free
        return exposition(metrics.samples(status, files, free, self._restarts(), datetime.now(UTC)))


class Cached:
    """A page that is made at most once a second, by one thread at a time."""

    def __init__(self, make: Callable[[], bytes], clock: Callable[[], float]) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._made_at: float | None = None
        self._page: bytes | NightschoolError = b""

    def get(self) -> bytes:
        """The page. Raises NightschoolError where it could not be made."""
        with self._lock:
            now = self._clock()
            if self._made_at is None or now - self._made_at >= CACHE_SECONDS:
                try:
                    self._page = self._make()
                except NightschoolError as error:
                    self._page = error
                self._made_at = self._clock()
            if isinstance(self._page, NightschoolError):
                raise self._page
            return self._page


def exposition(samples: Iterable[metrics.Sample]) -> bytes:
    """The samples in Prometheus' text format."""
    from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector

    families: dict[str, Metric] = {}
    for sample in samples:
        meaning = metrics.FIGURES[sample.name]
        family = families.get(sample.name)
        if family is None:
            kind = CounterMetricFamily if meaning.kind == "counter" else GaugeMetricFamily
            family = families[sample.name] = kind(sample.name, meaning.help)
        family.add_sample(sample.name, dict(sample.labels), sample.value)

    class All(Collector):
        def collect(self) -> Iterable[Metric]:
            return families.values()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(All())
    return generate_latest(registry)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # Another program's port must not be shared, nor one that just ended be waited for.
    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 16

    def __init__(self, host: str, port: int, page: Cached) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.page = page
        self.local = is_loopback(host)
        self.room = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__((host, port), _Handler)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_address[1]}{PATH}"

    def server_bind(self) -> None:
        """Without the look for the host's name, which may ask a server that does not answer."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more client, unless there are too many."""
        if not self.room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the client's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's trouble."""
        del request, client_address

    def end(self) -> None:
        """Serve no more."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = CLIENT_SECONDS
    server_version = "nightschool"
    sys_version = ""

    def do_GET(self) -> None:
        """The figures."""
        # A page in the user's browser that was given a name which leads here (DNS rebinding) says that name.
        if self.server.local and not is_local_name(self.headers.get("Host", "")):
            self._answer(HTTPStatus.FORBIDDEN, b"This address answers only to its own name.\n")
        elif self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"There is only {PATH}.\n".encode())
        else:
            try:
                page = self.server.page.get()
            except NightschoolError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
                return
            self._answer(HTTPStatus.OK, page, "text/plain; version=0.0.4; charset=utf-8")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is for people."""


def _why(error: OSError | None) -> str:
    return "none is left" if error is None else (error.strerror or str(error))
