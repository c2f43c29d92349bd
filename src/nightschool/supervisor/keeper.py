"""Keeps one child process running for as long as it is wanted, as the policies say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nightschool.errors import StorageError
from nightschool.supervisor import policies
from nightschool.supervisor.children import Child, Tended
from nightschool.supervisor.policies import Record, Verdict

WORDS = {
    "restart": "restarting",
    "disk": "waiting for disk",
    "gpu": "waiting for GPU",
    "busy": "waiting",
    "blame": "restarting",
    "fail": "failed",
}


class Keeper(Tended):
    """A child, what is remembered of it, and the trouble it is in.

    Args:
        child: the process.
        say: takes one line for the log.
        clock: monotonic seconds.
        progress: how far the work is, a number that grows; asked only when the child starts or has ended, since what
            was read a moment earlier lacks its last steps.
        blocked: why it cannot be started right now (a predecessor is still alive), or None.
        on_file: whether the child, by its process id, was training on a data file when it ended.
        note: takes what is done about an end that nobody asked for: the verdict and the name of the child.
    """

    def __init__(
        self,
        child: Child,
        say: Callable[[str], None],
        clock: Callable[[], float],
        progress: Callable[[], int],
        blocked: Callable[[], str | None] = lambda: None,
        on_file: Callable[[int], bool] = lambda _: False,
        note: Callable[[Verdict, str], None] = lambda *_: None,
    ) -> None:
        self.child = child
        self.record = Record()
        self.problem: tuple[str, str] | None = None
        self.code = 0
        self.restarts = 0
        """How often it ended by accident and was to be started again."""
        self.blame: str | None = None
        """Why the file that it was at is to be set aside; whoever does that takes it away."""
        self._on_file = on_file
        self._pid = 0
        self._say = say
        self._clock = clock
        self._progress = progress
        self._blocked = blocked
        self._note = note
        self._not_before = 0.0

    @property
    def failed(self) -> bool:
        """Whether it will not be started again until `retry`."""
        return self.problem is not None and self.problem[0] == "failed"

    @property
    def waits_out(self) -> bool:
        """Whether it is not to be started yet, for want of room on a disk or of a GPU that can be used."""
        words = (WORDS["disk"], WORDS["gpu"])
        return self.problem is not None and self.problem[0] in words and self._clock() < self._not_before

    def retry(self) -> None:
        """Forget the trouble: the user says that it is put right."""
        self.problem = None
        self.code = 0
        self._not_before = 0.0
        # Anew, and not what it was: a cut takes steps back.
        self.record = Record(progress=self._progress())

    def give_up(self, why: str, code: int) -> None:
        """Do not start it again until `retry`."""
        self._apply(Verdict("fail", 0.0, why, code, self.record))

    def wait(self, why: str, first: bool) -> None:
        """Say that the disk keeps it from being started; in the log the first time only."""
        self.problem = (WORDS["disk"], why)
        if first:
            self._say(f"The {self.child.name} waits and tries again by itself: {why.rstrip('.')}.")

    def _may_start(self) -> bool:
        return not self.failed and self._clock() >= self._not_before

    def _start(self) -> None:
        blocked = self._blocked()
        if blocked is not None:
            self.problem = ("waiting", blocked)
            return
        # Only growth while this child runs counts as its own.
        self.record = replace(self.record, progress=max(self._progress(), self.record.progress))
        try:
            self._pid = self.child.start()
        except OSError as error:
            # No process, no memory for one, or no room for its output: nothing that this child could have done.
            why = f"the {self.child.name} could not be started: {error.strerror or error}"
            self._apply(policies.after_exit(StorageError.exit_code, False, 0, self.record, why))
            return
        self.problem = None

    def _ended(self, code: int) -> None:
        said = self.child.last_output()
        asked = self.child.asked
        hung, self._hung = self._hung, None
        verdict = policies.after_exit(
            code,
            asked,
            self._progress(),
            self.record,
            said[-1] if said else "",
            on_file=self._on_file(self._pid),
            hung=hung,
        )
        if asked:
            if self.child.killed:
                self._say(f"The {self.child.name} did not stop within {self.child.grace:.0f} seconds and was killed.")
            elif code not in (0, -15):
                self._say(f"The {self.child.name} {policies.describe_exit(code)} while stopping.")
                self._quote(said)
        elif verdict.what in ("restart", "blame", "fail") and code not in (*policies.PERMANENT, policies.FILE):
            self._say(f"The {self.child.name} {hung or policies.describe_exit(code)}.")
            self._quote(said)
        self._apply(verdict)

    def _quote(self, lines: list[str]) -> None:
        if lines:
            self._say(f"The last lines of {self.child.output.name}:")
            for line in lines:
                self._say(f"  | {line}")

    def _apply(self, verdict: Verdict) -> None:
        self.record = verdict.record
        self._not_before = self._clock() + verdict.delay
        if verdict.what == "stopped":
            self.problem = None
            return
        if verdict.what == "blame":
            self.blame = verdict.why
        name, why = self.child.name, verdict.why.rstrip(".")
        self.restarts += verdict.what in ("restart", "blame")
        # Of a row of waits only the first.
        if verdict.what not in ("disk", "gpu", "busy") or verdict.record.waits == 1:
            self._note(verdict, name)
        self.code = verdict.code
        self.problem = (WORDS[verdict.what], f"the {name} {why}" if why.startswith(("ended ", "was ended")) else why)
        if verdict.what == "fail":
            self._say(f"The {name} is not started again: {why}. When this is put right, `nightschool resume` goes on.")
        elif verdict.what == "restart":
            self._say(f"The {name} starts again in {verdict.delay:.0f} s.")
        elif verdict.record.waits == 1:
            self._say(f"The {name} waits and tries again by itself: {why}.")
