"""Signals and kills, on a supervisor in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from nightschool import durable, errors
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.supervisor import run as supervisor
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, Machine, commands, events, gone, log_text, wait_until

Start = Callable[..., Machine]


def at_work(layout: Layout, machine: Machine) -> None:
    (layout.inbox / "a.jsonl").write_text("{}\n")
    wait_until(lambda: events(layout, "trainer.started") and events(layout, "intake.started"), "children")
    wait_until(lambda: durable.holder(layout.supervisor_lock) == machine.pid)
    wait_until(lambda: "hello" in layout.trainer_output.read_text(), "a trainer that listens to signals")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_b5_the_first_signal_lets_the_trainer_save_and_ends_with_0(
    layout: Layout, machine: Start, number: signal.Signals
) -> None:
    running = machine()
    at_work(layout, running)
    running.signal(number)
    code, output = running.end()
    assert code == 0
    assert events(layout, "trainer.saved") == events(layout, "trainer.started")
    assert "nightschool has stopped." in output
    assert all(gone(pid) for pid in events(layout, "trainer.started") + events(layout, "intake.started"))


def test_b5_a_second_ctrl_c_kills_at_once(layout: Layout, machine: Start) -> None:
    running = machine(trainer="deaf")
    at_work(layout, running)
    running.signal(signal.SIGINT)
    with Ledger.open(layout.ledger) as ledger:
        wait_until(lambda: ledger.machine.get("state")["word"] == "stopping")
    running.signal(signal.SIGINT)
    code, _ = running.end()
    assert code == 130
    assert all(gone(pid) for pid in events(layout, "trainer.started"))
    assert not events(layout, "trainer.saved")


def test_b5_control_without_the_second_ctrl_c_a_deaf_trainer_is_waited_for(layout: Layout, machine: Start) -> None:
    running = machine(trainer="deaf")
    at_work(layout, running)
    running.signal(signal.SIGINT)
    running.signal(signal.SIGTERM)
    with Ledger.open(layout.ledger) as ledger:
        wait_until(lambda: ledger.machine.get("state")["word"] == "stopping")
    assert running.process.poll() is None
    assert not gone(events(layout, "trainer.started")[0])


def test_b8_b10_children_end_when_the_supervisors_process_group_gets_kill_9(layout: Layout, machine: Start) -> None:
    running = machine()
    at_work(layout, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.end()
    wait_until(lambda: all(gone(pid) for pid in events(layout, "trainer.started") + events(layout, "intake.started")))
    assert events(layout, "trainer.orphaned") == events(layout, "trainer.started")


def test_b9_the_second_supervisor_names_the_first_also_after_kill_9_of_the_first(
    layout: Layout, machine: Start, settings: Settings
) -> None:
    first = machine()
    at_work(layout, first)
    code, output = machine().end()
    assert code == errors.BusyError.exit_code
    assert str(first.pid) in output
    assert first.process.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.end()
    second = machine()
    wait_until(lambda: durable.holder(layout.supervisor_lock) == second.pid)
    code, output = machine().end()
    assert code == errors.BusyError.exit_code
    assert str(second.pid) in output
    assert str(first.pid) not in output
    second.signal(signal.SIGTERM)
    assert second.end()[0] == 0


def test_b9_busy_touches_nothing(layout: Layout, machine: Start, settings: Settings) -> None:
    first = machine()
    at_work(layout, first)
    before = log_text(layout)
    with pytest.raises(errors.BusyError) as caught:
        supervisor.run(layout, settings, True, commands=commands(layout))
    assert caught.value.pid == first.pid
    assert log_text(layout) == before


def test_b8_an_earlier_trainer_that_is_still_saving_is_waited_for(
    layout: Layout, machine: Start, settings: Settings
) -> None:
    with durable.Lock(layout.trainer_lock, "the trainer"):
        running = machine(until_idle=True)
        (layout.inbox / "a.jsonl").write_text("{}\n")
        with Ledger.open(layout.ledger) as ledger:
            wait_until(lambda: (ledger.machine.get("state") or {}).get("word") == "waiting")
            assert str(os.getpid()) in ledger.machine.get("state")["reason"]
        assert not events(layout, "trainer.started")
    assert running.end()[0] == 0
    assert len(events(layout, "trainer.started")) == 1


def test_a12_a_change_of_settings_restarts_the_trainer_only_where_it_must(layout: Layout, machine: Start) -> None:
    running = machine()
    at_work(layout, running)
    layout.settings_file.write_text(TOML + "[checkpoints]\nsave_steps = 7\n")
    wait_until(lambda: "checkpoints.save_steps 1250 → 7 (now)" in log_text(layout))
    layout.settings_file.write_text("[model\n")
    wait_until(lambda: "is not valid TOML" in log_text(layout))
    assert len(events(layout, "trainer.started")) == 1
    assert running.process.poll() is None
    layout.settings_file.write_text(TOML + "[numerics]\nthreads = 1\n")
    wait_until(lambda: events(layout, "trainer.saved"), "it saves and ends")
    (layout.inbox / "b.jsonl").write_text("{}\n")
    wait_until(lambda: len(events(layout, "trainer.started")) == 2, "there is work: it is started again by itself")
    assert layout.accepted_settings.read_text().endswith("threads = 1\n")
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 0
