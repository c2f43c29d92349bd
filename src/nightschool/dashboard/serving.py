"""The page as a process: where it listens, how it is told to end, and what it notes for others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from nightschool import durable
from nightschool.addresses import is_loopback, url
from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.limits import Limits, connection
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import CurveQuery
from nightschool.dashboard.signing_in import Key
from nightschool.errors import NightschoolError, SettingsError
from nightschool.ledger import Ledger
from nightschool.record import read_generation
from nightschool.settings import PageSettings
from nightschool.workspace import Layout

ROW = "page"
"""The machine row that says where the page is: {"url", "pid"}."""
NEXT_PORTS = 20
END_SECONDS = 1
"""Answers that are being made may take so long at the end; then they are given up."""
LAST_SECONDS = 1.8
"""Whatever still hangs then, a read that waits for a lock or a thread, ends with the process."""
BACKLOG = 64

log = logging.getLogger("nightschool.page")


def check(settings: PageSettings) -> None:
    """Whether a page may be served so. Raises SettingsError: it would be open to others without a token.

    The settings say so themselves, where they are checked; this is the last place at which it can be seen.
    """
    if not is_loopback(settings.host) and not settings.token:
        raise SettingsError(
            f"page.host is {settings.host}, which others can reach, and page.token is not set: whoever reaches the "
            "page can read and delete all there is. Set page.token (16 characters or more), or leave page.host at "
            "127.0.0.1."
        )


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens at `port` (0: any) or one of the next ports, and a word on why it is another one, or "".

    Raises:
        SettingsError: none of them can be had.
    """
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, where = min(((one[0], str(one[4][0])) for one in found), key=lambda one: one[0] != socket.AF_INET)
        for number in range(port, min(port + NEXT_PORTS, 65536)):
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                # A port that just ended need not be waited for; another program's is not shared by this on Linux.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((where, number))
                # At once: of two that are bound, the one that listens first has the port.
                made.listen(BACKLOG)
            except OSError as error:
                made.close()
                problem = problem or error
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    break
                continue
            made.setblocking(False)
            return made, "" if number == port else f"port {port} could not be had: {_why(problem)}"
    except OSError as error:
        problem = error
    raise SettingsError(
        f"The page cannot be served at {host} port {port} or the {NEXT_PORTS - 1} after it ({_why(problem)}). "
        "Set page.host and page.port."
    )


def serve(
    layout: Layout, settings: PageSettings, lifeline: int | None = None, limits: Limits | None = None,
    say: Callable[[str], Any] = log.info,
) -> None:  # fmt: skip
    """Serve the page until the lifeline ends or SIGTERM comes (without a lifeline Ctrl-C too).

    Raises:
        SettingsError: it may not be served so, or not there.
        BusyError: another process serves it.
    """
    check(settings)
    with durable.Lock(layout.page_lock, "the page of this workspace"):
        _serve(layout, settings, lifeline, limits or Limits(), say)


def _serve(
    layout: Layout, settings: PageSettings, lifeline: int | None, limits: Limits, say: Callable[[str], Any]
) -> None:
    listening, moved = listen(settings.host, settings.port)
    address = url(settings.host, listening.getsockname()[1])
    services = Services(layout)
    key = Key(settings.token, layout.root) if settings.token else None
    app = guarded(services, ENDPOINTS, Rules(settings.host, tuple(settings.allowed_hosts)), key, limits)
    say(f"The page is at {address}{f' ({moved})' if moved else ''}.")
    last = threading.Timer(LAST_SECONDS, os._exit, (0,))
    last.daemon = True
    try:
        asyncio.run(_until_told(_Server(configured(app, limits)), listening, services, lifeline, address, last))
    finally:
        # Not before: the end of the loop waits for its threads, and a disk that does not answer may hold one.
        last.cancel()


def configured(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """How uvicorn serves it: within the limits, and in silence."""
    # Requests are not logged: the log is for people. What goes wrong inside is told by the guard.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return uvicorn.Config(
        app,
        http=connection(limits),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        # Who sends X-Forwarded-For is not known, so nobody is believed.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.rest_seconds,
        timeout_graceful_shutdown=END_SECONDS,
        h11_max_incomplete_event_size=limits.head_bytes,
        backlog=BACKLOG,
    )


class _Server(uvicorn.Server):
    """Without uvicorn's signal handlers, which end the process by the signal and not with an exit code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _until_told(
    server: _Server, listening: socket.socket, services: Services, lifeline: int | None, address: str,
    last: threading.Timer,
) -> None:  # fmt: skip
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            return
        server.should_exit = True
        # First the streams, which would never end by themselves.
        services.live.close()
        last.start()

    def at_lifeline() -> None:
        assert lifeline is not None
        # Nothing is ever written into the pipe: that it can be read means that it was closed.
        if not os.read(lifeline, 1):
            loop.remove_reader(lifeline)
            stop()

    loop.add_signal_handler(signal.SIGTERM, stop)
    if lifeline is None:
        loop.add_signal_handler(signal.SIGINT, stop)
    else:
        loop.add_reader(lifeline, at_lifeline)
    beginning = [asyncio.create_task(one) for one in (_note(services, address), _remember(services))]
    try:
        await server.serve(sockets=[listening])
    finally:
        for one in beginning:
            one.cancel()
        await _note(services, None)
        services.close()


async def _note(services: Services, address: str | None) -> None:
    """Note where the page is, or that it is no more. Not for a ledger in trouble: that is told by those who need it."""

    def write(ledger: Ledger) -> None:
        if address is not None:
            ledger.machine.set(ROW, {"url": address, "pid": os.getpid()})
        elif (ledger.machine.get(ROW) or {}).get("pid") == os.getpid():
            ledger.machine.delete(ROW)

    with contextlib.suppress(NightschoolError):
        await services.reader.read(write)


async def _remember(services: Services) -> None:
    """Read the curve once, so that the first who looks need not wait for that."""

    def read(ledger: Ledger) -> None:
        query = CurveQuery()
        curve = services.reader.memory.history.curve
        curve(ledger, read_generation(services.layout), query.first, query.last, query.points)

    with contextlib.suppress(NightschoolError):
        await services.reader.read(read)


def _why(error: OSError | None) -> str:
    return "none is left" if error is None else (error.strerror or str(error))
