"""Saving: the state is copied between two steps; writing and publishing happen on a thread behind the training.

The order of publication is what makes a checkpoint trustworthy: every file synced, the manifest last, step rows durable
in the ledger, the writer's lock still held, then one rename.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool import durable
from nightschool.errors import BusyError, NightschoolError, StorageError
from nightschool.snapshots import serving
from nightschool.training import checkpoint, model, retention, state
from nightschool.words import in_bytes

if TYPE_CHECKING:
    from nightschool.ledger import Ledger
    from nightschool.record import Record
    from nightschool.training.loop import Loop
    from nightschool.workspace import Layout

log = logging.getLogger("nightschool.saver")


class _Overtaken(Exception):
    """A later save holds all of this one, and waits for it."""


@dataclass(frozen=True)
class Job:
    """One save: the record without digests, and what goes with it. `rate` is the learning rate of the next step."""

    record: Record
    reason: str
    log_history: list[dict[str, float]]
    train_batch_size: int
    base_rate: float
    rate: float
    learned: Sequence[int]
    entry_began: int
    keep: int


class Saver:
    """Writes checkpoints, one at a time.

    Args:
        rows_durable: returns when every step row so far is durable in the ledger.
        whole: steps of the checkpoints that retention may count; kept up to date here.
    """

    def __init__(
        self, layout: Layout, ledger: Ledger, lock: durable.Lock, loop: Loop, rows_durable: Callable[[], None],
        whole: set[int],
    ) -> None:  # fmt: skip
        self._layout = layout
        self._ledger = ledger
        self._lock = lock
        self._loop = loop
        self._rows_durable = rows_durable
        self._whole = whole
        self._buffer = state.HostBuffer()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._overtaken = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, job: Job, last: bool = False) -> float:
        """Begin a save; returns the seconds for which training stood still.

        Waits for the save before it, whose memory it uses again. With `last`, nothing is trained any more: the device
        is given back as soon as the state is copied, before any of it is written. A save that is still in flight then
        is given up where it has not come to its sealing: nobody waits for two when the second holds all of the first.

        That one may also have failed: the last is tried all the same.

        Raises:
            NightschoolError: the save before this one failed, and this is not the last.
        """
        began = time.perf_counter()
        if last and self.busy and self._loop.built.method == "lora":
            # An adapter is small enough for memory of its own, so that nobody waits for the disk to get the GPU.
            self._buffer = state.HostBuffer()
            host = self._capture(last)
            self._outlast()
        else:
            if last:
                self._outlast()
            else:
                self.wait()
            host = self._capture(last)
        self._overtaken.clear()
        stalled = time.perf_counter() - began
        self._thread = threading.Thread(target=self._guarded, args=(job, host, stalled), name="saver", daemon=True)
        self._thread.start()
        return stalled

    def _outlast(self) -> None:
        """Give up the save before the last one. What it met is said, and raised by the last one if it meets it too."""
        self._overtaken.set()
        try:
            self.wait()
        except Exception as error:
            log.warning("%s That was the save before the last one, which is tried all the same.", error)

    def _capture(self, last: bool) -> state.HostState:
        host = self._buffer.capture(self._loop.weights, self._loop.optimizer)
        if last:
            self._loop.release()
        return host

    def wait(self) -> None:
        """Return when no save is in flight; raises what the last one met."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what a finished save met."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _guarded(self, job: Job, host: state.HostState, stalled: float) -> None:
        try:
            self._write(job, host, stalled)
        except _Overtaken:
            log.info("The save of step %d was given up: a later one takes its place.", job.record.step)
        except BaseException as error:  # raised in the training thread by check() or wait()
            self._error = error

    def _write(self, job: Job, host: state.HostState, stalled: float) -> None:
        began = time.perf_counter()
        step = job.record.step
        found = state.digests(host.weights, host.optimizer)
        record = replace(job.record, digests={"weights": found.weights, "optimizer": found.optimizer})
        staged = durable.staging(self._layout.current_model, str(step))
        try:
            self._go_on()
            model.write_model(self._loop.built.model, self._loop.built.method, host.weights, staged)
            self._go_on()
            weights_bytes = _size(staged)
            checkpoint.write_contents(
                staged, record, host, log_history=job.log_history, train_batch_size=job.train_batch_size,
                base_rate=job.base_rate, rate=job.rate,
            )  # fmt: skip
            self._go_on()
            durable.seal(staged)
            self._rows_durable()
            if not self._lock.still_held():
                raise BusyError(
                    f"{self._layout.trainer_lock} is no longer held by this trainer, so checkpoint-{step} was not "
                    "published: another process may have taken the workspace over. Start again with `nightschool run`."
                )
            final = self._layout.checkpoint(step)
            durable.publish(staged, final)
        except BaseException as error:
            refused = None if isinstance(error, _Overtaken) else _refused(error, staged)
            with suppress(OSError, NightschoolError):
                durable.remove_tree(staged)
            if refused is not None:
                raise refused from error
            raise
        self._whole.add(step)
        seconds = time.perf_counter() - began
        optimizer_bytes = (final / checkpoint.OPTIMIZER).stat().st_size
        with self._ledger.transaction():
            self._ledger.checkpoints.publish(
                step=step, generation=record.generation, lineage=record.lineage, path=final.name,
                bytes_adapter=weights_bytes, bytes_optimizer=optimizer_bytes, seconds=seconds, stalled_seconds=stalled,
            )  # fmt: skip
            self._ledger.events.add("saved", f"Saved {final.name} ({job.reason}).", step=step, seconds=seconds)
            # Without those that a save just before this one had too.
            learned = [row for row in map(self._ledger.files.get, job.learned) if row.state != "learned"]
            self._ledger.files.learned([row.id for row in learned])
            for row in learned:
                self._ledger.events.add("file-learned", f"Learned {row.name}.", file=row.id, name=row.name, step=step)
        serving.update(self._layout, self._ledger, step, final)
        self._retire(job)
        log.info(
            "Saved %s (%s): weights %s, optimizer %s, %.1f s in the background, training stood still %.0f ms.",
            final.name, job.reason, in_bytes(weights_bytes), in_bytes(optimizer_bytes), seconds, stalled * 1000,
        )  # fmt: skip

    def _go_on(self) -> None:
        if self._overtaken.is_set():
            raise _Overtaken

    def _retire(self, job: Job) -> None:
        for step, reason in retention.retire(list(self._whole), job.keep, job.entry_began).items():
            durable.remove_tree(self._layout.checkpoint(step))
            self._whole.discard(step)
            self._ledger.checkpoints.retire(step, reason)


def _refused(error: BaseException, staged: Path) -> StorageError | None:
    """The error to raise where it was the disk that failed a save.

    torch and safetensors report a full disk as errors of their own kind, without the system's number: so the disk is
    asked, by writing a little more to it.
    """
    if isinstance(error, NightschoolError):
        return None
    cause = error if isinstance(error, OSError) else None
    if cause is None and isinstance(error, Exception):
        try:
            (staged / "probe").write_bytes(bytes(1 << 20))
        except OSError as found:
            cause = found
    if cause is None:
        return None
    return StorageError(
        f"A checkpoint could not be written to {staged.parent}: {cause.strerror or cause}. The one before it stands. "
        "Make room, or lower checkpoints.save_total_limit; saving is tried again by itself.",
        cause.errno,
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
