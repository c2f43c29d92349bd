"""Whether the trainer may run: each reason by itself, several at once, and the machine that goes by them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from nightschool import pausing, room
from nightschool.ledger import Ledger
from nightschool.settings import Settings, load_settings, parse_settings
from nightschool.supervisor import gate as gate_module
from nightschool.supervisor import others, policies
from nightschool.supervisor import run as supervisor
from nightschool.supervisor.gate import Gate
from nightschool.supervisor.policies import Situation, Work, state_word
from nightschool.supervisor.signals import StopSignals
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, commands, events, log_text, wait_until

NOON = datetime(2026, 11, 25, 12, tzinfo=ZoneInfo("Europe/Helsinki"))


class World:
    """All that a gate looks at, in the test's hand."""

    def __init__(self, layout: Layout, monkeypatch: pytest.MonkeyPatch, **machine: Any) -> None:
        self.now = NOON
        self.clock = 0.0
        self.seen: others.Seen | None = None
        self.free = 10**15
        self.said: list[str] = []
        self.ledger = Ledger.open(layout.ledger)
        monkeypatch.setattr(others, "running", lambda names: self.seen if names else None)
        monkeypatch.setattr(room, "free_bytes", lambda folder: self.free)
        self.gate = Gate(
            parse_settings({"model": {"name": "m"}, "machine": machine}), self.ledger, layout.current_model,
            self.said.append, lambda: self.clock, now=lambda: self.now,
        )  # fmt: skip

    def rest(self, starts: bool = True) -> tuple[str, str] | None:
        self.clock += 3
        self.gate.look(self.ledger.machine.all(), starts=starts)
        return self.gate.rest


@pytest.fixture
def world(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    found = World(layout, monkeypatch, hours="22:00-07:00", yield_to=["steam"], min_free_gb=1)
    yield found
    found.ledger.close()


def test_the_first_of_several_reasons_is_the_one_that_a_person_must_know(world: World) -> None:
    world.free, world.seen = 0, others.Seen("steam", 7)
    world.ledger.machine.set("paused", pausing.row(world.now, None))
    found = [world.rest()]
    world.ledger.machine.set("paused", False)
    found.append(world.rest())
    world.now += timedelta(hours=11)
    found.append(world.rest())
    world.seen, world.clock = None, world.clock + 1
    world.rest()
    world.clock += others.HOLD_SECONDS
    found.append(world.rest())
    world.free = 10**15
    found.append(world.rest())
    assert [rest and rest[0] for rest in found] == ["paused", "outside hours", "paused", "waiting for disk", None]
    assert found[0] == ("paused", "`nightschool resume` goes on")
    assert found[1] == ("outside hours", "training begins at 22:00")
    assert found[2] == ("paused", "steam runs (process 7)")
    assert found[3] is not None
    assert "1 GB must be free" in found[3][1]
    assert world.said[-1] == "Going on: training may run again."


@pytest.mark.parametrize("rest", [("paused", "x"), ("outside hours", "x"), ("waiting for disk", "x")])
def test_a_failure_comes_before_every_reason_to_rest(rest: tuple[str, str]) -> None:
    work = Work(ready=1)
    assert state_word(Situation(work, rest=rest, problem=("failed", "broken"))) == ("failed", "broken")
    assert state_word(Situation(work, rest=rest, problem=("restarting", "y"))) == rest
    assert state_word(Situation(work, rest=rest, trainer_alive=True, phase="training"))[0] == "saving"


def test_a_pause_for_a_time_ends_by_itself_and_does_not_come_back_with_the_clock(world: World) -> None:
    world.now += timedelta(hours=11)
    world.ledger.machine.set("paused", pausing.row(world.now, 5400))
    assert world.rest() == ("paused", "until tomorrow at 00:30; `nightschool resume` goes on at once")
    world.now += timedelta(minutes=90)
    assert world.rest() is None
    world.now -= timedelta(minutes=30)
    assert world.rest() is None
    assert world.ledger.machine.get("paused") is False


def test_a_new_pause_that_comes_while_an_old_one_ends_stands(world: World) -> None:
    world.now += timedelta(hours=11)
    over, new = pausing.row(world.now, 1), pausing.row(world.now, None)
    world.now += timedelta(hours=1)
    world.ledger.machine.set("paused", new)
    world.gate.look({"paused": over})
    assert world.ledger.machine.get("paused") == new


def test_d3_the_hours_follow_the_clock_wherever_it_jumps(world: World) -> None:
    found = []
    for clock in (23, 12, 6, 8, 22):
        world.now = NOON.replace(hour=clock)
        found.append(world.rest() is None)
    assert found == [True, False, True, False, True]


def test_ignore_hours(world: World) -> None:
    assert world.rest() is not None
    world.gate._ignore_hours = True
    assert world.rest() is None


def test_c5_only_a_start_is_held_back_for_want_of_room(world: World) -> None:
    world.now, world.free = NOON.replace(hour=23), room.GB + 499
    assert world.rest() is None, "before the first checkpoint only what is kept free is needed"
    world.ledger.checkpoints.publish(5, 0, "l", "checkpoint-5", 200, 300)
    found = world.rest()
    assert found is not None
    assert found[0] == "waiting for disk"
    assert world.rest(starts=False) is None, "what runs looks by itself before it saves"
    world.free += 1
    assert world.rest() is None


def test_a_disk_that_cannot_be_asked_is_left_to_the_trainer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: object) -> int:
        raise OSError(5, "broken")

    world.now = NOON.replace(hour=23)
    monkeypatch.setattr(gate_module.room, "free_bytes", broken)
    assert world.rest() is None


def test_unloading_is_a_matter_of_minutes_and_0_is_never() -> None:
    assert [policies.unload(seconds, 2) for seconds in (0, 119, 120)] == [False, False, True]
    assert not policies.unload(1e12, 0)


class Running:
    """A machine with stand-ins in a thread, under a clock that the test moves."""

    def __init__(self, layout: Layout, settings: Settings, **options: Any) -> None:
        self.signals = StopSignals()
        self.thread = threading.Thread(
            target=supervisor.run,
            args=(layout, settings),
            kwargs={"commands": commands(layout), "signals": self.signals, "tick_seconds": 0.02, **options},
        )
        self.thread.start()

    def stop(self) -> None:
        self.signals.stop = True
        self.thread.join()


def word(layout: Layout) -> str | None:
    with Ledger.open(layout.ledger) as ledger:
        return (ledger.machine.get("state") or {}).get("word")


def learned(layout: Layout) -> int:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.files.counts()["learned"]


def with_machine(layout: Layout, text: str) -> Settings:
    layout.settings_file.write_text(TOML + "[machine]\n" + text)
    return load_settings(layout.settings_file)


def test_an_idle_trainer_gives_the_gpu_back_and_comes_when_there_is_work(layout: Layout) -> None:
    running = Running(layout, with_machine(layout, "unload_after = 0.005\n"))
    try:
        (layout.inbox / "a.jsonl").write_text("{}\n")
        wait_until(lambda: events(layout, "trainer.saved"), "the idle trainer is asked to end")
        assert learned(layout) == 1
        wait_until(lambda: word(layout) == "idle")
        (layout.inbox / "b.jsonl").write_text("{}\n")
        wait_until(lambda: learned(layout) == 2)
        assert len(events(layout, "trainer.started")) == 2
        assert "the model is unloaded" in log_text(layout)
    finally:
        running.stop()


def test_outside_the_hours_files_are_read_and_nothing_is_trained_until_the_hours_begin(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [NOON]
    monkeypatch.setattr("nightschool.hours.local_now", lambda: now[0])
    monkeypatch.setitem(Gate.__init__.__kwdefaults__, "now", lambda: now[0])
    running = Running(layout, with_machine(layout, 'hours = "22:00-07:00"\n'))
    try:
        (layout.inbox / "a.jsonl").write_text("{}\n")

        def read() -> bool:
            with Ledger.open(layout.ledger) as ledger:
                return ledger.files.counts()["ready"] == 1

        wait_until(read)
        wait_until(lambda: word(layout) == "outside hours")
        assert not events(layout, "trainer.started")
        now[0] = NOON.replace(hour=23)
        wait_until(lambda: learned(layout) == 1)
        now[0] = NOON + timedelta(days=1)
        wait_until(lambda: word(layout) == "outside hours")
        assert events(layout, "trainer.saved") == events(layout, "trainer.started")
    finally:
        running.stop()


def test_control_with_ignore_hours_it_trains_outside_them(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Gate.__init__.__kwdefaults__, "now", lambda: NOON)
    running = Running(layout, with_machine(layout, 'hours = "22:00-07:00"\n'), ignore_hours=True)
    try:
        (layout.inbox / "a.jsonl").write_text("{}\n")
        wait_until(lambda: learned(layout) == 1)
    finally:
        running.stop()
