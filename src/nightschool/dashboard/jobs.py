"""Acts that take a while, each with what it waits for, and how it ended, for all tabs to see.

Those that change something are done one after another. Those that only read stand in nobody's way: they have a thread
of their own, and can be given up.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from nightschool.dashboard.endpoints import Changed, NotThere
from nightschool.dashboard.hands import Hands
from nightschool.dashboard.shapes import Job
from nightschool.errors import BusyError, NightschoolError

log = logging.getLogger("nightschool.dashboard")

KEPT = 50
"""Jobs that are remembered; those that have not ended always are."""
TOLD = 50
"""Sentences that are kept of what a job waited for: the last ones."""
OVER = ("done", "failed", "given up")


class GivenUp(Exception):
    """Nobody wants it any more."""


class Told:
    """What an act is given: called with a sentence, it tells what the act waits for, or is at."""

    def __init__(self, say: Callable[[str], Any], unwanted: threading.Event | None) -> None:
        self._say = say
        self._unwanted = unwanted

    def __call__(self, text: str) -> None:
        """Tell it. Raises GivenUp as of `go_on`."""
        self.go_on()
        self._say(text)

    def go_on(self) -> None:
        """Raise GivenUp if it was given up, which only what reads can be. Cheap: what takes long calls it often."""
        if self._unwanted is not None and self._unwanted.is_set():
            raise GivenUp


Act = Callable[[Told], str]
"""Does it, tells what it waits for, and returns how it ended, in sentences."""
Observer = Callable[[Job], Any]


class Jobs:
    """The jobs since the page was started. Works from any thread.

    A job that runs when the page ends is cut short. Every act can be, at any time: the next start finishes it, or
    it never was.
    """

    def __init__(self) -> None:
        self._changing, self._reading = Hands("jobs"), Hands("reading jobs")
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._begun: dict[str, tuple[Future[Any], threading.Event | None]] = {}
        """Of those that have not ended: its turn, and what gives it up while it runs; None: nothing does."""
        self._observers: list[Observer] = []

    def start(self, what: str, act: Act, *, reads: bool = False) -> Job:
        """Have it done after all of its kind that was begun before.

        Args:
            what: it is, for people: "Rollback to checkpoint-20".
            act: does it. A NightschoolError or Changed is told as it stands.
            reads: it changes nothing, so it runs beside those that do, and can be given up while it runs.

        Raises:
            TooMuch: too many wait.
        """
        job = Job(id=secrets.token_urlsafe(9), what=what, state="waiting", told=[], said=None, can_give_up=True)
        hands, unwanted = (self._reading, threading.Event()) if reads else (self._changing, None)
        with self._lock:
            # In one go: the thread may begin before this returns, and its news must not come before this.
            turn = hands.submit(lambda: self._run(job.id, act, unwanted))
            self._begun[job.id] = turn, unwanted
            self._jobs[job.id] = job
            self._let_go()
            self._announce(job)
        return job

    def give_up(self, id: str) -> Job:
        """Have it not done, or not to its end. One that has ended stays as it ended.

        Raises:
            NotThere: as of `get`.
            BusyError: it runs, and changes something: that is not left half done.
        """
        with self._lock:
            job = self.get(id)
            if job.state in OVER:
                return job
            turn, unwanted = self._begun[id]
            if turn.cancel():
                return self._end(id, "given up", _given_up(job))
            if unwanted is None:
                raise BusyError("It is being done, and is not left half done. Where it can be undone, undo it then.")
            unwanted.set()
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

    def going_on(self) -> list[Job]:
        """Those that have not ended, oldest first."""
        return [job for job in self.all() if job.state not in OVER]

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have every news of every job told, in order; returns what ends that.

        The observer is called in the job's thread, or in that of `start` or `give_up`. It must neither wait nor raise:
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
        """Begin no more, nor what waits; does not wait for what runs."""
        with self._lock:
            for turn, _ in self._begun.values():
                turn.cancel()
        self._changing.close()
        self._reading.close()

    def _run(self, id: str, act: Act, unwanted: threading.Event | None) -> None:
        self._change(id, state="running", can_give_up=unwanted is not None)
        try:
            said = act(Told(lambda text: self._tell(id, text), unwanted))
        except GivenUp:
            self._end(id, "given up", _given_up(self.get(id)))
        except (NightschoolError, Changed, NotThere) as error:
            self._end(id, "failed", str(error))
        except Exception as error:
            log.exception("%s failed.", self.get(id).what)
            text = f"It failed in a way that was not foreseen ({type(error).__name__}); the log says more."
            self._end(id, "failed", text)
        else:
            self._end(id, "done", said)

    def _tell(self, id: str, text: str) -> None:
        with self._lock:
            self._change(id, told=[*self._jobs[id].told, text][-TOLD:])

    def _end(self, id: str, state: str, said: str) -> Job:
        with self._lock:
            del self._begun[id]
            return self._change(id, state=state, said=said, can_give_up=False)

    def _change(self, id: str, **values: Any) -> Job:
        with self._lock:
            # A new one each time: what was handed out does not change under its reader.
            job = self._jobs[id] = msgspec.structs.replace(self._jobs[id], **values)
            self._announce(job)
            return job

    def _announce(self, job: Job) -> None:
        for observer in list(self._observers):
            try:
                observer(job)
            except Exception:  # a tab that has gone away is not the job's trouble
                log.debug("A job's news could not be told.", exc_info=True)

    def _let_go(self) -> None:
        over = [id for id, job in self._jobs.items() if job.state in OVER]
        for id in over[: max(0, len(self._jobs) - KEPT)]:
            del self._jobs[id]


def _given_up(job: Job) -> str:
    return f"{job.what} was given up."
