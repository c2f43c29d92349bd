"""Jobs: one after another, told as they go, and never a traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nightschool.dashboard.endpoints import Changed, NotThere, TooMuch
from nightschool.dashboard.hands import MOST_WAITING, Hands
from nightschool.dashboard.jobs import KEPT, TOLD, Jobs
from nightschool.dashboard.shapes import Job
from nightschool.errors import BusyError

WAIT = 30.0


def over(jobs: Jobs, job: Job) -> Job:
    """The job, when it has ended: it is observed, not asked again and again."""
    ended = threading.Event()
    end = jobs.observe(lambda news: news.id == job.id and news.state in ("done", "failed") and ended.set())
    if jobs.get(job.id).state not in ("done", "failed"):
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
