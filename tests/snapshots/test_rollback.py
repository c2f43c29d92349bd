"""Going back to any saved state and on again is the same as never having left; and it can itself be taken back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from nightschool import Workspace, durable, verify
from nightschool.errors import BusyError, CheckpointError
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_generation, read_record
from nightschool.snapshots import acts, cut, holding, rollback, states, take
from nightschool.workspace import Layout
from tests.snapshots.conftest import SIZES, STEPS, Make, quiet
from tests.training import rig

Without = Callable[..., rig.Outcome]
TOTAL = sum(STEPS.values())


@pytest.fixture
def run(kept: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(kept.root, tmp_path / "ws", symlinks=True)
    return Layout(tmp_path / "ws")


def steps_of(layout: Layout) -> list[int]:
    return [step for step, _ in layout.checkpoints()]


def test_to_every_checkpoint_and_on_again_equals_never_having_left(run: Layout, without: Without) -> None:
    """From the newest to the oldest, so that each is a rollback out of a history that had others before it."""
    for step in reversed(steps_of(run)[:-1]):
        plan = acts.go_back(run, str(step), waiting=quiet)
        assert (plan.then, plan.redo) == (step, TOTAL - step)
        assert steps_of(run)[-1] == step
        with Ledger.open(run.ledger) as ledger:
            last = ledger.steps.last()
            assert last is not None
            assert last.step == step
        rig.run(run)
        assert rig.outcome(run) == without()
        assert verify.report(run).problems == []
    assert read_generation(run) == len(steps_of(run)) - 1


def test_g4_a_higher_numbered_checkpoint_is_not_resurrected(run: Layout, without: Without) -> None:
    acts.go_back(run, "4", later="shelve", waiting=quiet)
    assert steps_of(run) == [2, 4]
    rig.run(run)
    assert rig.outcome(run).step == 4
    assert sorted(path.name for path in (run.undone / "0").glob("checkpoint-*"))
    assert rig.states(run) == {"a": "learned", "b": "set_aside", "c": "set_aside", "d": "set_aside", "e": "set_aside"}
    # What is dropped now goes on from there.
    rig.add(run, "f", rig.sequences(8, 77))
    rig.run(run)
    assert rig.outcome(run).step == 6
    assert rig.outcome(run).weights != without().weights


def test_g6_the_same_step_numbers_come_again(run: Layout) -> None:
    acts.go_back(run, "6", waiting=quiet)
    rig.run(run)
    acts.go_back(run, "6", waiting=quiet)
    rig.run(run)
    for generation in "01":
        assert {path.name for path in (run.undone / generation).iterdir()} >= {"ledger.db", f"checkpoint-{TOTAL}"}


def test_what_was_queued_again_is_learned_under_todays_settings(run: Layout, base: Path) -> None:
    rig.configure(run, base, training={"learning_rate": 1e-3}, checkpoints={"save_steps": 2})
    plan = acts.go_back(run, "4", later="queue", waiting=quiet)  # in the middle of b
    assert plan.redo == 3, "b is finished as it began"
    assert rig.states(run) == {"a": "learned", "b": "training", **dict.fromkeys("cde", "ready")}
    rig.run(run)
    with Ledger.open(run.ledger) as ledger:
        assert [entry.settings["learning_rate"] for entry in entries_of(ledger)] == [5e-3, 5e-3, 1e-3, 1e-3, 1e-3]
    assert set(rig.states(run).values()) == {"learned"}


def test_control_training_on_without_going_back_differs(run: Layout, without: Without) -> None:
    rig.add(run, "f", rig.sequences(8, 77))
    rig.run(run)
    assert rig.outcome(run) != without()


def test_a_rollback_is_taken_back(run: Layout, without: Without) -> None:
    before = rig.outcome(run)
    acts.go_back(run, "6", later="shelve", waiting=quiet)
    rig.add(run, "f", rig.sequences(8, 77))
    rig.run(run)
    plan = acts.go_back(run, "undo", waiting=quiet)
    assert (plan.now, plan.then, plan.redo) == (8, TOTAL, 2), "f is learned behind all that is back"
    assert rig.outcome(run) == before == without(), "the curve too"
    assert rig.states(run) == {**dict.fromkeys(SIZES, "learned"), "f": "training"}
    rig.run(run)
    assert rig.outcome(run).step == TOTAL + 2
    assert verify.report(run).problems == []


def test_a_forgetting_is_taken_back(run: Layout, without: Without) -> None:
    acts.forget_files(run, ["b"], waiting=quiet)
    rig.run(run)
    acts.go_back(run, "undo", waiting=quiet)
    rig.run(run)
    assert rig.outcome(run) == without()
    assert set(rig.states(run).values()) == {"learned"}


def test_a_state_that_was_undone_can_be_gone_forward_to(run: Layout, without: Without) -> None:
    acts.go_back(run, "4", waiting=quiet)
    plan = acts.go_back(run, f"undone/0/checkpoint-{TOTAL}", waiting=quiet)
    assert (plan.now, plan.then, plan.redo, plan.undone) == (4, TOTAL, 0, [])
    assert rig.outcome(run) == without()
    rig.run(run)
    assert rig.outcome(run) == without()


def test_a_damaged_state_is_refused_before_anything_changes(run: Layout) -> None:
    path = run.checkpoint(6) / "optimizer.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = steps_of(run)
    with pytest.raises(CheckpointError, match=r"checkpoint-6 cannot be gone back to: .*optimizer\.pt.* has changed"):
        acts.go_back(run, "6", waiting=quiet)
    assert (steps_of(run), read_generation(run)) == (before, 0)


def test_another_runs_state_is_refused(run: Layout, make: Make) -> None:
    other = make(["a"], training={"seed": 7})
    rig.run(other)
    shutil.copytree(other.checkpoint(3), run.undone / "0" / "checkpoint-3")
    with pytest.raises(CheckpointError, match="it belongs to another run"):
        acts.go_back(run, "undone/0/checkpoint-3", waiting=quiet)


@pytest.mark.parametrize("word", ["99", "2030-01-01", "latest", "nonsense", "undo"])
def test_what_there_is_not_is_said(run: Layout, word: str) -> None:
    with pytest.raises(CheckpointError, match="There is no"):
        acts.go_back(run, word, waiting=quiet)


def test_two_changes_of_history_do_not_meet(run: Layout) -> None:
    with durable.Lock(run.way_back_lock, "a test"), pytest.raises(BusyError, match="snapshots or history"):
        acts.go_back(run, "4", waiting=quiet)


def test_a_file_whose_bytes_are_gone_is_not_trained_again(run: Layout) -> None:
    shutil.rmtree(run.prepared / "d")
    with pytest.raises(CheckpointError, match=r"d \(file 4\) would have to be trained on again"):
        acts.go_back(run, "4", waiting=quiet)
    acts.go_back(run, str(TOTAL - 1), waiting=quiet)


def test_current_model_holds_what_was_gone_back_to(run: Layout) -> None:
    acts.go_back(run, "6", waiting=quiet)
    adapter = "adapter_model.safetensors"
    assert (run.current_model / adapter).read_bytes() == (run.checkpoint(6) / adapter).read_bytes()


def test_the_states_are_found_by_the_words_people_use(run: Layout) -> None:
    acts.go_back(run, "10", waiting=quiet)
    found = {word: states.find(run, word).name for word in ("10", "checkpoint-4", "current", "12")}
    assert found == {"10": "checkpoint-10", "checkpoint-4": "checkpoint-4", "current": "checkpoint-10",
                     "12": "undone/0/checkpoint-12"}  # fmt: skip
    assert Workspace(run).rollback("12", dry_run=True).then == 12


# --- accidents


class _Ends(durable.Effects):
    """A disk on which the life of the process ends before its n-th change."""

    def __init__(self, at: int, ledgers: list[Ledger]) -> None:
        self.left, self.done, self._ledgers = at, 0, ledgers

    def _one(self) -> None:
        self.done += 1
        self.left -= 1
        if self.left < 0:
            for ledger in self._ledgers:
                ledger.close()
            raise rig.Killed

    def __getattribute__(self, name: str) -> object:
        if name in ("create", "write", "sync", "mkdir", "rename", "link", "symlink", "unlink", "rmdir"):
            self._one()
        return super().__getattribute__(name)


def _killed_at(layout: Layout, at: int, act: Callable[[Layout], object], monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Do it, and end it before its `at`-th change; None if it came to its end before that, else the changes made."""
    ledgers: list[Ledger] = []
    real = Ledger.open.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def opened(kind: type[Ledger], path: Path, **more: object) -> Ledger:
        ledgers.append(real(kind, path, **more))
        return ledgers[-1]

    disk = _Ends(at, ledgers)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "open", classmethod(opened))
        try:
            with durable.use(disk):
                act(layout)
        except BaseException:
            if disk.left >= 0:
                raise
            return disk.done
    return None


def _summary(layout: Layout) -> tuple:
    """What a start finds, once it has put right what an accident left."""
    from nightschool.training import resume

    with Ledger.open(layout.ledger) as ledger:
        start = resume.find_start(layout, ledger, ledger.machine.get("root"))
        assert ledger.machine.get(cut.PENDING) is None
        last = ledger.steps.last()
        files = tuple((row.name, row.state) for row in ledger.files.each())
    step = start.record.step if start.record else 0
    adapter = layout.current_model / "adapter_model.safetensors"
    served = adapter.read_bytes() if adapter.exists() else b""
    leftovers = [path.name for path in layout.current_model.iterdir() if path.name.startswith(".tmp-")]
    assert leftovers == []
    kept = tuple(read_record(folder).lineage for _, folder in layout.checkpoints())
    return (step, tuple(start.entries), last.step if last else 0, files, served, kept)


ACTS: dict[str, Callable[[Layout], object]] = {
    "back": lambda layout: acts.go_back(layout, "undone/0/checkpoint-6", waiting=quiet),
    "shelve": lambda layout: acts.go_back(layout, "4", "shelve", waiting=quiet),
    "forget": lambda layout: acts.forget_files(layout, ["a"], waiting=quiet),
    "purge": lambda layout: acts.forget_files(layout, ["b"], purging=True, waiting=quiet),
    "undo": lambda layout: acts.go_back(layout, "undo", waiting=quiet),
}


@pytest.mark.parametrize("name", list(ACTS))
def test_g3_g5_killed_at_every_change_to_the_disk_it_is_the_old_state_or_the_new(
    kept: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = Layout(tmp_path / "source")
    shutil.copytree(kept.root, source.root, symlinks=True)
    (source.archive / "b").write_bytes(b"rows of b")
    # The state that "back" means lies in `undone/` only; and fewer checkpoints make all this quicker.
    (source.undone / "0").mkdir()
    source.checkpoint(6).rename(source.undone / "0" / "checkpoint-6")
    for step in (8, 10, 12):
        shutil.rmtree(source.checkpoint(step))
    if name == "undo":
        acts.forget_files(source, ["a"], waiting=quiet)
    act = ACTS[name]

    def copy(at: object) -> Layout:
        """What is never written to in place is linked."""
        target = Layout(tmp_path / f"at-{at}")
        shutil.copytree(
            source.root, target.root, symlinks=True,
            copy_function=lambda one, two: shutil.copy2(one, two) if "ledger" in one else os.link(one, two),
        )  # fmt: skip
        return target

    old = _summary(copy("old"))
    done = copy("new")
    act(done)
    new = _summary(done)
    assert old != new
    found, at = [], 0
    while True:
        layout = copy("now")
        if _killed_at(layout, at, act, monkeypatch) is None:
            break
        found.append(_summary(layout) == new)
        if not found[-1]:
            assert _summary(layout) == old, f"killed before change {at}"
        shutil.rmtree(layout.root)
        at += 1
    assert found == sorted(found), "once it is the new state, it stays so"
    assert True in found
    assert False in found
    assert at > 20


def test_control_without_rolling_forward_a_start_finds_something_between(
    run: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The switch alone, and a start that does not finish it: what was undone comes back."""
    done = Layout(tmp_path / "done")
    shutil.copytree(run.root, done.root, symlinks=True)
    acts.go_back(done, "4", waiting=quiet)
    new = _summary(done)
    real = cut.finish
    with monkeypatch.context() as patch:
        patch.setattr(cut, "finish", lambda *_: None)
        acts.go_back(run, "4", waiting=quiet)
        with pytest.raises(AssertionError):
            _summary(run)
        with Ledger.open(run.ledger) as ledger:
            ledger.machine.delete(cut.PENDING)
        assert _summary(run) != new
    assert cut.finish is real


def test_control_a_plan_that_goes_back_too_little_is_seen(
    run: Layout, without: Without, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgetting that keeps the newest weights gives another model than one that never saw the file."""
    monkeypatch.setattr(rollback, "belongs", lambda *_: None)
    from nightschool.snapshots import forget

    with Ledger.open(run.ledger) as ledger:
        plan = forget.plan(run, ledger, forget.find(ledger, ["e"]))
    assert plan.then > sum(STEPS[name] for name in "abcd")


def test_to_every_snapshot_and_on_again_and_a_forgetting_that_begins_at_one(make: Make, without: Without) -> None:
    """Checkpoints of those steps are long gone: what is gone back to comes out of the snapshots."""
    layout = make(checkpoints={"save_steps": 100, "save_total_limit": 2})
    for number, step in enumerate((2, 4, 8)):
        rig.run(layout, on_step=rig.stop_at(step))
        with Ledger.open(layout.ledger) as ledger, holding.way_back(layout, "a test"):
            day = date(2026, 11, 20 + number)
            take.take(layout, ledger, name=str(day), kind="daily", day=day, now=datetime(2026, 11, 25, tzinfo=UTC))
    rig.run(layout)
    assert steps_of(layout) == [8, TOTAL]
    for word in ("latest", "2026-11-21", "2026-11-20"):
        plan = acts.go_back(layout, word, waiting=quiet)
        assert plan.start == ("2026-11-22" if word == "latest" else word)
        assert verify.report(layout).problems == []
        rig.run(layout)
        assert rig.outcome(layout) == without()
    for _, folder in layout.checkpoints()[:-1]:
        shutil.rmtree(folder)
    shutil.rmtree(layout.undone)
    layout.undone.mkdir()
    with Ledger.open(layout.ledger) as ledger:
        for row in ledger.checkpoints.listing("published")[:-1]:
            ledger.checkpoints.retire(row.step, "for the test", generation=row.generation)
    plan = acts.forget_files(layout, ["d"], waiting=quiet)
    assert (plan.start, plan.then) == ("2026-11-22", 8), "d begins after step 9"
    rig.run(layout)
    assert rig.outcome(layout) == without("d")
