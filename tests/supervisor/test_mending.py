"""A trainer that hangs is ended; a file that training cannot get past is set aside, but not one after the other."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightschool.errors import BusyError, FileError, NightschoolError, StorageError, TrainingError
from nightschool.ledger import Ledger
from nightschool.snapshots import acts
from nightschool.supervisor import mending as mending_module
from nightschool.supervisor import policies
from nightschool.supervisor.mending import Mending
from nightschool.workspace import Layout
from tests.training import rig
from tests.training.test_not_finite import nan_at

SIZES = {"a": 9, "b": 50, "c": 7}
"""3, 13 and 2 steps."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


def make(root: Path, base: Path, names: str, **changes: Any) -> Layout:
    layout = rig.workspace(root, base, checkpoints={"save_steps": 2}, **changes)
    for name in names:
        rig.add(layout, name, rig.sequences(SIZES[name], ord(name)))
    return layout


class Trainer:
    """What `Mending` needs of a keeper."""

    def __init__(self) -> None:
        self.blame: str | None = None
        self.gave_up: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self.waits: list[tuple[str, bool]] = []
        self.child = SimpleNamespace(pid=77, alive=True, asked=False)

    def give_up(self, why: str, code: int) -> None:
        self.gave_up.append((why, code))

    def end(self, why: str) -> None:
        self.ended.append(why)

    def wait(self, why: str, first: bool) -> None:
        self.waits.append((why, first))


def mend(layout: Layout, ledger: Ledger, trainer: Trainer, mending: Mending | None = None) -> Mending:
    """Tick until nothing is left to do."""
    mending = mending or Mending(layout, ledger, trainer, 0, time.monotonic)  # type: ignore[arg-type]
    mending.ledger = ledger
    while True:
        mending.tick({})
        if not mending.busy:
            return mending
        time.sleep(0.01)


def test_f2_a_file_with_ten_nan_in_a_row_is_set_aside_and_nothing_of_it_stays(base: Path, tmp_path: Path) -> None:
    layout, other = make(tmp_path / "ws", base, "abc"), make(tmp_path / "other", base, "ac")
    with pytest.raises(FileError):
        rig.run(layout, on_start=nan_at(set(range(5, 16))))
    trainer = Trainer()
    trainer.blame = "10 steps in a row gave a loss that is not finite"
    with Ledger.open(layout.ledger) as ledger:
        mend(layout, ledger, trainer)
        row = ledger.files.get(2)
        assert [event.fields["set_aside"] for event in ledger.events.of_kind("cut")] == [[2]]
    assert (row.state, row.reason) == ("set_aside", "10 steps in a row gave a loss that is not finite")
    assert trainer.blame is None
    assert trainer.gave_up == []
    rig.run(layout)
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)
    assert rig.states(layout) == {"a": "learned", "b": "set_aside", "c": "learned"}


def test_b7_of_files_that_were_gathered_only_the_guilty_one_is_set_aside(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "ws", base, "abc", inbox={"gather_rows": 10})
    with pytest.raises(FileError):
        rig.run(layout, on_start=nan_at(set(range(3, 16))))
    trainer = Trainer()
    trainer.blame = "nothing but nan"
    with Ledger.open(layout.ledger) as ledger:
        mending = mend(layout, ledger, trainer)
        assert [(row.name, row.state, row.options) for row in ledger.files.queue()] == [
            (name, "archived", {"alone": True}) for name in "abc"
        ]
        assert [event.fields["set_aside"] for event in ledger.events.of_kind("cut")] == [[]]
        for id in (1, 2, 3):
            ledger.files.set_state(id, "ready")
    with pytest.raises(FileError):
        rig.run(layout, on_start=nan_at(set(range(5, 16))))
    trainer.blame = "nothing but nan"
    with Ledger.open(layout.ledger) as ledger:
        mend(layout, ledger, trainer, mending)
        assert [entry.file_ids for entry in ledger.entries.all()] == [(1,)]
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "set_aside", "c": "learned"}


def test_b7_control_one_file_after_the_other_is_not_the_files_fault(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "ws", base, "b")
    for seed in range(3):
        rig.add(layout, f"more{seed}", rig.sequences(50, seed))
    trainer, mending = Trainer(), None
    for turn in range(policies.BLAMED + 1):
        with pytest.raises(FileError):
            rig.run(layout, on_start=nan_at(set(range(2, 16))))
        trainer.blame = "nothing but nan"
        with Ledger.open(layout.ledger) as ledger:
            mending = mend(layout, ledger, trainer, mending)
        assert len(trainer.gave_up) == (turn == policies.BLAMED)
    assert list(rig.states(layout).values()).count("set_aside") == policies.BLAMED
    why, code = trainer.gave_up[0]
    assert code == TrainingError.exit_code
    assert "2 files were set aside for such a thing already" in why


def test_a_file_learned_in_between_clears_the_machine(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "ws", base, "ab")
    trainer = Trainer()
    with Ledger.open(layout.ledger) as ledger:
        mending = Mending(layout, ledger, trainer, 0, time.monotonic)  # type: ignore[arg-type]
        mending._blamed, mending._learned = policies.BLAMED, 0
        ledger.files.set_state(1, "learned")
        mending._blame("it ended")
        assert mending._blamed == 0
        assert trainer.gave_up == [("it ended", TrainingError.exit_code)], "nothing was in training"


def test_what_cannot_be_set_aside_is_said(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make(tmp_path / "ws", base, "ab")
    with pytest.raises(FileError):
        rig.run(layout, on_start=nan_at(set(range(5, 16))))
    trainer = Trainer()
    trainer.blame = "nan"

    def fails(*_: object) -> None:
        raise TrainingError("no")

    monkeypatch.setattr(acts, "set_aside", fails)
    with Ledger.open(layout.ledger) as ledger:
        mend(layout, ledger, trainer)
    assert trainer.gave_up == [("the file it was at could not be set aside: no", TrainingError.exit_code)]


def refusing(monkeypatch: pytest.MonkeyPatch, *errors: NightschoolError, after: bool = False) -> list[list[int]]:
    """The first tries to set a file aside fail so, `after` it was done or before; which files each try was to take."""
    tries: list[list[int]] = []
    real = acts.set_aside

    def fails(layout: Layout, files: list[int], *rest: Any) -> Any:
        tries.append(files)
        plan = real(layout, files, *rest) if after or len(tries) > len(errors) else None
        if len(tries) <= len(errors):
            raise errors[len(tries) - 1]
        return plan

    monkeypatch.setattr(acts, "set_aside", fails)
    return tries


def stopped_in_b(root: Path, base: Path) -> tuple[Layout, Trainer]:
    layout = make(root, base, "abc")
    with pytest.raises(FileError):
        rig.run(layout, on_start=nan_at(set(range(5, 16))))
    trainer = Trainer()
    trainer.blame = "nothing but nan"
    return layout, trainer


FULL = StorageError("The disk is full.", errno.ENOSPC)
LOCKED = StorageError("ledger.db stayed locked by another process for too long.", errno.EBUSY)


def test_c5_a_full_disk_or_a_busy_ledger_puts_it_off_and_gives_nothing_up(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, trainer = stopped_in_b(tmp_path / "ws", base)
    tries, now = refusing(monkeypatch, FULL, LOCKED), [0.0]
    with Ledger.open(layout.ledger) as ledger:
        mending = Mending(layout, ledger, trainer, 0, lambda: now[0])  # type: ignore[arg-type]
        for seconds, count in ((0, 1), (9.9, 1), (10, 2), (29.9, 2), (30, 3)):
            now[0] = seconds
            mending.tick({})
            if mending._thread is not None:
                mending._thread.join()
            assert len(tries) == count, seconds
            mending.tick({})
            assert mending.busy == (count < 3), "the trainer does not start before"
        assert ledger.files.get(2).state == "set_aside"
    assert tries == [[2]] * 3
    assert trainer.gave_up == []
    why = "the file it was at cannot be set aside yet: "
    assert trainer.waits == [(why + str(FULL), True), (why + str(LOCKED), False)]


def test_what_failed_behind_the_switch_of_the_cut_is_not_done_twice(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start does the rest; the history has no such place any more, and another file must not be taken."""
    layout, trainer = stopped_in_b(tmp_path / "ws", base)
    monkeypatch.setattr(policies, "STORAGE_DELAY", 0.0)
    tries = refusing(monkeypatch, FULL, after=True)
    with Ledger.open(layout.ledger) as ledger:
        mending = mend(layout, ledger, trainer)
    assert tries == [[2]]
    assert (trainer.blame, trainer.gave_up, mending._blamed) == (None, [], 1)
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "set_aside", "c": "learned"}


@pytest.mark.parametrize("error", [BusyError("a rollback is at work"), LOCKED])
def test_what_the_user_does_to_the_history_meanwhile_takes_no_other_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: NightschoolError
) -> None:
    monkeypatch.setattr(mending_module, "BUSY_DELAY", 0.0)
    monkeypatch.setattr(policies, "STORAGE_DELAY", 0.0)
    for number, act in enumerate(
        (lambda layout: acts.forget_files(layout, ["a"]), lambda layout: acts.go_back(layout, "2", "queue"))
    ):
        layout, trainer = stopped_in_b(tmp_path / f"ws{number}", base)
        tries = refusing(monkeypatch, error)
        with Ledger.open(layout.ledger) as ledger:
            mending = Mending(layout, ledger, trainer, 0, time.monotonic)  # type: ignore[arg-type]
            mending.tick({})
            assert mending._thread is not None
            mending._thread.join()
            act(layout)
            mend(layout, ledger, trainer, mending)
            found = rig.states(layout)
        assert trainer.gave_up == []
        monkeypatch.undo()
        monkeypatch.setattr(mending_module, "BUSY_DELAY", 0.0)
        monkeypatch.setattr(policies, "STORAGE_DELAY", 0.0)
        if number == 0:
            assert (found["a"], found["b"]) == ("forgotten", "set_aside")
            assert tries == [[2], [2]]
        else:
            assert found["b"] != "set_aside"
            assert (tries, mending._blamed) == ([[2]], 0)


def test_a_cut_takes_the_place_away_that_the_trainer_was_at(base: Path, tmp_path: Path) -> None:
    layout, _ = stopped_in_b(tmp_path / "ws", base)
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get("trainer")["entry"] == 1
        acts.forget_files(layout, ["a"])
        assert ledger.machine.get("trainer")["entry"] is None


@pytest.fixture
def watch(tmp_path: Path) -> Callable[[list[tuple[float, dict]]], list[str]]:
    """Look at a trainer at these times, each with what it says of itself; why it was ended, if it was."""
    layout = Layout(tmp_path)
    layout.create()

    def look(told: list[tuple[float, dict]]) -> list[str]:
        now, trainer = [0.0], Trainer()
        with Ledger.create(tmp_path / "l.db") as ledger:
            mending = Mending(layout, ledger, trainer, 10, lambda: now[0])  # type: ignore[arg-type]
            for seconds, said in told:
                now[0] = seconds
                mending.tick({"pid": 77, **said})
        return trainer.ended

    return look


def test_b6_a_trainer_without_progress_is_ended(watch: Callable) -> None:
    step = {"phase": "training", "step": 5}
    ended = watch([(0, step), (599, step), (601, step)])
    assert ended == ["made no progress for 10 minutes while it was training, and was ended"]


def test_b6_control_a_slow_one_is_not(watch: Callable) -> None:
    steps = [(500.0 * n, {"phase": "training", "step": n}) for n in range(20)]
    waiting = [(10_000.0 + 500 * n, {"phase": "waiting", "step": 20}) for n in range(20)]
    loading = [(20_000.0 + 500 * n, {"phase": "loading", "step": 20}) for n in range(3)]
    assert watch([*steps, *waiting, *loading]) == []


def test_b6_a_load_that_never_ends_is_ended_too(watch: Callable) -> None:
    assert len(watch([(0, {}), (1199, {"phase": "loading"}), (2500, {"phase": "loading"})])) == 1


def test_policies_blame_the_file_only_for_what_happens_on_it() -> None:
    record, found = policies.Record(), []
    for _ in range(policies.CRASHES):
        verdict = policies.after_exit(-11, False, 3, record, on_file=True)
        record = verdict.record
        found.append(verdict.what)
    assert found[: policies.FILE_CRASHES] == ["restart"] * (policies.FILE_CRASHES - 1) + ["blame"]
    record, found = policies.Record(), []
    for _ in range(policies.CRASHES):
        verdict = policies.after_exit(-11, False, 3, record, on_file=False)
        record = verdict.record
        found.append(verdict.what)
    assert found == ["restart"] * (policies.CRASHES - 1) + ["fail"]
    assert policies.after_exit(FileError.exit_code, False, 3, policies.Record(), "nan", on_file=True).what == "blame"


def test_f3_a_file_that_is_begun_is_watched_and_keeps_the_gpu_from_its_first_measurement_on(
    base: Path, tmp_path: Path
) -> None:
    """After an idle night the first thing that may hang is the measurement before the first step."""
    layout, phases = make(tmp_path / "ws", base, "ac"), list[str]()

    def look(trainer: Any) -> None:
        real = trainer.holdout.before

        def before(*arguments: Any) -> bool:
            phases.append(trainer.progress.phase)
            return real(*arguments)

        trainer.holdout.before = before
        trainer.progress.phase = "waiting"  # as after a time without work

    rig.run(layout, on_start=look)
    assert phases[0] == "training"
    assert "waiting" not in phases
    assert policies.hangs(7200, phases[0], 1800) is not None
