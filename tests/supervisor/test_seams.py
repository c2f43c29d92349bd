"""Where the supervisor's parts meet: what one of them does must reach the others. Its rounds are called by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nightschool import durable, leases
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.supervisor import policies
from nightschool.supervisor.children import Child, Commands
from nightschool.supervisor.machine import Supervisor
from nightschool.supervisor.policies import Work
from nightschool.supervisor.signals import StopSignals
from nightschool.workspace import Layout

PID = 4711


class Stand(Child):
    """A child without a process: it is alive, or it has ended with a code, as the test says."""

    lives = True
    code: int | None = None

    @property
    def alive(self) -> bool:
        return self.lives

    @property
    def pid(self) -> int | None:
        return PID if self.lives else None

    def start(self) -> int:
        self.lives, self.asked = True, False
        return PID

    def ask_to_stop(self) -> None:
        self.asked = True

    def kill(self) -> None:
        self.killed = True

    def poll(self) -> int | None:
        code, self.code = self.code, None
        if code is not None:
            self.lives = False
        return code


@dataclass
class Round:
    """A supervisor, its trainer, and the clock."""

    supervisor: Supervisor
    trainer: Stand
    now: list[float] = field(default_factory=lambda: [0.0])

    def go(self, minutes: float, work: Work, phase: str = "waiting") -> None:
        """One round at that time."""
        self.now[0] = minutes * 60
        self.supervisor.work = work
        self.supervisor._told = {"phase": phase, "pid": PID}
        self.supervisor._tend()


@pytest.fixture
def round(layout: Layout, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Round]:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    shared = settings.model_copy(update={"machine": settings.machine.model_copy(update={"gpu_lease": "one"})})
    now = [0.0]
    with durable.Lock(layout.supervisor_lock, "a test") as lock, Ledger.open(layout.ledger) as ledger:
        supervisor = Supervisor(
            layout, shared, ledger, lock, Commands(["none"], ["none"]), until_idle=False, ignore_hours=False,
            echo=lambda: None, signals=StopSignals(), clock=lambda: now[0],
        )  # fmt: skip
        trainer = supervisor.trainer.child = Stand("trainer", [], layout.trainer_output, 1.0, lambda: now[0])
        supervisor.intake.child = Stand("intake worker", [], layout.intake_output, 1.0, lambda: now[0])
        yield Round(supervisor, trainer, now)
        supervisor.turns.end()


def test_work_in_between_starts_the_time_without_work_anew(round: Round) -> None:
    round.go(0, Work())
    round.go(29, Work(training=1), "training")
    round.go(60, Work(finished=1))
    assert not round.trainer.asked
    round.go(89, Work(finished=1))
    assert not round.trainer.asked
    round.go(90, Work(finished=1))
    assert round.trainer.asked


def test_a_trainer_that_came_back_has_its_whole_time_without_work_again(round: Round) -> None:
    round.go(0, Work())
    round.go(30, Work())
    assert round.trainer.asked
    round.trainer.code = 0
    round.go(31, Work())
    assert not round.trainer.alive
    round.go(500, Work(ready=1))
    assert round.trainer.alive
    round.go(600, Work(finished=1))
    assert not round.trainer.asked


@pytest.mark.parametrize("code", [policies.DEVICE, policies.STORAGE, policies.BUSY])
def test_f3_a_row_of_waits_is_one_event_and_not_one_for_each_try(round: Round, code: int) -> None:
    for hour in range(8):
        round.trainer.code = code
        round.go(hour * 60, Work(ready=1), "loading")
        round.go(hour * 60 + 59, Work(ready=1), "loading")
        assert round.trainer.alive
    told = [event for event in round.supervisor.ledger.events.since() if event.kind == "accident"]
    assert len(told) == 1


def signs(round: Round) -> list[str]:
    round.supervisor.gate.look({})
    return [str(holder.workspace) for holder in leases.queue("one")]


@pytest.mark.parametrize("code", [policies.DEVICE, policies.STORAGE])
def test_a_trainer_that_waits_out_a_trouble_does_not_keep_others_from_the_gpu(round: Round, code: int) -> None:
    round.trainer.code = code
    round.go(0, Work(ready=1), "loading")
    assert not round.trainer.alive
    assert signs(round) == []
    round.now[0] = 3600.0
    assert len(signs(round)) == 1, "when it is to be tried again it waits like any other"


def test_control_a_trainer_that_found_the_gpu_taken_does_wait_for_it(round: Round) -> None:
    round.trainer.code = policies.BUSY
    round.go(0, Work(ready=1), "loading")
    assert not round.trainer.alive
    assert len(signs(round)) == 1


def test_who_has_nothing_prepared_yet_asks_nobody_for_the_gpu(round: Round, tmp_path: Path) -> None:
    """Reading a large file may take an hour: each turn in it would be two loads of a model for nothing."""
    other = leases.Lease("one", tmp_path / "other")
    other.acquire()
    round.trainer.lives = False
    round.supervisor.work = Work(archived=1)
    assert signs(round) == []
    assert (round.supervisor.gate.rest or ("", ""))[0] == "waiting for GPU", "and loads no model beside another's"
    round.supervisor.work = Work(ready=1)
    assert len(signs(round)) == 1
    round.supervisor.work = Work(archived=1)
    other.release()
    round.now[0] += 1
    assert signs(round) == []
    assert round.supervisor.gate.rest is None, "on a free GPU the model is loaded while the file is read"


def word(round: Round) -> str:
    round.supervisor._say_state()
    return round.supervisor.ledger.machine.get("state", {})["word"]


@pytest.mark.parametrize(
    ("code", "later"),
    [(-9, "restarting"), (policies.DEVICE, "waiting for GPU"), (policies.STORAGE, "waiting for disk")],
)
def test_f3_a_trainer_that_is_lost_without_work_leaves_the_machine_idle(round: Round, code: int, later: str) -> None:
    """Nobody starts it again until there is work, so nobody would ever take such a word back."""
    round.trainer.code = code
    round.go(0, Work(finished=1))
    assert not round.trainer.alive
    assert word(round) == "idle"
    round.supervisor.work = Work(ready=1)
    assert word(round) == later


def test_control_a_trainer_that_failed_is_told_also_without_work(round: Round) -> None:
    for attempt in range(policies.CRASHES):
        round.trainer.code = 1
        round.go(attempt * 10, Work(ready=1), "loading")
        round.go(attempt * 10 + 9, Work(ready=1), "loading")
    round.supervisor.work = Work()
    assert word(round) == "failed"


def test_an_intake_worker_that_is_lost_without_work_leaves_the_machine_idle(round: Round) -> None:
    worker = round.supervisor.intake.child
    assert isinstance(worker, Stand)
    worker.code = -9
    round.go(0, Work(finished=1))
    assert not worker.alive
    assert word(round) == "idle"


def test_a_lease_that_only_the_trainer_could_name_is_given_away_too(
    layout: Layout, round: Round, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service that was started at boot before the GPU's driver asked nvidia-smi in vain, and asks it once."""
    monkeypatch.setattr(leases, "name_of", lambda _: None)
    supervisor = round.supervisor
    auto = supervisor.settings.model_copy(
        update={"machine": supervisor.settings.machine.model_copy(update={"gpu_lease": "auto"})}
    )
    supervisor._apply(auto)
    assert supervisor.lease is None
    leases.Lease("GPU-1", layout.root).acquire()  # as the trainer would
    told = {"pid": PID, "phase": "waiting", "lease": "GPU-1"}
    supervisor.ledger.machine.set("trainer", told)
    supervisor._look()
    assert supervisor.lease == "GPU-1"
    assert supervisor.gate.rest is None
    leases.Waiting("GPU-1", tmp_path / "other").acquire()
    round.now[0] += 1
    supervisor._look()
    assert (supervisor.gate.rest or ("", ""))[0] == "waiting for GPU"


@pytest.mark.parametrize(
    ("lease", "pid", "renewing"), [("auto", PID + 1, False), ("off", PID, False), ("auto", PID, True)]
)
def test_control_a_lease_of_an_earlier_trainer_or_one_that_is_off_counts_for_nothing(
    round: Round, monkeypatch: pytest.MonkeyPatch, lease: str, pid: int, renewing: bool
) -> None:
    monkeypatch.setattr(leases, "name_of", lambda _: None)
    supervisor = round.supervisor
    machine = supervisor.settings.machine.model_copy(update={"gpu_lease": lease})
    supervisor._apply(supervisor.settings.model_copy(update={"machine": machine}))
    supervisor._renewing = renewing
    supervisor.ledger.machine.set("trainer", {"pid": pid, "phase": "waiting", "lease": "GPU-1"})
    supervisor._look()
    assert supervisor.lease is None


def test_the_owner_is_not_called_for_the_turn_of_another_workspace(
    round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[bool] = []
    supervisor = round.supervisor
    monkeypatch.setattr(supervisor.teller, "tick", lambda _word, _reason, turn: turns.append(turn))
    monkeypatch.setattr(supervisor, "_look", lambda: supervisor.gate.look({}))
    round.trainer.lives = False
    supervisor.work = Work(ready=1)
    other = leases.Lease("one", tmp_path / "other")
    other.acquire()
    supervisor.tick()
    other.release()
    round.trainer.lives, round.trainer.code = True, policies.DEVICE
    round.now[0] += 10
    supervisor.tick()
    assert supervisor._state is not None
    assert supervisor._state[0] == "waiting for GPU"
    assert turns == [True, False]
