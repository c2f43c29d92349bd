"""What a run leaves in the events and shows in a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from fcntl import ioctl
from itertools import pairwise

import pytest

from nightschool import durable
from nightschool.ledger import EventRow, Ledger
from nightschool.settings import Settings
from nightschool.supervisor import policies
from nightschool.supervisor import run as supervisor
from nightschool.view import terminal
from nightschool.workspace import Layout
from tests.supervisor.fakes import PATIENCE, commands, wait_until


def run(layout: Layout, settings: Settings, trainer: str = "good") -> list[EventRow]:
    (layout.inbox / "a.jsonl").write_text('{"text": "a"}\n')
    supervisor.run(layout, settings, True, None, commands=commands(layout, trainer), tick_seconds=0.02)
    with Ledger.open(layout.ledger) as ledger:
        return ledger.events.since()


def test_a_run_is_told_from_start_to_stop(layout: Layout, settings: Settings) -> None:
    found = run(layout, settings)
    assert (found[0].kind, found[-1].kind) == ("started", "stopped")
    words = [event.fields["word"] for event in found if event.kind == "state"]
    assert (words[0], words[-2:]) == ("idle", ["stopping", "stopped"])
    assert {"preparing", "starting"} & set(words)


def test_a_state_is_told_when_its_word_changes_and_only_then(layout: Layout, settings: Settings) -> None:
    """Also within one second, and not for each change of the reason."""
    words = [event.fields["word"] for event in run(layout, settings) if event.kind == "state"]
    assert all(word != following for word, following in pairwise(words))
    assert len(words) >= 3


def test_an_accident_is_told(layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "FIRST_DELAY", 0.05)
    accidents = [event for event in run(layout, settings, "kill:2") if event.kind == "accident"]
    assert [(event.fields["child"], event.fields["then"]) for event in accidents] == [("trainer", "restart")] * 2
    assert "was ended by SIGKILL" in accidents[0].text


def test_control_a_run_without_an_accident_tells_of_none(layout: Layout, settings: Settings) -> None:
    assert not [event for event in run(layout, settings) if event.kind == "accident"]


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_gives_its_terminal_back_and_needs_nobody_to_read_it(
    layout: Layout, number: signal.Signals, read: bool
) -> None:
    near, far = pty.openpty()
    ioctl(far, termios.TIOCSWINSZ, b"\x18\0\x50\0\0\0\0\0")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "nightschool", "-C", str(layout.root), "run"],
        stdin=far, stdout=far, stderr=far, start_new_session=True, env={**os.environ, "TERM": "xterm-256color"},
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(far)
    seen = bytearray()

    def reader() -> None:
        try:
            while chunk := os.read(near, 1 << 16):
                seen.extend(chunk)
        except OSError:
            pass  # the other end was closed

    thread = threading.Thread(target=reader, daemon=True)
    try:
        if read:
            thread.start()
            wait_until(lambda: b"watches" in seen, "the view")
        else:
            wait_until(lambda: durable.holder(layout.supervisor_lock) == process.pid)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        if read:
            thread.join(PATIENCE)
            after = bytes(seen).rpartition(terminal.RESTORE.encode())[2]
            assert terminal.ENTER.encode() in seen
            assert b"nightschool has stopped." in after
            assert b"\x1b" not in after
    finally:
        process.kill()
        process.wait()
        os.close(near)
