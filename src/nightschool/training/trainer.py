"""The trainer process: takes file after file from the ledger, trains, saves, and stops when asked.

It stays resident between files: the base model is loaded once. Everything that another process must know goes through
the ledger; everything that must survive goes through checkpoints.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nightschool import basemodel, curriculum, durable, inforce, leases, logs, room, schedule
from nightschool.errors import (
    CheckpointError,
    FileError,
    StorageError,
    TrainingError,
)
from nightschool.ledger import Ledger, StepRow
from nightschool.record import Record, root_digest
from nightschool.settings import Settings, load_settings
from nightschool.snapshots import serving
from nightschool.training import beginning, determinism, device, memory, model, resume, retention, root
from nightschool.training.data import PreparedFiles
from nightschool.training.holdout import Holdout
from nightschool.training.loop import StepResult
from nightschool.training.orders import Orders, is_over, settle
from nightschool.training.progress import Narrator
from nightschool.training.recorder import Recorder
from nightschool.training.saver import Job, Saver
from nightschool.training.stopping import Stop
from nightschool.training.weights import write_tokenizer
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.training.state import Digests

log = logging.getLogger("nightschool.trainer")

POLL_SECONDS = 0.1
NOT_FINITE_LIMIT = 10
HISTORY = 20
RESET_NOTE = "the optimizer is reset here, as carry_optimizer = false asks"


def train(layout: Layout, lifeline: int | None) -> None:
    """Run until told to stop.

    Raises:
        NightschoolError: something a user must act on.
    """
    stop = Stop()
    stop.listen(lifeline)
    following = inforce.Follower(layout)  # first: what is accepted from here on is not missed
    settings = inforce.read(layout) if lifeline is not None else load_settings(layout.settings_file)
    logs.setup(layout, settings, "trainer")
    layout.require()
    lock = durable.Lock(layout.trainer_lock, "the trainer")
    lock.acquire()
    lease = leases.name_of(settings)
    if lease is not None:
        # Never given back by hand: the GPU's memory is free when this process has ended, and not before.
        leases.Lease(lease, layout.root).acquire()
    with Ledger.open(layout.ledger) as ledger:
        try:
            trainer = Trainer(layout, settings, ledger, lock, stop)
            trainer.following, trainer.lease = following, lease
            memory.keep_what_is()
            try:
                trainer.run()
            finally:
                trainer.close()
        except (RuntimeError, MemoryError) as error:
            explained = memory.explained(error, settings.model.device)
            if explained is None:
                raise
            raise explained from error


class Trainer:
    """One life of the trainer process."""

    lease: str | None = None
    """Name of the lease that it has, for the supervisor."""

    def __init__(self, layout: Layout, settings: Settings, ledger: Ledger, lock: durable.Lock, stop: Stop) -> None:
        self.layout = layout
        self.settings = self.fixed = settings
        self.ledger = ledger
        self.stop = stop
        self.following = inforce.Follower(layout)
        self.narrator = Narrator(log.info)
        self.progress = self.narrator.progress
        self.recorder = Recorder(ledger, self._status)
        self.recorder.tell()

        determinism.configure(settings.numerics)
        accelerator = device.make_accelerator(settings)
        dtype = model.resolve_dtype(settings.model.dtype, settings.training.method, accelerator.device)
        with basemodel.waited_for(begun=ledger.entries.last() is not None):
            folder = basemodel.resolve(settings.model.name, settings.model.revision)
            self.root = root.establish(layout, ledger, settings, folder, dtype)
        self.root_digest = root_digest(self.root)
        start = resume.find_start(layout, ledger, self.root)
        self.generation = start.generation
        device.require(accelerator, settings, start.record)
        self.prepared = PreparedFiles(layout, ledger)
        cell = memory.cell_size(settings.training.micro_batch_size, ledger.machine.get(memory.CELL))
        self.loop = device.make_loop(settings, self.root, accelerator, self.prepared.open, cell)
        self.loop.entries = start.entries
        self.loop.interrupted = stop.is_set
        self.loop.on_split = self._note_split
        for note in (self.loop.head_note, self.loop.leak):
            if note:
                log.warning("%s", note)
        write_tokenizer(layout, self.loop.built.tokenizer)
        # What is not whole, or does not belong, has been moved away.
        whole = {step for step, _ in layout.checkpoints()}
        self.saver = Saver(layout, ledger, lock, self.loop, self.recorder.flush, whole)
        self.asked: str | None = None
        self.saved = 0
        self.saved_at = time.monotonic()
        self.changes: list[dict[str, Any]] = []
        self.history: deque[dict[str, float]] = deque(maxlen=HISTORY)
        self.holdout = Holdout(
            self.loop, ledger, self.prepared.open_holdout, seconds=settings.data.holdout_seconds,
            stopping=stop.is_set,
        )  # fmt: skip
        self.boundary: Digests | None = None
        self.loop.on_entry = self._check_boundary
        self.orders = Orders(self)
        self.not_finite = 0
        self.any_applied = False
        self.new_entry: curriculum.Entry | None = None
        self._take_up(start)

    def _note_split(self, before: int, now: int) -> None:
        """Smaller cells from the step on that is under way: to be recorded with the step, and kept for later starts."""
        changed = determinism.changes({"cell": before}, {"cell": now})
        self.changes.append({"step": self.loop.done, "changes": changed})
        text = (
            f"Out of memory at step {self.loop.done + 1}: from here on {now} instead of {before} sequences go through "
            "the model together, in the same steps. The weights agree with an undisturbed run to rounding, not to the "
            "last bit."
        )
        log.warning("%s", text)
        with self.ledger.transaction():
            asked = self.settings.training.micro_batch_size
            self.ledger.machine.set(memory.CELL, {"asked": asked, "size": now})
            self.ledger.events.add("numerics", text, step=self.loop.done, changes=changed)

    def close(self) -> None:
        """End the threads: a save in flight is finished, whatever ended the training."""
        try:
            self.saver.wait()
        except Exception as error:
            log.error("The last save failed: %s", error)
        finally:
            self.recorder.close()

    def _take_up(self, start: resume.Start) -> None:
        if start.record is None or start.folder is None:
            if self.root.get("adopted"):
                raise CheckpointError(
                    f"This run began with a state that was taken over, and {self.layout.current_model} holds no "
                    "checkpoint: it does not begin again from the bare base model. Go back to the state it began with: "
                    "`nightschool rollback origin`, or put a checkpoint of this run back."
                )
            log.info(
                "Starting from the base model %s (%s).", self.settings.model.name,
                f"{sum(p.numel() for p in self.loop.parameters):,} parameters to train",
            )  # fmt: skip
            return
        found = self.loop.restore(start.folder, start.record)
        self.saved = start.record.step
        self.boundary = found
        serving.update(self.layout, self.ledger, start.record.step, start.folder)
        log.info(
            "Resuming from checkpoint: %s (step %d, %s; optimizer state loaded, %s, equal to what was saved).",
            start.folder, start.record.step, resume.describe(start, self.ledger), resume.folder_bytes(start.folder),
        )  # fmt: skip
        self.ledger.events.add(
            "resumed", f"Resumed from {start.folder.name}.{resume.redone(start)}", step=start.record.step,
            digest=str(found), again=start.again,
        )  # fmt: skip
        self.changes = list(start.record.numerics_changes)
        changed = determinism.changes(start.record.numerics, self.loop.numerics)
        if changed:
            self.changes.append({"step": start.record.step, "changes": changed})
            text = (
                f"From step {start.record.step} on the weights agree with an undisturbed run to rounding, not to the "
                f"last bit, because: {'; '.join(changed)}."
            )
            log.warning("%s", text)
            self.ledger.events.add("numerics", text, step=start.record.step, changes=changed)
        self.progress.step = self.loop.done

    def run(self) -> None:
        """Train until told to stop, then save."""
        self._measure_what_ended()
        while not self.stop.is_set():
            self.saver.check()
            self._follow_settings()
            self._answer()
            self.orders.obey()
            if self.loop.next_place() is not None or self._begin_next():
                self._step()
                continue
            self._save_if_due("nothing more waits", always=True)
            self._phase("waiting")
            self.stop.wait(POLL_SECONDS)
        self._save_if_due("stopping", always=True, last=True)
        if self.loop.built.method == "lora":
            # Where the last state is being written already, nobody else needs to wait for that. What the saver still
            # asks a whole model for, while it writes, is not to be taken from under it.
            self.loop.release()
        self.saver.wait()
        self._phase("stopped")
        self.recorder.flush()
        log.info("Stopped at step %d, because %s.", self.loop.done, self.stop.reason)

    def _follow_settings(self) -> None:
        """Take over what may change while this process lives; a new file begins by them, and saves follow them."""
        settings = self.following.look()
        if settings is not None:
            self.settings = settings
            self.holdout.seconds = settings.data.holdout_seconds

    def _answer(self) -> None:
        """Save if a snapshot is to be taken, and say so once the checkpoint is in place."""
        asked = self.recorder.asked
        if asked in (None, self.progress.save_answered):
            return
        if asked != self.asked:
            self.asked = asked
            self._save_if_due("a snapshot is due", always=True)
        if not self.saver.busy:
            self.progress.save_answered = asked
            self.recorder.tell()

    def _begin_next(self) -> bool:
        """Begin the first file of the queue, with the small ones next to it, if it is ready."""
        if self.ledger.files.next_to_train() is not None and self._lacks_room(self.settings.machine.min_free_gb):
            # What is done has room perhaps. Left unsaved, each try would do it again, and come to the same place.
            self._save_if_due("waiting for room", always=True)
            self.saver.wait()
            self._require_room(self.settings.machine.min_free_gb)
        loop = self.loop
        begun = beginning.begin(
            self.layout, self.ledger, self.settings, self.root, loop.entries, loop.done, self.fixed
        )  # fmt: skip
        if begun is None:
            return False
        loop.entries[:], self.new_entry = begun
        # Before its first step it is measured, and that may hang: this is no time without work.
        self._phase("beginning")
        return True

    def save_now(self, why: str) -> None:
        """Save, unless there is nothing new."""
        self._save_if_due(why, always=True)

    def _step(self) -> None:
        place = self.loop.next_place()
        assert place is not None
        entry = self.loop.entries[place.index]
        if self.progress.phase != "training" or place.local == entry.start:
            # Of a file that was resumed in the middle, the steps before are in the checkpoint.
            self.any_applied = place.local > 0
            name = self.ledger.called(entry.file_ids)
            if place.local == entry.start and entry is not self.new_entry:
                done, again = self.loop.done, "Going on with %s" if entry.start else "Learning %s again"
                log.info(again + ": %d steps (%d to %d).", name, entry.steps, done + 1, done + entry.steps)
            self.narrator.begin(name, entry.length)
            self.progress.entry, self.progress.phase = place.index, "training"
            # Now, and not soon: if this file ends the process, the supervisor must know which it was.
            self.ledger.machine.set("trainer", self._status())
        if place.local == 0 and not self.holdout.before(place.index, entry):
            return
        try:
            result = self.loop.step()
        except memory.UpdateError as error:
            raise memory.update_failed(self.ledger, self.loop.done + 1, self.generation, error) from error
        except RuntimeError as error:
            explained = determinism.advice(error)
            if explained is None:
                raise
            raise explained from error
        if result is None:
            return
        self._note(result, place.local + 1)
        self.any_applied = self.any_applied or result.applied
        over = False
        if result.ends_entry:
            if not self.any_applied and entry.stop == entry.length:
                raise FileError(
                    f"No step on file {self.progress.file} gave a finite loss and gradient, so nothing was learned "
                    "from it and it is not called learned. Look at its rows; the last checkpoint is from before it."
                )
            self.boundary = self.loop.digests()
            over = settle(self.ledger, self.loop.entries, place.index)
        self._save_if_due("", ends=result.ends_entry)
        if over:
            # The save is written meanwhile.
            self.holdout.after(curriculum.first_range(self.loop.entries, place.index), entry)

    def _measure_what_ended(self) -> None:
        """The life before this one may have ended right after the last step on a file."""
        place, entries = self.loop.next_place(), self.loop.entries
        following = len(entries) if place is None else place.index
        if following and (place is None or place.local == entries[following].start):
            before = following - 1
            if is_over(self.ledger, entries, before):
                self.holdout.after(curriculum.first_range(entries, before), entries[before])

    def _check_boundary(self, position: int, entry: curriculum.Entry) -> None:
        """Prove that the first step on this file meets the very bits that the file before it left."""
        if position == 0 or self.boundary is None:
            return
        before, after, note = str(self.boundary), self.loop.digests(), None
        if not entry.settings["carry_optimizer"] and entry.start == 0:
            # The moments are gone because the user asked; the weights must be carried all the same.
            before, after, note = self.boundary.weights, after.weights, RESET_NOTE
        with self.ledger.transaction():
            self.ledger.boundaries.before(position, self.loop.done, before)
            carried = self.ledger.boundaries.after(position, str(after), note)
        if not carried:
            raise TrainingError(
                f"Before the first step on {self.ledger.called(entry.file_ids)} the weights or the optimizer are not "
                "what the file before it left. Training stopped rather than go on from another state; the last "
                "checkpoint is untouched. Please report this with training_output.log."
            )

    def _note(self, result: StepResult, file_step: int) -> None:
        self.recorder.add(
            StepRow(
                step=result.step, entry=result.entry, loss=result.loss, learning_rate=result.learning_rate,
                grad_norm=result.grad_norm, tokens=result.tokens, label_tokens=result.label_tokens,
                seconds=result.seconds, flags="" if result.applied else "not-finite",
            )
        )  # fmt: skip
        self.narrator.note(result, file_step)
        if result.applied:
            self.not_finite = 0
            self.history.append({
                "epoch": 0.0, "grad_norm": result.grad_norm, "learning_rate": result.learning_rate,
                "loss": result.loss, "step": result.step,
            })  # fmt: skip
            return
        self.not_finite += 1
        log.warning("Step %d: the loss or gradient is not finite; its update was not applied.", result.step)
        if self.not_finite >= NOT_FINITE_LIMIT:
            raise FileError(
                f"{NOT_FINITE_LIMIT} steps in a row gave a loss or gradient that is not finite, the last at step "
                f"{result.step} on file {self.progress.file}. None of them was applied, and the last checkpoint is "
                "from before them. Look at the file's rows; or lower training.learning_rate, and put the file back "
                "into the queue with `nightschool queue put-back`."
            )

    def _save_if_due(self, reason: str, *, ends: bool = False, always: bool = False, last: bool = False) -> None:
        if self.loop.done == self.saved or (self.not_finite and not ends):
            # In the middle of a streak of updates that were not applied, the last good state is the one to keep.
            return
        due: str | None = reason
        if not always:
            options = self.settings.checkpoints
            due = retention.save_due(
                done=self.loop.done, saved=self.saved, seconds_since_save=time.monotonic() - self.saved_at,
                save_steps=options.save_steps, save_minutes=options.save_minutes, file_ended=ends,
                more_waits=ends and (
                    self.loop.next_place() is not None or self.ledger.files.next_to_train() is not None
                ),
            )  # fmt: skip
        if due:
            self._save(due, last)

    def _lacks_room(self, min_free_gb: float) -> str | None:
        return room.lacking(self.layout.current_model, self.ledger.checkpoints.newest_bytes(), min_free_gb)

    def _require_room(self, min_free_gb: float) -> None:
        """Raise StorageError where the next checkpoint, and what is to be left free beside it, have no room."""
        why = self._lacks_room(min_free_gb)
        if why is not None:
            raise StorageError(
                f"Training waits for room on the disk of {self.layout.current_model}: {why}. It goes on by itself."
            )

    def _save(self, reason: str, last: bool = False) -> None:
        # One that does not fit is not begun. Where it fits, but little more, it is kept, and then there is a rest. What
        # the last one overtakes is taken away before it is written, and makes room.
        if not (last and self.saver.busy):
            self._require_room(0)
        loop = self.loop
        place = curriculum.place(loop.entries, loop.done - 1)
        assert place is not None
        recipe = loop.entries[place.index].settings
        record = Record(
            step=loop.done,
            generation=self.generation,
            lineage=curriculum.lineage(self.root_digest, loop.entries, loop.done),
            root=self.root,
            curriculum=curriculum.to_record(loop.entries),
            numerics=loop.numerics,
            numerics_changes=list(self.changes),  # a step behind it may add to them while it is written
            digests={},
            file=self.ledger.called(loop.entries[place.index].file_ids),  # that in progress may be the next one
        )
        self.saver.save(
            Job(
                record=record, reason=reason, log_history=list(self.history),
                train_batch_size=loop.cell, base_rate=recipe["learning_rate"],
                rate=schedule.learning_rate(recipe, loop.done, curriculum.schedule_origin(loop.entries, place.index)),
                learned=[row.id for row in self.ledger.files.each("trained")],
                entry_began=curriculum.oldest_open(loop.entries, place.index),
                keep=self.settings.checkpoints.save_total_limit,
            ),
            last,
        )  # fmt: skip
        self.saved = loop.done
        self.saved_at = time.monotonic()
        if not last and self._lacks_room(self.settings.machine.min_free_gb):
            self.saver.wait()
            self._require_room(self.settings.machine.min_free_gb)

    def _phase(self, phase: str) -> None:
        if self.progress.phase != phase:
            self.progress.phase = phase
            if phase == "waiting":
                self.progress.entry = self.progress.file = self.progress.seconds_left = None
            self.recorder.tell()

    def _status(self) -> dict[str, Any]:
        return {**asdict(self.progress), "pid": os.getpid(), "lease": self.lease}
