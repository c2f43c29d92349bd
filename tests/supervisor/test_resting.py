"""The machine while its trainer rests: paused, outside the hours, without work, or without room on the disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nightschool import pausing, room
from nightschool.settings import Settings
from nightschool.supervisor import run as supervisor
from nightschool.workspace import Layout
from tests.supervisor.fakes import Start, commands, drop, events, state, states, tell, wait_until, word_is


def test_a_pause_for_a_time_ends_by_itself(layout: Layout, background: Start) -> None:
    tell(layout, paused=pausing.row_for(3600, datetime.now(UTC)))
    background()
    drop(layout, "a.jsonl")
    wait_until(word_is(layout, "paused"))
    assert "nightschool resume` goes on earlier" in state(layout)["reason"]
    tell(layout, paused=pausing.row_for(1, datetime.now(UTC)))
    wait_until(lambda: states(layout) == {"learned": 1})


def outside(settings: Settings) -> Settings:
    """With hours that begin two hours from now."""
    begin = datetime.now() + timedelta(hours=2)
    hours = f"{begin:%H:00}-{begin + timedelta(hours=1):%H:00}"
    return settings.model_copy(update={"machine": settings.machine.model_copy(update={"hours": hours})})


def test_outside_the_hours_files_are_read_and_nothing_is_trained(
    layout: Layout, settings: Settings, background: Start
) -> None:
    machine = background(settings=outside(settings))
    drop(layout, "a.jsonl")
    wait_until(lambda: states(layout) == {"ready": 1})
    wait_until(word_is(layout, "outside hours"))
    assert "training begins" in state(layout)["reason"]
    assert events(layout, "trainer.started") == []
    assert machine.stop() == 0


def test_control_who_ignores_the_hours_trains(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    assert supervisor.run(
        layout, outside(settings), True, commands=commands(layout), tick_seconds=0.02, ignore_hours=True
    ) == 0  # fmt: skip
    assert states(layout) == {"learned": 1}


def test_an_idle_trainer_gives_the_gpu_back_and_comes_again_with_work(
    layout: Layout, settings: Settings, background: Start
) -> None:
    quick = settings.model_copy(update={"machine": settings.machine.model_copy(update={"unload_after": 0.01})})
    background(settings=quick)
    drop(layout, "a.jsonl")
    wait_until(lambda: states(layout) == {"learned": 1})
    wait_until(lambda: events(layout, "trainer.saved") == events(layout, "trainer.started"))
    wait_until(word_is(layout, "idle"))
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout) == {"learned": 2})
    assert len(events(layout, "trainer.started")) == 2


def test_c5_without_room_for_a_checkpoint_no_trainer_is_started_until_there_is(
    layout: Layout, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10]
    monkeypatch.setattr(room, "free_bytes", lambda _: free[0])
    background()
    drop(layout, "a.jsonl")
    wait_until(word_is(layout, "waiting for disk"))
    assert "machine.min_free_gb" in state(layout)["reason"]
    assert events(layout, "trainer.started") == []
    free[0] = 10**12
    wait_until(lambda: states(layout) == {"learned": 1})
