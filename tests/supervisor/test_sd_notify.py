"""What the service manager hears: from the protocol alone, and from a real loop with a socket in systemd's place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightschool.settings import Settings
from nightschool.supervisor import run as supervisor
from nightschool.supervisor.machine import Supervisor
from nightschool.supervisor.sd_notify import EXTEND_SECONDS, STOPPING_SECONDS, ServiceManager
from nightschool.workspace import Layout
from tests.supervisor.fakes import Machine, child_command, commands, events, wait_until

WATCHDOG = 30_000_000


class Listener:
    """systemd's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def environment(self, watchdog: int = 0) -> dict[str, str]:
        found = {"NOTIFY_SOCKET": self.address, "OTHER": "kept"}
        return {**found, "WATCHDOG_USEC": str(watchdog)} if watchdog else found

    def heard(self) -> list[str]:
        """The lines of all that came since it was asked last."""
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(65536).decode().splitlines()
            except BlockingIOError:
                return lines


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    found = Listener(f"@nightschool-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n"))
    yield found
    found.socket.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_ready_and_the_state_are_said_once(listener: Listener) -> None:
    manager = ServiceManager(listener.environment(), Clock())
    assert listener.heard() == [], "not before the first round"
    manager.went_round(("idle", "nothing is left"), False)
    assert listener.heard() == ["READY=1", "STATUS=idle: nothing is left"]
    manager.went_round(("idle", "nothing is left"), False)
    assert listener.heard() == []
    manager.went_round(("training", "a\nWATCHDOG=1"), False)
    assert listener.heard() == ["STATUS=training: a WATCHDOG=1"]


def test_the_watchdog_hears_of_a_round_at_most_every_third_of_its_time(listener: Listener) -> None:
    clock = Clock()
    manager = ServiceManager(listener.environment(WATCHDOG), clock)
    manager.went_round(None, False)
    assert listener.heard() == ["READY=1", "WATCHDOG=1"]
    heard = 0
    for _ in range(600):
        clock.now += 0.2
        manager.went_round(None, False)
        heard += listener.heard().count("WATCHDOG=1")
    assert heard == 120 / (WATCHDOG / 3e6)


def test_control_without_rounds_the_watchdog_hears_nothing(listener: Listener) -> None:
    clock = Clock()
    manager = ServiceManager(listener.environment(WATCHDOG), clock)
    manager.went_round(None, False)
    listener.heard()
    clock.now += 3600
    assert listener.heard() == []
    manager.went_round(None, False)
    assert listener.heard() == ["WATCHDOG=1"]


def test_while_stopping_more_time_is_asked_for_again_and_again(listener: Listener) -> None:
    clock = Clock()
    manager = ServiceManager(listener.environment(), clock)
    manager.went_round(None, False)
    listener.heard()
    manager.went_round(("stopping", "the trainer saves"), True)
    more = f"EXTEND_TIMEOUT_USEC={int(EXTEND_SECONDS * 1e6)}"
    assert listener.heard() == ["STATUS=stopping: the trainer saves", "STOPPING=1", more]
    clock.now += STOPPING_SECONDS / 2
    manager.went_round(("stopping", "the trainer saves"), True)
    assert listener.heard() == []
    clock.now += STOPPING_SECONDS / 2
    manager.went_round(("stopping", "the trainer saves"), True)
    assert listener.heard() == [more]
    assert STOPPING_SECONDS < EXTEND_SECONDS / 3


def test_the_watchdog_of_another_process_is_not_ours(listener: Listener) -> None:
    environment = {**listener.environment(WATCHDOG), "WATCHDOG_PID": "1"}
    ServiceManager(environment, Clock()).went_round(None, False)
    assert listener.heard() == ["READY=1"]
    assert environment == {"OTHER": "kept"}


def test_a_manager_that_does_not_read_or_is_gone_holds_nothing_up_and_hears_it_later(tmp_path: Path) -> None:
    address = str(tmp_path / "n")
    manager = ServiceManager({"NOTIFY_SOCKET": address}, Clock())
    manager.went_round(("idle", ""), False)
    listener = Listener(address)
    for number in range(1000):
        manager.went_round(("training", str(number)), False)  # more than the socket holds
    heard = listener.heard()
    assert heard[0] == "READY=1"
    assert len(heard) < 1000
    manager.went_round(("training", "last"), False)
    assert listener.heard() == ["STATUS=training: last"]
    listener.socket.close()
    manager.went_round(("idle", ""), False)


def test_without_systemd_nothing_is_said() -> None:
    environment = {"OTHER": "kept"}
    ServiceManager(environment, Clock()).went_round(("idle", ""), True)
    assert environment == {"OTHER": "kept"}


def test_a_whole_run_is_told_and_its_children_do_not_inherit_the_socket(
    layout: Layout, settings: Settings, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in listener.environment(WATCHDOG).items():
        monkeypatch.setenv(name, value)
    (layout.inbox / "a.jsonl").write_text('{"text": "a"}\n')
    found = commands(layout)
    asking = ["sh", "-c", f'env > {layout.root}/env; exec "$@"', "sh", *child_command(layout, "trainer")]
    code = supervisor.run(layout, settings, True, commands=supervisor.Commands(asking, found.intake), tick_seconds=0.02)
    assert code == 0
    heard = listener.heard()
    assert heard[0] == "READY=1"
    assert heard.count("READY=1") == heard.count("STOPPING=1") == 1
    assert "WATCHDOG=1" in heard
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in heard)
    assert any(line.startswith("STATUS=") for line in heard)
    inherited = (layout.root / "env").read_text()
    assert "OTHER=kept" in inherited, "control: the rest is inherited"
    assert "NOTIFY_SOCKET" not in inherited
    assert "WATCHDOG_USEC" not in inherited


def test_control_a_loop_that_hangs_sends_no_watchdog(
    layout: Layout, settings: Settings, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that does not come to its end is not reported, however long it takes."""
    clock = Clock()
    for name, value in listener.environment(WATCHDOG).items():
        monkeypatch.setenv(name, value)
    heard: list[str] = []
    rounds = 0

    def hang(self: Supervisor) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            clock.now += 3600
            heard.extend(listener.heard())
            raise KeyboardInterrupt  # stands for the rest of eternity

    def sleep(_: float) -> None:
        clock.now += WATCHDOG / 1e6  # so long that the next report is due at once

    monkeypatch.setattr(Supervisor, "_decide", hang)
    monkeypatch.setattr("nightschool.supervisor.rounds.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        supervisor.run(layout, settings, True, commands=commands(layout), clock=clock, tick_seconds=0.0)
    assert heard.count("WATCHDOG=1") == 1, "the first round's"
    assert listener.heard() == []


def test_a_second_machine_is_never_ready(layout: Layout, machine, listener: Listener) -> None:
    first = machine()
    wait_until(lambda: layout.log_file.exists() and "watches" in layout.log_file.read_text())
    os.environ.update(listener.environment())
    try:
        code, _ = Machine(layout).end()
    finally:
        for name in listener.environment():
            os.environ.pop(name, None)
    assert code == 5
    assert listener.heard() == []
    assert first.process.poll() is None
    assert not events(layout, "trainer.started")
