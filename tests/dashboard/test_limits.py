"""H6: slow, huge and many requests. The limits here are small; the defaults are only looked at."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from starlette.types import ASGIApp

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.app import BODY_BYTES, guarded
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.limits import Connection, Limits
from nightschool.dashboard.seldom import SECONDS, Seldom
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Done, Pause
from tests.dashboard.conftest import OpenPage
from tests.dashboard.served import Served, head, served, until_closed
from tests.dashboard.serving import steadily

TIGHT = Limits(
    connections=5,
    requests=2,
    streams=2,
    head_seconds=0.3,
    body_seconds=0.2,
    body_bytes=1000,
    send_seconds=0.3,
    wait_seconds=0.2,
)
PLENTY = 8_000_000
"""Bytes that fit into no buffer of a connection on one machine."""


class Large(Done):
    text: str = ""


class Rooms:
    """Endpoints that wait, read and answer at length."""

    def __init__(self) -> None:
        self.inside = 0
        self.open = asyncio.Event()
        self.got = 0

    async def wait(self, call: Call) -> Done:
        self.inside += 1
        await self.open.wait()
        return Done(said="waited")

    async def read(self, call: Call) -> Done:
        async for part in call.request.stream():
            self.got += len(part)
        return Done(said=str(self.got))

    async def take(self, call: Call) -> Done:
        return Done(said="taken")

    async def tell(self, call: Call) -> Large:
        return Large(said="", text="x" * PLENTY)

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/api/wait", "Wait", self.wait, Done),
            Endpoint("POST", "/api/read", "Read", self.read, Done, streams=True),
            Endpoint("POST", "/api/take", "Take", self.take, Done, takes=Pause),
            Endpoint("GET", "/api/tell", "Tell", self.tell, Large),
        )


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


@pytest.fixture
def tight(services: Services, rooms: Rooms) -> Iterator[Served]:
    with served(services, rooms.endpoints(), TIGHT) as page:
        yield page


def trickle(client: socket.socket, data: bytes) -> bytes:
    """Send one byte again and again, until the other side has had enough; all that it said."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in data:
            client.sendall(bytes([byte]))
            time.sleep(0.02)
    return until_closed(client)


def test_h6_a_head_that_trickles_is_let_go(tight: Served) -> None:
    with tight.connect() as client:
        assert trickle(client, head("/api/openapi.json", "GET", *[f"X-{n}: {n}" for n in range(200)])) == b""


def test_h6_so_is_one_that_never_comes(tight: Served) -> None:
    with tight.connect() as client:
        assert until_closed(client) == b""


def test_h6_so_is_the_second_on_a_connection(tight: Served) -> None:
    with tight.connect() as client:
        client.sendall(head("/static/theme.js"))
        first = client.recv(1 << 20)
        assert first.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1" not in trickle(client, head("/", "GET", *[f"X-{n}: {n}" for n in range(200)]))


def test_h6_a_body_that_trickles_is_let_go(tight: Served, rooms: Rooms) -> None:
    json = head("/api/take", "POST", "Content-Type: application/json", "Content-Length: 5000")
    file = head("/api/read", "POST", "Content-Type: application/octet-stream", "Content-Length: 5000")
    for begin in (json, file):
        with tight.connect() as client:
            client.sendall(begin)
            assert b"200 OK" not in trickle(client, b" " * 4999)
    assert rooms.got < 5000


def test_h6_control_a_body_that_comes_steadily_is_waited_for(services: Services, rooms: Rooms) -> None:
    limits = replace(TIGHT, body_seconds=1.0)
    kind, length = "Content-Type: application/octet-stream", "Content-Length: 60000"
    longest, got = limits.body_seconds, b""
    with served(services, rooms.endpoints(), limits) as page:
        while longest >= limits.body_seconds:  # once more where it was not steady, on a computer that is busy
            rooms.got = 0
            with page.connect() as client:
                client.sendall(head("/api/read", "POST", kind, length, "Connection: close"))
                longest = steadily(client, b"x" * 5000, 12, 0.25)  # three looks at it
                got = until_closed(client)
        assert b'"said":"60000"' in got


def test_h6_who_does_not_take_the_answer_is_let_go(tight: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    real, gone = Connection._let_go, threading.Event()

    def let_go(self: Connection) -> None:
        real(self)
        gone.set()

    monkeypatch.setattr(Connection, "_let_go", let_go)
    with tight.connect(receive_buffer=4096) as client:
        client.sendall(head("/api/tell"))
        assert gone.wait(60)
        assert len(until_closed(client)) < PLENTY


def test_h6_control_who_takes_it_has_all_of_it(services: Services, rooms: Rooms) -> None:
    # With more patience: on a busy computer even a good client rests now and then.
    with served(services, rooms.endpoints(), replace(TIGHT, send_seconds=5.0)) as page:
        status, got = page.ask("/api/tell")
    assert status == 200
    assert len(got) > PLENTY


def test_h6_too_many_connections_are_closed(services: Services) -> None:
    # Nobody is let go for being slow here.
    with served(services, (), replace(TIGHT, head_seconds=600)) as page, ExitStack() as open_ones:
        kept = [open_ones.enter_context(page.connect()) for _ in range(TIGHT.connections)]
        with page.connect() as client:
            assert until_closed(client) == b""
        # The others are as they were, and when one is gone there is room for another.
        kept[0].sendall(head("/api/openapi.json", "GET", "Connection: close"))
        assert until_closed(kept[0]).startswith(b"HTTP/1.1 200")
        assert page.ask("/api/openapi.json")[0] == 200


@pytest.mark.parametrize("times", [2, 20])
def test_h6_a_head_of_any_length_is_refused(tight: Served, times: int) -> None:
    # What comes in one piece is read in one piece: then it is the guard that counts.
    status, _ = tight.ask("/", "GET", f"X-Long: {'x' * TIGHT.head_bytes * times}")
    assert status in (400, 431)


@pytest.mark.parametrize("chunked", [False, True])
def test_h6_a_huge_body_is_refused(open_page: OpenPage, rooms: Rooms, chunked: bool) -> None:
    client = open_page(rooms.endpoints())
    json = {"Content-Type": "application/json"}
    body = b" " * BODY_BYTES + b"{}"
    answer = client.post("/api/take", content=iter([body]) if chunked else body, headers=json)
    assert (answer.status_code, answer.json()["kind"]) == (413, "too much")
    assert client.post("/api/take", content=body[2:], headers=json).status_code == 200


def test_h6_a_body_nobody_reads_is_not_waited_for(tight: Served) -> None:
    json = head("/api/take", "POST", "Content-Type: application/json", "Content-Length: 5000000")
    with tight.connect() as client:
        client.sendall(json)
        said = trickle(client, b" " * 10_000)
        assert b"413" in said


def test_h6_requests_at_once_are_capped(services: Services, rooms: Rooms) -> None:
    """Two wait inside; the third waits its turn for a moment, and is then told to come again."""
    tight = guarded(services, rooms.endpoints(), Rules(), None, TIGHT)
    patient = guarded(services, rooms.endpoints(), Rules(), None, replace(TIGHT, wait_seconds=60.0))

    async def ask(app: ASGIApp, path: str = "/api/wait") -> tuple[int, bytes]:
        sent: list[dict] = []

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message) -> None:
            sent.append(dict(message))

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2),
            "scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await app(scope, receive, send)
        return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)

    async def all_of_it() -> None:
        waiting = [asyncio.create_task(ask(app)) for app in (tight, tight, patient, patient)]
        while rooms.inside < 4:
            await asyncio.sleep(0)
        assert (await ask(tight))[0] == 503
        assert (await ask(tight, "/nothing"))[0] == 503
        waiting.append(asyncio.create_task(ask(patient)))
        await asyncio.sleep(0)
        assert rooms.inside == 4
        rooms.open.set()
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 5
        assert (await ask(tight))[0] == 200

    asyncio.run(all_of_it())


def test_h6_streams_are_capped(tight: Served) -> None:
    with ExitStack() as open_ones:
        for _ in range(TIGHT.streams):
            client = open_ones.enter_context(tight.connect())
            client.sendall(head("/api/live"))
            assert b"200 OK" in client.recv(65536)
        status, text = tight.ask("/api/live")
        assert status == 503
        assert b"Close one of them" in text
        # All other things are answered as before.
        assert tight.ask("/api/openapi.json")[0] == 200


def test_h6_the_log_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    seldom = Seldom(logging.getLogger("nightschool.page"), lambda: now)
    caplog.set_level("WARNING")
    for _ in range(1000):
        seldom.say("token", "wrong")
    seldom.say("failed", "another kind")
    now = SECONDS
    seldom.say("token", "wrong again")
    assert [record.getMessage() for record in caplog.records] == [
        "wrong",
        "another kind",
        "wrong again (and 999 times more before)",
    ]


def test_the_limits_that_are_in_force() -> None:
    limits = Limits()
    assert (limits.connections, limits.requests, limits.streams) == (200, 64, 100)
    assert limits.streams + limits.requests < limits.connections
    assert max(limits.head_seconds, 2 * limits.body_seconds) <= 10
    assert BODY_BYTES == 65_536


def test_a_client_that_goes_away_midway_is_no_accident(
    services: Services, rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "nightschool.page")
    with served(services, rooms.endpoints()) as page:
        with page.connect() as client:
            client.sendall(head("/api/take", "POST", "Content-Type: application/json", "Content-Length: 50") + b"{")
        assert page.ask("/api/openapi.json")[0] == 200
    assert caplog.records == []
