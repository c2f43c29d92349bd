"""The page as a process: where it listens, for whom, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.dashboard import __main__ as process
from nightschool.dashboard import serving
from nightschool.dashboard.serving import NEXT_PORTS, check, listen
from nightschool.errors import SettingsError
from nightschool.ledger import Ledger
from nightschool.settings import PageSettings
from nightschool.status import read_status
from nightschool.workspace import Layout
from tests import ports
from tests.dashboard.served import Served, head

PATIENCE = 60.0
SRC = Path(serving.__file__).parents[2]


def noted(layout: Layout) -> dict[str, object] | None:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get(serving.ROW)


@contextmanager
def running(
    layout: Layout, *options: str, lifeline: bool = False, program: Sequence[str] = ("-m", "nightschool.dashboard")
) -> Iterator[tuple[subprocess.Popen[bytes], Served, int]]:
    """The process, where its page is, and the end of the pipe that is to be closed (-1: none)."""
    ours = theirs = -1
    given: list[str] = []
    if lifeline:
        theirs, ours = os.pipe()
        given = ["--lifeline", str(theirs)]
    child = subprocess.Popen(
        [sys.executable, *program, f"--workspace={layout.root}", "--port=0", *given, *options],
        pass_fds=[theirs] if lifeline else [],
        env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if lifeline:
        os.close(theirs)
    try:
        until = time.monotonic() + PATIENCE
        while not (found := noted(layout)):
            assert child.poll() is None, layout.log_file.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        assert found["pid"] == child.pid
        yield child, Served(int(str(found["url"]).rpartition(":")[2])), ours
    finally:
        child.kill()
        child.wait(PATIENCE)


def test_it_serves_and_says_where(layout: Layout) -> None:
    with running(layout) as (child, page, _):
        assert page.ask("/api/now")[0] == 200
        assert page.ask("/")[0] == 200
        assert f"The page is at http://127.0.0.1:{page.port}." in layout.log_file.read_text()
        # Below the trainer, which is started as this test is.
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.getpriority(os.PRIO_PROCESS, 0) + process.NICENESS


@pytest.mark.parametrize("how", ["lifeline", "SIGTERM"])
def test_it_ends_at_once_also_with_open_streams(layout: Layout, how: str) -> None:
    with running(layout, lifeline=how == "lifeline") as (child, page, ours), ExitStack() as open_ones:
        for reads in (True, True, False):
            client = open_ones.enter_context(page.connect(receive_buffer=4096))
            client.sendall(head("/api/live"))
            if reads:
                assert b"200 OK" in client.recv(65536)
        half = open_ones.enter_context(page.connect())
        half.sendall(b"GET / HTTP/1.1\r\nHost")
        if how == "lifeline":
            os.close(ours)
        else:
            child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE) == 0
    assert noted(layout) is None


def test_it_ends_while_a_reader_waits_for_a_lock(layout: Layout) -> None:
    with running(layout) as (child, page, _):
        with sqlite3.connect(layout.ledger, isolation_level=None) as held:
            held.execute("BEGIN EXCLUSIVE")
            client = page.connect()
            client.sendall(head("/api/now"))
            time.sleep(0.5)
            child.send_signal(signal.SIGTERM)
            # SQLite itself would wait for 30 s, and the row could not be taken away.
            assert child.wait(20) == 0
            client.close()
            held.execute("ROLLBACK")
        held.close()


def test_it_ends_while_a_disk_does_not_answer(layout: Layout) -> None:
    hangs = "import sys, time; from nightschool.dashboard import __main__, log; from nightschool import logs; "
    hangs += "log.read = lambda *_: time.sleep(120); logs.leave(__main__.main(sys.argv[1:]))"
    with running(layout, program=["-c", hangs]) as (child, page, _), page.connect() as client:
        client.sendall(head("/api/log"))
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    assert noted(layout) is None


def test_what_a_killed_page_has_noted_is_not_where_the_next_one_is(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger, durable.Lock(layout.page_lock, "the page"):
        for pid, said in ((os.getpid() + 1, None), (os.getpid(), "http://127.0.0.1:8420")):
            ledger.machine.set(serving.ROW, {"url": "http://127.0.0.1:8420", "pid": pid})
            assert read_status(layout).page == said
    assert read_status(layout).page is None


def test_without_a_lifeline_ctrl_c_ends_it(layout: Layout) -> None:
    with running(layout) as (child, _, _):
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 0


def test_with_one_ctrl_c_is_for_the_supervisor(layout: Layout) -> None:
    with running(layout, lifeline=True) as (child, page, ours):
        child.send_signal(signal.SIGINT)
        assert page.ask("/api/now")[0] == 200
        os.close(ours)
        assert child.wait(PATIENCE) == 0


# --- H3 ----------------------------------------------------------------------------------------------------------

OTHERS = ["0.0.0.0", "::", "192.168.1.5", "desk.lan", "example.org"]


@pytest.mark.parametrize("host", OTHERS)
def test_h3_open_to_others_without_a_token_it_does_not_start(
    layout: Layout, host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "listen", lambda *_: pytest.fail("it listened"))
    monkeypatch.setattr(os, "nice", lambda _: None)
    code = process.main(["--workspace", str(layout.root), "--host", host])
    assert code == SettingsError.exit_code
    said = capsys.readouterr().err
    assert "page.token" in said
    assert host in said


@pytest.mark.parametrize("host", OTHERS)
def test_h3_neither_does_what_serves_by_itself(host: str) -> None:
    with pytest.raises(SettingsError, match=r"page\.token"):
        check(PageSettings.model_construct(host=host, token=None))
    with pytest.raises(SettingsError, match=r"page\.token"):
        check(PageSettings.model_construct(host=host, token=""))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_h3_control_on_loopback_it_needs_none(host: str) -> None:
    check(PageSettings(host=host))


def test_h3_control_with_a_token_it_may_be_open() -> None:
    check(PageSettings(host="0.0.0.0", token="x" * 16))


def test_h3_with_a_token_it_starts_and_asks_for_it(layout: Layout) -> None:
    token = "t" * 20
    layout.settings_file.write_text(f'{layout.settings_file.read_text()}\n[page]\ntoken = "{token}"\n')
    with running(layout, "--host", "0.0.0.0") as (_, page, _):
        assert page.ask("/api/now")[0] == 401
        assert page.ask("/api/now", "GET", f"Authorization: Bearer {token}")[0] == 200
        assert token not in layout.log_file.read_text()


# --- the port ----------------------------------------------------------------------------------------------------


@contextmanager
def taken(many: int = 1) -> Iterator[int]:
    """The first of so many ports in a row that another program has."""
    with ExitStack() as kept:
        for _ in range(100):
            first = kept.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            first.listen()
            port = first.getsockname()[1]
            try:
                for number in range(port + 1, port + many):
                    other = kept.enter_context(socket.socket())
                    other.bind(("127.0.0.1", number))
                    other.listen()
            except (OSError, OverflowError):
                continue
            yield port
            return
    pytest.fail("no free ports")


def test_a_port_that_is_taken_gives_the_next_and_says_so() -> None:
    with taken() as port:
        made, why = listen("127.0.0.1", port)
        with made:
            assert port < made.getsockname()[1] < port + NEXT_PORTS
            assert str(port) in why


def test_control_a_free_port_is_the_one() -> None:
    port = ports.kept()
    made, why = listen("127.0.0.1", port)
    with made:
        assert (made.getsockname()[1], why) == (port, "")


def test_where_none_is_free_it_says_what_to_set() -> None:
    with taken(NEXT_PORTS) as port, pytest.raises(SettingsError, match=r"page\.port"):
        listen("127.0.0.1", port)


def test_an_address_that_is_not_here_says_what_to_set() -> None:
    for host in ("192.0.2.1", "no.such.name.invalid"):
        with pytest.raises(SettingsError, match=r"page\.host"):
            listen(host, 8420)


def test_two_that_begin_at_once_get_a_port_each() -> None:
    with taken() as port:
        pass
    made: list[socket.socket] = []
    threads = [threading.Thread(target=lambda: made.append(listen("127.0.0.1", port)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.getsockname()[1] for one in made}) == 8
    for one in made:
        one.close()


def test_port_0_is_no_page(layout: Layout) -> None:
    layout.settings_file.write_text(f"{layout.settings_file.read_text()}\n[page]\nport = 0\n")
    assert process.main(["--workspace", str(layout.root)]) == 0
    assert "page.port is 0" in layout.log_file.read_text()
    assert noted(layout) is None


# --- what it is made of ------------------------------------------------------------------------------------------

SLOW = ("torch", "transformers", "peft", "accelerate", "datasets", "trl", "plotly", "pandas")


def imported(code: str) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    tell = f"{code}\nimport sys, json\nprint(json.dumps([one for one in {SLOW!r} if one in sys.modules]))"
    return json.loads(subprocess.run([sys.executable, "-c", tell], env=env, capture_output=True, check=True).stdout)


def test_it_never_imports_what_is_slow(layout: Layout) -> None:
    """Also not by answering what can be asked for without changing anything."""
    code = f"""
from pathlib import Path
from starlette.testclient import TestClient
from nightschool.dashboard import __main__
from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.pages import PAGES
from nightschool.dashboard.services import Services
from nightschool.workspace import Layout
services = Services(Layout(Path({str(layout.root)!r})))
client = TestClient(guarded(services, ENDPOINTS, Rules(), None), base_url="http://127.0.0.1:1")
reads = [one.path for one in ENDPOINTS if one.method == "GET" and "{{" not in one.path]
for path in [*reads, "/api/files/1", "/api/openapi.json", *PAGES]:
    assert client.get(path).status_code == 200, path
services.close()
"""
    assert imported(code) == []


def test_control_an_import_is_found() -> None:
    assert imported("import plotly") == ["plotly"]
