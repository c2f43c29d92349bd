"""What to do when a child has ended, and which word describes the machine. Pure: inputs in, what and why out."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Literal

from nightschool import errors
from nightschool.words import duration

CRASHES = 5
FILE_CRASHES = 3
"""Ends by accident at the same place in a file after which the file is to blame."""
BLAMED = 2
"""Files that are blamed one after the other, with none learned in between; then it is hardly the files."""
FIRST_DELAY = 1.0
LONGEST_DELAY = 300.0
STORAGE_DELAY = 10.0
LEDGER_DELAY = 2.0
LONGEST_STORAGE_DELAY = 120.0
DEVICE_DELAY = 5.0
BUSY_DELAY = 2.0
LONGEST_BUSY_DELAY = 30.0

PERMANENT = {
    kind.exit_code: kind
    for kind in (
        errors.SettingsError,
        errors.WorkspaceError,
        errors.CheckpointError,
        errors.DataError,
        errors.ModelError,
        errors.VerifyError,
        errors.TrainingError,
    )
}
FILE = errors.FileError.exit_code
STORAGE = errors.StorageError.exit_code
BUSY = errors.BusyError.exit_code
DEVICE = errors.DeviceError.exit_code
INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True)
class Record:
    """What is remembered of a child over its restarts.

    Attributes:
        progress: the furthest it ever got (steps, or files handled); any number that only grows.
        crashes: ends by accident since it last got further.
        waits: ends for want of storage or of a GPU, or because another process held the lock, one after the other.
    """

    progress: int = 0
    crashes: int = 0
    waits: int = 0


@dataclass(frozen=True)
class Verdict:
    """What to do about a child that has ended.

    Attributes:
        what: `stopped` it was asked to; `restart` after `delay`; `disk`, `gpu` wait for room or for the GPU and start
            after `delay`; `busy` wait for another process to let go; `blame` set the file aside that it was at, then
            start it; `fail` never start it again by itself.
        delay: seconds until the next start.
        why: for the log and the status, a clause without a full stop.
        code: exit code of the whole program if this is how it ends.
        record: what to remember.
    """

    what: Literal["stopped", "restart", "disk", "gpu", "busy", "blame", "fail"]
    delay: float
    why: str
    code: int
    record: Record


def backoff(attempt: int, first: float, longest: float) -> float:
    """Seconds to wait before the `attempt`-th try (from 1): doubled each time, up to `longest`."""
    return min(first * 2.0 ** min(attempt - 1, 30), longest)


def describe_exit(returncode: int) -> str:
    """How a process ended, in words: `returncode` is negative for a signal."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hints: dict[int, str] = {
        signal.SIGKILL: ": somebody killed it, or the system was out of memory (see `dmesg`)",
        signal.SIGSEGV: ": a crash in native code",
        signal.SIGABRT: ": native code gave up",
        signal.SIGBUS: ": a file it had mapped was cut short, or the memory is faulty",
    }
    return f"was ended by {name}{hints.get(-returncode, '')}"


def after_exit(
    returncode: int,
    asked: bool,
    progress: int,
    before: Record,
    last_words: str = "",
    *,
    on_file: bool = False,
    hung: str | None = None,
) -> Verdict:
    """Decide what follows the end of a child.

    Args:
        returncode: as of Popen: negative for a signal.
        asked: it had been told to stop.
        progress: how far the machine is now.
        before: what was remembered.
        last_words: last line of its output, shown where it left with a message of its own.
        on_file: it was training on a data file.
        hung: why it was ended, if it was because it made no progress.
    """
    further = progress > before.progress
    record = Record(max(progress, before.progress), 0 if further else before.crashes, 0 if further else before.waits)
    if asked:
        return Verdict("stopped", 0.0, "stopped as asked", 0, replace(record, waits=0))
    if returncode in (STORAGE, DEVICE, BUSY):
        record = replace(record, waits=record.waits + 1)
        if returncode == STORAGE:
            delay = backoff(record.waits, STORAGE_DELAY, LONGEST_STORAGE_DELAY)
            return Verdict("disk", delay, last_words or "the disk is full or cannot be written", STORAGE, record)
        if returncode == DEVICE:
            # Neither the file's fault nor a reason to give up: a game ends, a driver is mended.
            delay = backoff(record.waits, DEVICE_DELAY, LONGEST_DELAY)
            return Verdict("gpu", delay, last_words or "the GPU cannot be used", DEVICE, record)
        delay = backoff(record.waits, BUSY_DELAY, LONGEST_BUSY_DELAY)
        return Verdict("busy", delay, last_words or "another process holds the workspace", BUSY, record)
    if returncode == FILE:
        return Verdict("blame", 0.0, last_words or describe_exit(returncode), FILE, record)
    if returncode in PERMANENT:
        return Verdict("fail", 0.0, last_words or describe_exit(returncode), returncode, record)
    record = replace(record, crashes=record.crashes + 1, waits=0)
    how = hung or describe_exit(returncode)
    if on_file and record.crashes >= FILE_CRASHES:
        why = f"the trainer {how}; that was {record.crashes} times in a row at the same place in it"
        return Verdict("blame", 0.0, why, errors.TrainingError.exit_code, record)
    if record.crashes >= CRASHES:
        why = f"{how}; that was {record.crashes} times in a row without getting any further"
        return Verdict("fail", 0.0, why, errors.TrainingError.exit_code, record)
    delay = backoff(record.crashes, FIRST_DELAY, LONGEST_DELAY)
    why = f"{how} (number {record.crashes} of {CRASHES} without getting any further)"
    return Verdict("restart", delay, why, errors.TrainingError.exit_code, record)


def is_the_file(blamed: int) -> bool:
    """Whether a further file is to be set aside, after so many with none learned in between."""
    return blamed < BLAMED


def hangs(seconds: float, phase: str | None, limit: float) -> str | None:
    """Why a trainer is to be ended that has not got any further for so long, or None.

    Args:
        seconds: since it last said something new of itself.
        phase: what it said it is doing; None before it said anything.
        limit: how long a step may take, in seconds; 0 for ever. Loading a model may take twice that.
    """
    if limit == 0 or phase in ("waiting", "stopped"):
        return None
    if seconds < limit * (1 if phase == "training" else 2):
        return None
    return f"made no progress for {seconds / 60:.0f} minutes while it was {phase or 'starting'}, and was ended"


def holds_up(seconds: float, limit: float) -> str | None:
    """Why a child is to be ended that has kept all others from the ledger for so long, or None.

    Args:
        seconds: for which it has held the ledger without a change by anybody.
        limit: how long it may, in seconds; 0 for ever.
    """
    if limit == 0 or seconds < limit:
        return None
    return f"kept everybody else from the ledger for {duration(seconds)}, in the middle of a change, and was ended"


def stands_still(seconds: float, limit: float) -> str | None:
    """Why a child is to be ended that has neither read nor written anything for so long, or None.

    Args:
        seconds: since it last did.
        limit: how long it may not, in seconds; 0 for ever.
    """
    if limit == 0 or seconds < limit:
        return None
    return f"neither read nor wrote anything for {duration(seconds)}, and was ended"


@dataclass(frozen=True)
class Work:
    """How many files are where.

    Attributes:
        arrived: to be archived.
        archived: to be prepared.
        ready: to be trained on, the rest of those that were skipped too.
        training: being trained on, or trained and not yet in a checkpoint.
        inbox: lying in the inbox, not taken yet.
        finished: learned, rejected, duplicates, set aside, forgotten.
    """

    arrived: int = 0
    archived: int = 0
    ready: int = 0
    training: int = 0
    inbox: int = 0
    finished: int = 0

    @property
    def to_prepare(self) -> int:
        """Files that intake has to look at."""
        return self.arrived + self.archived

    @property
    def to_train(self) -> int:
        """Files that need the trainer now."""
        return self.ready + self.training

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.to_prepare or self.to_train or self.inbox)

    @property
    def handled(self) -> int:
        """Grows with each thing intake does: its measure of progress."""
        return self.archived + 2 * (self.to_train + self.finished)


def work_of(counts: dict[str, int], inbox: int) -> Work:
    """Sum up the ledger's counts by state and the number of files in the inbox."""
    return Work(
        arrived=counts.get("arrived", 0),
        archived=counts.get("archived", 0),
        ready=counts.get("ready", 0) + counts.get("skipped", 0),
        training=counts.get("training", 0) + counts.get("trained", 0),
        inbox=inbox,
        finished=sum(counts.get(state, 0) for state in ("learned", "duplicate", "rejected", "set_aside", "forgotten")),
    )


@dataclass(frozen=True)
class Situation:
    """All that the state word depends on.

    Attributes:
        work: files, by where they are.
        stopping: the user asked it to stop.
        rest: (word, why) of what keeps the trainer from being run: see `gate`.
        trainer_alive: the trainer process runs.
        phase: what the trainer says it is doing; None before it said anything.
        file: name of the file in training.
        problem: (word, why) of a trouble that keeps the machine from working.
        held: what a command is doing for which everything rests.
    """

    work: Work
    stopping: bool = False
    rest: tuple[str, str] | None = None
    trainer_alive: bool = False
    phase: str | None = None
    file: str | None = None
    problem: tuple[str, str] | None = None
    held: str | None = None


def state_word(now: Situation) -> tuple[str, str]:
    """The plain word for what the machine is doing, and why."""
    if now.stopping:
        return "stopping", "asked to stop: the trainer saves a checkpoint first" if now.trainer_alive else "asked to"
    if now.held is not None:
        return "saving" if now.trainer_alive else "paused", f"{now.held} is at work; then it goes on by itself"
    if now.problem and now.problem[0] == "failed":
        return now.problem
    if now.rest is not None:
        if now.trainer_alive:
            return "saving", f"the trainer saves a checkpoint; then: {now.rest[0]}, {now.rest[1]}"
        return now.rest
    if now.problem:
        return now.problem
    if now.work.to_train:
        if not now.trainer_alive or now.phase in (None, "loading"):
            return "starting", "the trainer loads the model"
        return "training", now.file or ""
    if now.work.to_prepare:
        return "preparing", f"{now.work.to_prepare} {'file' if now.work.to_prepare == 1 else 'files'} to read"
    if now.work.inbox:
        return "idle", "waiting until the files in the inbox are complete"
    return "idle", "nothing is left to learn: drop a file in inbox/"


def needs_trainer(work: Work) -> bool:
    """Whether the trainer should be started (it stays while it runs: the model is loaded once).

    It is started while the first file is still being prepared: loading the model takes as long as reading the file.
    """
    return bool(work.to_train or work.to_prepare)
