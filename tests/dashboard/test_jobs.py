"""Jobs: what changes something one after another, told as they go, given up, and never a traceback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nightschool.dashboard.endpoints import Changed, NotThere, TooMuch
from nightschool.dashboard.hands import MOST_WAITING, Hands
from nightschool.dashboard.jobs import KEPT, OVER, TOLD, Jobs, Told
from nightschool.dashboard.shapes import Job
from nightschool.errors import BusyError

WAIT = 30.0


def over(jobs: Jobs, job: Job) -> Job:
    """The job, when it has ended: it is observed, not asked again and again."""
    ended = threading.Event()
    end = jobs.observe(lambda news: news.id == job.id and news.state in OVER and ended.set())
    if jobs.get(job.id).state not in OVER:
        assert ended.wait(WAIT)
    end()
    return jobs.get(job.id)


class Gate:
    """A job that waits until it is let through."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, told: Callable[[str], None]) -> str:
        told("At the gate.")
        self.reached.set()
        assert self.open.wait(WAIT)
        return "Through."


def test_one_after_another_in_the_order_they_came() -> None:
    jobs, gate, done = Jobs(), Gate(), list[str]()
    first = jobs.start("first", gate)
    others = [jobs.start(name, lambda _, name=name: done.append(name) or name) for name in "abc"]
    assert gate.reached.wait(WAIT)
    assert [jobs.get(job.id).state for job in (first, *others)] == ["running", "waiting", "waiting", "waiting"]
    assert jobs.get(first.id).told == ["At the gate."]
    assert not done  # none ran beside it
    gate.open.set()
    assert over(jobs, others[-1]).said == "c"
    assert done == ["a", "b", "c"]
    assert jobs.get(first.id).said == "Through."


def test_what_only_reads_stands_in_nobodys_way_and_two_that_change_are_never_done_at_once() -> None:
    jobs, reading, changing = Jobs(), Gate(), Gate()
    reader = jobs.start("reads", reading, reads=True)
    first, second = jobs.start("changes", changing), jobs.start("changes too", lambda _: "Done.")
    for gate in (reading, changing):
        assert gate.reached.wait(WAIT)
    # Both are at their gates: beside the reader one that changes something runs, and the next waits for that one.
    assert [jobs.get(job.id).state for job in (reader, first, second)] == ["running", "running", "waiting"]
    changing.open.set()
    assert over(jobs, second).state == "done"
    assert jobs.going_on() == [jobs.get(reader.id)]
    reading.open.set()
    assert over(jobs, reader).said == "Through."


def test_what_was_given_up_before_its_turn_takes_nobodys_place() -> None:
    jobs, gate = Jobs(), Gate()
    jobs.start("first", gate)
    assert gate.reached.wait(WAIT)
    waiting = [jobs.start("waits", lambda _: "Done.") for _ in range(MOST_WAITING - 1)]
    with pytest.raises(TooMuch):
        jobs.start("too much", lambda _: "Done.")
    for job in waiting:
        jobs.give_up(job.id)
    last = jobs.start("last", lambda _: "Done.")
    gate.open.set()
    assert over(jobs, last).state == "done"


def test_what_waits_when_the_page_ends_is_not_begun() -> None:
    jobs, gate, done = Jobs(), Gate(), list[str]()
    first = jobs.start("first", gate)
    assert gate.reached.wait(WAIT)
    jobs.start("second", lambda _: done.append("second") or "Done.")
    jobs.close()
    gate.open.set()
    assert over(jobs, first).state == "done"
    jobs._changing._thread.join(WAIT)  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
    assert done == []


class Reads:
    """A job that reads for ever, and asks whether it shall go on."""

    def __init__(self, tells: bool = False) -> None:
        self.reached, self.tells, self.left = threading.Event(), tells, False

    def __call__(self, told: Told) -> str:
        end = time.monotonic() + WAIT
        try:
            while time.monotonic() < end:
                self.reached.set()
                told("More.") if self.tells else told.go_on()
        finally:
            self.left = True
        return "It was never ended."


@pytest.mark.parametrize("tells", [False, True])
def test_what_reads_is_given_up_while_it_runs(tells: bool) -> None:
    jobs, act = Jobs(), Reads(tells)
    job = jobs.start("Reading it", act, reads=True)
    assert act.reached.wait(WAIT)
    assert jobs.get(job.id).can_give_up
    jobs.give_up(job.id)
    ended = over(jobs, job)
    assert (ended.state, ended.said, ended.can_give_up) == ("given up", "Reading it was given up.", False)
    assert act.left
    assert jobs.give_up(job.id) == ended  # twice is no more than once
    assert over(jobs, jobs.start("next", lambda _: "Done.", reads=True)).state == "done"


def test_what_changes_something_is_given_up_only_before_it_begins() -> None:
    jobs, gate, done = Jobs(), Gate(), list[str]()
    running = jobs.start("first", gate)
    waiting = jobs.start("second", lambda _: done.append("x") or "Done.")
    assert gate.reached.wait(WAIT)
    assert not jobs.get(running.id).can_give_up
    with pytest.raises(BusyError, match="half done"):
        jobs.give_up(running.id)
    assert jobs.get(waiting.id).can_give_up
    assert jobs.give_up(waiting.id).said == "second was given up."
    gate.open.set()
    assert over(jobs, running).said == "Through."
    assert over(jobs, jobs.start("third", lambda _: "Done.")).state == "done"
    assert done == []


def test_a_change_that_has_just_begun_is_not_given_up_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread has taken it, and has not said so yet: for all others it still waits."""
    jobs, reached, go_on = Jobs(), threading.Event(), threading.Event()
    real = Jobs._change

    def late(self: Jobs, id: str, **values: Any) -> Job:
        if values.get("state") == "running":
            reached.set()
            assert go_on.wait(WAIT)
        return real(self, id, **values)

    monkeypatch.setattr(Jobs, "_change", late)
    job = jobs.start("x", lambda told: told("It goes on.") or "Done.")
    assert reached.wait(WAIT)
    with pytest.raises(BusyError):
        jobs.give_up(job.id)
    go_on.set()
    assert over(jobs, job).state == "done"


def test_every_news_is_told_in_order_to_all_who_observe() -> None:
    jobs, news, other = Jobs(), list[tuple[str, int]](), list[str]()
    jobs.observe(lambda job: news.append((job.state, len(job.told))))
    end = jobs.observe(lambda job: other.append(job.state))

    def act(told: Callable[[str], None]) -> str:
        told("One.")
        told("Two.")
        return "Done."

    over(jobs, jobs.start("x", act))
    assert news == [("waiting", 0), ("running", 0), ("running", 1), ("running", 2), ("done", 2)]
    end()
    over(jobs, jobs.start("y", act))
    assert len(other) == 5
    assert len(news) == 10


def test_an_observer_that_fails_stops_neither_the_job_nor_the_others() -> None:
    jobs, news = Jobs(), list[str]()

    def broken(job: Job) -> None:
        raise RuntimeError("the tab is gone")

    jobs.observe(broken)
    jobs.observe(lambda job: news.append(job.state))
    assert over(jobs, jobs.start("x", lambda _: "Done.")).state == "done"
    assert news == ["waiting", "running", "done"]


def test_what_was_handed_out_does_not_change() -> None:
    jobs, gate = Jobs(), Gate()
    job = jobs.start("x", gate)
    assert gate.reached.wait(WAIT)
    running = jobs.get(job.id)
    gate.open.set()
    over(jobs, job)
    assert (job.state, running.state, running.said) == ("waiting", "running", None)


@pytest.mark.parametrize("error", [BusyError("Somebody else is at it."), Changed("Look again."), NotThere("Gone.")])
def test_a_failure_is_its_sentence_and_the_next_job_runs(error: Exception) -> None:
    jobs = Jobs()

    def fails(_: object) -> str:
        raise error

    assert over(jobs, jobs.start("x", fails)).said == str(error)
    assert over(jobs, jobs.start("y", lambda _: "Done.")).state == "done"


def test_an_accident_of_ours_is_a_sentence_too_and_the_log_has_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs()
    ended = over(jobs, jobs.start("The deed", lambda _: str(1 / 0)))
    assert ended.state == "failed"
    assert ended.said is not None
    assert "ZeroDivisionError" in ended.said
    assert "division by" not in ended.said
    assert "The deed failed" in caplog.text
    assert "division by zero" in caplog.text


def test_so_many_are_kept_and_none_that_has_not_ended() -> None:
    jobs, gate = Jobs(), Gate()
    done = [over(jobs, jobs.start(str(number), lambda _: "Done.")) for number in range(KEPT + 10)]
    assert jobs.all() == done[-KEPT:]
    blocked = jobs.start("gate", gate)
    waiting = [jobs.start("waits", lambda _: "Done.") for _ in range(MOST_WAITING - 1)]
    with pytest.raises(TooMuch) as refused:
        jobs.start("one too many", lambda _: "Done.")
    assert refused.value.status == 429
    assert {job.id for job in (blocked, *waiting)} <= {job.id for job in jobs.all()}
    gate.open.set()
    over(jobs, waiting[-1])
    assert jobs.start("room again", lambda _: "Done.").state == "waiting"


def test_of_what_is_told_the_last_is_kept() -> None:
    jobs = Jobs()

    def talks(told: Callable[[str], None]) -> str:
        for number in range(TOLD + 5):
            told(str(number))
        return "Done."

    assert over(jobs, jobs.start("x", talks)).told == [str(number) for number in range(5, TOLD + 5)]


def test_a_job_does_not_hold_up_the_end_of_the_process() -> None:
    hands = Hands("test")
    name = hands.submit(lambda: (threading.current_thread().name, threading.current_thread().daemon)).result(WAIT)
    assert name == ("test", True)
    assert threading.current_thread().name != "test"
