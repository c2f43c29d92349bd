"""Acts that take a while: one after another, each with what it waits for, and how it ended, for all tabs to see."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from nightschool.dashboard.endpoints import Changed, NotThere
from nightschool.dashboard.hands import Hands
from nightschool.dashboard.shapes import Job
from nightschool.errors import NightschoolError

log = logging.getLogger("nightschool.dashboard")

KEPT = 50
"""Jobs that are remembered; those that have not ended always are."""
TOLD = 50
"""Sentences that are kept of what a job waited for: the last ones."""

Told = Callable[[str], Any]
Act = Callable[[Told], str]
"""Does it, tells what it waits for, and returns how it ended, in sentences."""
Observer = Callable[[Job], Any]


class Jobs:
    """The jobs since the page was started. Works from any thread.

    A job that runs when the page ends is cut short. Every act can be, at any time: the next start finishes it, or
    it never was.
    """

    def __init__(self) -> None:
        self._hands = Hands("jobs")
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._observers: list[Observer] = []

    def start(self, what: str, act: Act) -> Job:
        """Have it done after all that was begun before.

        Args:
            what: it is, for people: "Rollback to checkpoint-20".
            act: does it. A NightschoolError or Changed is told as it stands.

        Raises:
            TooMuch: too many wait.
        """
        job = Job(id=secrets.token_urlsafe(9), what=what, state="waiting", told=[], said=None)
        with self._lock:
            # In one go: the thread may begin before this returns, and its news must not come before this.
            self._hands.submit(lambda: self._run(job.id, act))
            self._jobs[job.id] = job
            self._let_go()
            self._announce(job)
        return job

    def get(self, id: str) -> Job:
        """How a job stands.

        Raises:
            NotThere: it was never begun, or is long over.
        """
        with self._lock:
            job = self._jobs.get(id)
        if job is None:
            raise NotThere("There is no such job any more: the page was started anew since, or many others came after.")
        return job

    def all(self) -> list[Job]:
        """All that are remembered, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have every news of every job told, in order; returns what ends that.

        The observer is called in the job's thread, or in that of `start`. It must neither wait nor raise:
        `loop.call_soon_threadsafe` is what it is for.
        """
        with self._lock:
            self._observers.append(observer)

        def end() -> None:
            with self._lock:
                if observer in self._observers:
                    self._observers.remove(observer)

        return end

    def close(self) -> None:
        """Begin no more; does not wait for the one that runs."""
        self._hands.close()

    def _run(self, id: str, act: Act) -> None:
        self._change(id, state="running")
        try:
            said = act(lambda text: self._tell(id, text))
        except (NightschoolError, Changed, NotThere) as error:
            self._change(id, state="failed", said=str(error))
        except Exception as error:
            log.exception("%s failed.", self.get(id).what)
            text = f"It failed in a way that was not foreseen ({type(error).__name__}); the log says more."
            self._change(id, state="failed", said=text)
        else:
            self._change(id, state="done", said=said)

    def _tell(self, id: str, text: str) -> None:
        with self._lock:
            self._change(id, told=[*self._jobs[id].told, text][-TOLD:])

    def _change(self, id: str, **values: Any) -> None:
        with self._lock:
            # A new one each time: what was handed out does not change under its reader.
            job = self._jobs[id] = msgspec.structs.replace(self._jobs[id], **values)
            self._announce(job)

    def _announce(self, job: Job) -> None:
        for observer in list(self._observers):
            try:
                observer(job)
            except Exception:  # a tab that has gone away is not the job's trouble
                log.debug("A job's news could not be told.", exc_info=True)

    def _let_go(self) -> None:
        over = [id for id, job in self._jobs.items() if job.state in ("done", "failed")]
        for id in over[: max(0, len(self._jobs) - KEPT)]:
            del self._jobs[id]
