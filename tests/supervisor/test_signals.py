from __future__ import annotations

import os
import signal

import pytest

from nightschool.supervisor.signals import StopSignals


def test_handlers_only_set_flags_and_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert not signals.stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("sent", "at_once"),
    [
        ([signal.SIGINT], False),
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], False),
        ([signal.SIGINT, signal.SIGTERM], False),
        ([signal.SIGTERM, signal.SIGINT], True),
        ([signal.SIGINT, signal.SIGINT], True),
    ],
)
def test_b5_only_a_ctrl_c_after_the_first_request_ends_at_once(sent: list[int], at_once: bool) -> None:
    signals = StopSignals()
    for number in sent:
        signals.on_signal(number)
    assert signals.stop
    assert signals.at_once is at_once


def test_started_with_nohup_a_closed_terminal_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.stop
    finally:
        signal.signal(signal.SIGHUP, before)
