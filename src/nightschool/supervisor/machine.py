"""One run of the machine: look at inbox and ledger, decide, tend the children, say what it does; round after round."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from nightschool import __version__, durable, leases, logs, room
from nightschool.errors import NightschoolError, StorageError, WorkspaceError
from nightschool.intake import worker
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.snapshots import cut
from nightschool.supervisor import keepers, policies
from nightschool.supervisor.children import Child, Commands
from nightschool.supervisor.gate import Gate
from nightschool.supervisor.holding import Holding
from nightschool.supervisor.inbox import Inbox
from nightschool.supervisor.mending import Mending
from nightschool.supervisor.night import Night
from nightschool.supervisor.others import Yielding
from nightschool.supervisor.policies import Situation, Work
from nightschool.supervisor.reporting import Reporting
from nightschool.supervisor.rounds import Rounds
from nightschool.supervisor.sd_notify import ServiceManager
from nightschool.supervisor.serving_metrics import ServingMetrics
from nightschool.supervisor.settings_file import SettingsFile
from nightschool.supervisor.showing import Showing
from nightschool.supervisor.signals import StopSignals
from nightschool.supervisor.turns import WORD as TURN
from nightschool.supervisor.turns import Turns
from nightschool.supervisor.unloading import Unloading
from nightschool.supervisor.watchdog import Watchdog
from nightschool.telling.teller import Teller
from nightschool.workspace import Layout

LEDGER_SECONDS = 0.5
MISSING_SECONDS = 3.0
ROTATE_SECONDS = 5.0
PRUNE_SECONDS = 60.0
METRICS_SECONDS = 60.0
TRAINER_GRACE = 600.0
INTAKE_GRACE = 20.0

log = logging.getLogger("nightschool.supervisor")


class Supervisor:
    """One run. `run` is the loop, `tick` one round of it."""

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        ledger: Ledger,
        lock: durable.Lock,
        commands: Commands,
        *,
        until_idle: bool,
        ignore_hours: bool,
        echo: Callable[[], None],
        signals: StopSignals,
        clock: Callable[[], float],
        page: tuple[str | None, int | None] = (None, None),
    ) -> None:
        self.layout = layout
        self.settings = settings
        self.ledger = ledger
        self.lock = lock
        self.until_idle = until_idle
        self.echo = echo
        self.signals = signals
        self.clock = clock
        self.error: NightschoolError | None = None
        self.finished = False
        self.held: str | None = None
        self.work: Work | None = None
        self.inbox = Inbox(
            layout.inbox, ledger, settings.inbox.settle_seconds, settings.inbox.rescan_seconds, log.info, clock
        )
        self.rounds = Rounds(layout.ledger)

        def awake() -> float:
            """What others are given time by: it stands still while this process is stopped."""
            return clock() - self.rounds.stopped

        self.trainer = keepers.trainer(layout, ledger, commands.trainer, TRAINER_GRACE, awake)
        self.intake = keepers.intake(layout, ledger, commands.intake, INTAKE_GRACE, awake)
        self.reporting = Reporting(layout, commands.tracker, settings.trackers, log.info, clock)
        self.page = Showing(layout, commands.page, settings.page, log.info, clock, *page)
        self.lease = leases.name_of(settings)
        self.turns = Turns(self.lease, layout.root, clock)
        self.yielding = Yielding(settings.machine.yield_to, clock)
        self.gate = Gate(
            settings.machine.hours, log.info, ignore_hours=ignore_hours, others=(self.yielding.rest, self._no_room),
            turn=self._turn,
        )  # fmt: skip
        self.unloading = Unloading(clock)
        self.night = Night(layout, settings.snapshots, ledger, awake)
        self.metrics = ServingMetrics(layout, lambda: self.trainer.restarts, log.info, self._note_metrics)
        self.mending = Mending(layout, ledger, self.trainer, settings.machine.hang_minutes, awake)
        kept = (self.trainer, self.intake, self.reporting, self.page)
        self.holding = Holding(ledger, kept, settings.machine.hang_minutes, awake)
        self.watchdog = Watchdog(
            self.intake, settings.machine.hang_minutes, awake, lambda: worker.count_hang(ledger)
        )  # fmt: skip
        self.service = ServiceManager(os.environ, clock)
        self.teller = Teller(layout, settings.notify, ledger, clock)
        self.settings_file = SettingsFile(layout, ledger, settings, clock)
        self._renewing = False
        self._state: tuple[str, str] | None = None
        self._since = ""
        self._missing_since: float | None = None
        self._resumed = ledger.machine.get("resumed", 0)
        self._told: dict[str, Any] = {}
        self._storage: str | None = None
        self._storage_tries = 0
        self._next: dict[str, float] = {}

    def _note_metrics(self, address: str | None) -> None:
        with suppress(NightschoolError):
            self.ledger.machine.set("metrics", address)

    @property
    def stopping(self) -> bool:
        """Whether the run is coming to its end."""
        return self.signals.stop or self.finished or self.error is not None

    def run(self, tick_seconds: float) -> int:
        """Tick until the end; returns the exit code or raises what ended the run."""
        log.info(
            "nightschool %s watches %s (process %d). Ctrl-C saves a checkpoint and stops.",
            __version__, self.layout.inbox, os.getpid(),
        )  # fmt: skip
        try:
            self.ledger.machine.set("supervisor", {"pid": os.getpid(), "until_idle": self.until_idle})
            self.ledger.events.add("started", f"nightschool {__version__} started.", pid=os.getpid())
            # If the whole machine was killed while it read a file, that is hardly the file's fault.
            worker.count_restart(self.ledger)
        except StorageError as error:
            self._out_of_storage(error)
        self.metrics.apply(self.settings.metrics)
        try:
            while not self._ended():
                self.tick()
                self.rounds.wait(tick_seconds)
        finally:
            # Only after an error of our own making are they still there; their lifelines would end them as well.
            for child in self._children():
                child.ask_to_stop()
            self.night.end(at_once=self.signals.at_once)
            self.mending.end()
            self.metrics.end()
            self.turns.end()
        return self._farewell()

    def _ended(self) -> bool:
        if self.signals.at_once:
            for child in self._children():
                child.kill()
        return self.stopping and not any(child.alive for child in self._children())

    def _children(self) -> list[Child]:
        return [one.child for one in (self.trainer, self.intake, self.reporting, self.page)]

    def _at_work(self) -> bool:
        return self.trainer.child.alive or self.intake.child.alive

    def tick(self) -> None:
        """Look, decide, act; returns at once. Trouble with the disk is remembered and tried again later."""
        self.holding.look()
        if not self.stopping:
            try:
                if self.rounds.changed() or self._due("ledger", LEDGER_SECONDS) or self.inbox.due():
                    self._guard()
                    self._look()
                    self._missing_since = None
                    self.mending.tick(self._told)
                    # One that has the ledger is seen to by `holding`; and while somebody has it, others wait.
                    self.watchdog.look(self.holding.long or self.holding.has(self.intake.child.pid))
                    self.night.tick(self._told, self.trainer.child.pid)
                    if self._due("prune", PRUNE_SECONDS):
                        self.ledger.events.prune()
            except StorageError as error:
                self._out_of_storage(error)
            except NightschoolError as error:
                self._missing(error)
        self._tend()
        self._decide()
        if not self.stopping and self._due("metrics", METRICS_SECONDS):
            self.metrics.again()
        if self._due("rotate", ROTATE_SECONDS):
            logs.rotate(self.layout.log_file, self.settings.log.max_megabytes, self.settings.log.keep)
        self._say_state()
        # A disk that takes nothing does not take the state either.
        word, reason = ("waiting for disk", self._storage) if self._storage else self._state or ("starting", "")
        self.teller.tick(word, reason, turn=self.gate.rest == (word, reason) and word == TURN)
        self.echo()
        self.service.went_round(self._state, self.stopping)

    def _due(self, what: str, seconds: float) -> bool:
        now = self.clock()
        if now < self._next.get(what, now):
            return False
        self._next[what] = now + seconds
        return True

    def _guard(self) -> None:
        """The workspace is still there, and still ours."""
        self.layout.require()
        if not self.lock.still_held():
            raise WorkspaceError(
                f"{self.layout.supervisor_lock} was removed or replaced while nightschool was running, so another run "
                "may have begun. This one stops; start it again when no other runs."
            )

    def _follow_settings(self) -> None:
        """Take over a change of the settings file."""
        taken = self.settings_file.look()
        if taken is None:
            return
        self._apply(taken.settings)
        if taken.restart and self.trainer.child.alive:
            log.info("The trainer saves, ends and starts again: it reads some of these when it starts.")
            self._renewing = True
        for keeper in (self.trainer, self.intake):
            if keeper.failed:
                keeper.retry()

    def _apply(self, settings: Settings) -> None:
        """Hand settings to every part that goes by some; the children read them by themselves."""
        self.settings = settings
        self.inbox.settle_seconds = settings.inbox.settle_seconds
        self.inbox.rescan_seconds = settings.inbox.rescan_seconds
        self.gate.apply(settings.machine.hours)
        self.yielding.names = settings.machine.yield_to
        self.metrics.apply(settings.metrics)
        self.reporting.apply(settings.trackers)
        self.page.apply(settings.page)
        self._share(leases.name_of(settings))
        self.teller.apply(settings.notify)
        self.night.settings = settings.snapshots
        self.mending.limit = self.holding.limit = self.watchdog.limit = settings.machine.hang_minutes * 60

    def _share(self, lease: str | None) -> None:
        if lease != self.lease:
            self.turns.end()
            self.lease, self.turns = lease, Turns(lease, self.layout.root, self.clock)

    def _look(self) -> None:
        if self.clock() < self._next.get("storage", 0.0):
            return
        self._follow_settings()
        if self.inbox.due():
            self.inbox.look()
        counts = self.ledger.files.counts()
        self.work = policies.work_of(counts, self.inbox.waiting)
        told = self.ledger.machine.all()
        self._told = told.get("trainer") or {}
        child, auto = self.trainer.child, self.settings.machine.gpu_lease == "auto" and not self._renewing
        if self.lease is None and auto and child.alive and self._told.get("pid") == child.pid:
            # Started before the GPU's driver was up, this process could not name it, and the trainer can.
            self._share(self._told.get("lease"))
        self.held = cut.held_for(self.layout, told)
        self.gate.look(told)
        if told.get("resumed", 0) != self._resumed:
            self._resumed = told.get("resumed", 0)
            for keeper in (self.trainer, self.intake):
                keeper.retry()
        if self._storage is not None:
            self.ledger.events.add("disk", f"The disk takes data again; before: {self._storage}")
            log.info("The disk takes data again.")
        self._storage, self._storage_tries = None, 0

    def _tend(self) -> None:
        work = self.work or Work()
        going = not self.stopping and self.held is None
        train, prepare = self.trainer, self.intake
        # Also with nothing but training to do: it makes prepared data again that is gone or no longer current.
        prepare.tend(going and (prepare.child.alive or bool(work.to_prepare or work.to_train)))
        unload = self._unload()  # asked in each round: work in between starts the time without work anew
        wanted = self.gate.rest is None and (policies.needs_trainer(work) or (train.child.alive and not unload))
        train.tend(going and wanted and not self.mending.busy and not self._renewing)
        # Asked to stop, it saves and ends; with the next round it is started as any other.
        self._renewing = self._renewing and train.child.alive
        # At the end it is the last to go: the others' last rows are told too.
        self.reporting.tend(not self.stopping or self._at_work())
        self.page.tend(not self.stopping or self._at_work())

    def _unload(self) -> bool:
        """Whether the trainer has had nothing to do for so long that it gives the GPU back."""
        child = self.trainer.child
        ours = child.alive and self._told.get("pid") == child.pid
        idle = ours and self._told.get("phase") == "waiting" and (self.work or Work()).idle
        return self.unloading.due(idle, self.settings.machine.unload_after)

    def _turn(self, free: bool) -> tuple[str, str] | None:
        """Whether another workspace has the GPU, or is to have it now. `free`: nothing else keeps the trainer."""
        child = self.trainer.child
        ours = self._told if child.alive and self._told.get("pid") == child.pid else {}
        # One that could not take the GPU now is not waited for: others would unload their models for nothing.
        able = not (self.trainer.failed or self.trainer.waits_out)
        work = self.work or Work()
        wants = free and self.held is None and able and policies.needs_trainer(work)
        return self.turns.look(child.alive, ours.get("phase"), ours.get("entry"), wants, bool(work.to_train))

    def _no_room(self) -> tuple[str, str] | None:
        """Why a trainer is not started for want of room on the disk: it could not save what it learns."""
        if self.trainer.child.alive or not policies.needs_trainer(self.work or Work()):
            return None
        try:
            size = self.ledger.checkpoints.newest_bytes()
            why = room.lacking(self.layout.current_model, size, self.settings.machine.min_free_gb)
        except (OSError, StorageError):
            return None  # told by whoever looks at the workspace itself
        return None if why is None else ("waiting for disk", why)

    def _decide(self) -> None:
        """With `until_idle`: is this the end?"""
        if not self.until_idle or self.stopping or self.held or self.night.busy or self.mending.busy:
            return
        if self.work is None or self._storage is not None:
            return
        if self.trainer.failed or (self.intake.failed and not self.work.to_train):
            self.finished = True
        elif self.work.idle:
            log.info("Nothing is left to learn.")
            self.finished = True

    def _problem(self) -> tuple[str, str] | None:
        if self._storage is not None:
            return "waiting for disk", self._storage
        work = self.work or Work()
        # One that has nothing to do is not started again, so that nothing would take its word back.
        if self.trainer.problem is not None and (self.trainer.failed or policies.needs_trainer(work)):
            return self.trainer.problem
        # While there is something to train on, trouble with reading the next files is not what the machine is about.
        if work.to_train and self.gate.rest is None:
            return None
        return self.intake.problem if self.intake.failed or policies.needs_trainer(work) else None

    def _say_state(self) -> None:
        child = self.trainer.child
        ours = self._told if child.alive and self._told.get("pid") == child.pid else {}
        state = policies.state_word(
            Situation(
                work=self.work or Work(),
                stopping=self.stopping,
                rest=self.gate.rest,
                trainer_alive=child.alive,
                phase=ours.get("phase"),
                file=ours.get("file"),
                problem=self._problem(),
                held=self.held,
            )
        )
        self._set_state(*state)

    def _set_state(self, word: str, reason: str) -> None:
        if (word, reason) == self._state or self.clock() < self._next.get("storage", 0.0):
            return
        since = datetime.now(UTC).isoformat(timespec="seconds")
        same = self._state is not None and self._state[0] == word
        if same:
            since = self._since
        try:
            with self.ledger.transaction():
                self.ledger.machine.set("state", {"word": word, "reason": reason, "since": since})
                if not same:
                    self.ledger.events.add("state", f"{word}: {reason}" if reason else word, word=word, reason=reason)
        except StorageError as error:
            self._out_of_storage(error)
            return
        self._since = since
        self._state = (word, reason)

    def _out_of_storage(self, error: StorageError) -> None:
        self._storage_tries += 1
        delay = policies.backoff(self._storage_tries, policies.LEDGER_DELAY, policies.LONGEST_STORAGE_DELAY)
        self._next["storage"] = self.clock() + delay
        if self._storage is None:
            log.info("Waiting for the disk: %s This is tried again by itself.", error)
        self._storage = str(error)

    def _missing(self, error: NightschoolError) -> None:
        """A part of the workspace is gone. Editors replace files, so look again before giving up."""
        if self._missing_since is None:
            self._missing_since = self.clock()
        elif self.clock() - self._missing_since >= MISSING_SECONDS:
            self.error = error
            log.info("Stopping: %s", error)

    def _farewell(self) -> int:
        code, word, reason = 0, "stopped", "stopped as asked"
        failed = next((k for k in (self.trainer, self.intake) if k.failed), None)
        if self.error is not None:
            code, reason = self.error.exit_code, str(self.error)
        elif self.signals.at_once:
            code, reason = policies.INTERRUPTED, "stopped at once by a second Ctrl-C; the last checkpoint stands"
        elif failed is not None and failed.problem is not None:
            code, (word, reason) = failed.code, failed.problem
        elif self.until_idle and not self.signals.stop:
            reason = "nothing was left to learn"
        log.info("nightschool has stopped%s.", "" if code == 0 else f": {reason.rstrip('.')}")
        with suppress(NightschoolError):
            self._next.pop("storage", None)
            self._state = None
            self._set_state(word, reason)
            self.ledger.events.add("stopped", f"nightschool has stopped: {reason}", code=code)
        told = word if code in (0, policies.INTERRUPTED) else "failed"
        self.teller.end(told, reason, at_once=self.signals.at_once)
        self.echo()
        if self.error is not None:
            raise self.error
        return code
