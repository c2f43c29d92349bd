"""What an adversarial review of the way back found: taking back, shelving, and what takes another file's place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import Workspace, durable
from nightschool.errors import StorageError
from nightschool.intake.worker import Worker
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_generation, read_record
from nightschool.settings import load_settings
from nightschool.snapshots import acts, cut, undone
from nightschool.workspace import Layout
from tests.snapshots.conftest import Make, quiet
from tests.snapshots.test_forget import real
from tests.snapshots.test_forget import texts as texts  # a fixture
from tests.training import rig

Without = Callable[..., rig.Outcome]


@pytest.fixture
def run(kept: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(kept.root, tmp_path / "ws", symlinks=True)
    return Layout(tmp_path / "ws")


def files_of(layout: Layout) -> list[tuple[int, ...]]:
    with Ledger.open(layout.ledger) as ledger:
        return [entry.file_ids for entry in entries_of(ledger)]


def test_undoing_an_undo_does_not_learn_the_forgotten_file_once_more(run: Layout, without: Without) -> None:
    acts.forget_files(run, ["b"], waiting=quiet)
    rig.run(run)
    acts.go_back(run, "undo", waiting=quiet)
    rig.run(run)
    acts.go_back(run, "undo", waiting=quiet)
    assert files_of(run) == [(1,), (3,), (4,), (5,)]
    rig.run(run)
    assert rig.outcome(run) == without("b")
    assert rig.states(run)["b"] == "forgotten"


def test_undoing_the_undo_of_a_shelving_shelves_again(run: Layout) -> None:
    acts.go_back(run, "4", later="shelve", waiting=quiet)
    before, states = rig.outcome(run), rig.states(run)
    acts.go_back(run, "undo", waiting=quiet)
    acts.go_back(run, "undo", waiting=quiet)
    assert rig.states(run) == states
    rig.run(run)
    assert rig.outcome(run) == before


def test_a_cut_that_never_came_about_is_not_what_undo_takes_back(
    run: Layout, without: Without, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts.go_back(run, "6", later="shelve", waiting=quiet)
    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            raise RuntimeError("killed here")

        patch.setattr(cut, "_switch", fails)
        with pytest.raises(RuntimeError):
            acts.go_back(run, "4", later="shelve", waiting=quiet)
    assert read_generation(run) == 2
    acts.go_back(run, "undo", waiting=quiet)
    rig.run(run)
    assert rig.outcome(run) == without()


def test_a_file_shelved_in_its_middle_is_trained_up_to_there_again(run: Layout) -> None:
    acts.go_back(run, "4", later="shelve", waiting=quiet)
    before = rig.outcome(run)
    (run.checkpoint(4) / "optimizer.pt").unlink()
    rig.run(run)
    assert rig.outcome(run) == before
    assert rig.states(run)["b"] == "set_aside"


def test_a_file_shelved_in_its_middle_is_not_called_learned_by_the_next_cut(run: Layout) -> None:
    acts.go_back(run, "4", later="shelve", waiting=quiet)
    rig.add(run, "f", rig.sequences(8, 77))
    rig.run(run)
    acts.forget_files(run, ["f"], waiting=quiet)
    assert rig.states(run)["b"] == "set_aside"
    acts.forget_files(run, ["a"], waiting=quiet)
    assert rig.states(run)["b"] == "training", "it needs a trainer"
    rig.run(run)
    assert rig.states(run)["b"] == "set_aside"


def learn(layout: Layout) -> None:
    """Intake and trainer by turns, until nothing waits."""
    for _ in range(6):
        with Ledger.open(layout.ledger) as ledger:
            worker = Worker(layout, ledger, load_settings(layout.settings_file), today=lambda: "2026-11-22")
            while worker.step():
                pass
        try:
            rig.run(layout)
        except StorageError:
            continue
        with Ledger.open(layout.ledger) as ledger:
            counts = ledger.files.counts()
        if not counts["archived"] + counts["ready"] + counts["training"]:
            return
    raise AssertionError("it does not come to an end")


def test_what_was_prepared_anew_since_is_prepared_again_as_it_was(
    base: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"], "b": texts["b"], "c": texts["c"]})
    rig.configure(layout, base, checkpoints={"save_steps": 2, "save_total_limit": 50})
    rig.run(layout)
    before = rig.outcome(layout)
    rig.configure(layout, base, data={"max_length": 24}, checkpoints={"save_steps": 2, "save_total_limit": 50})
    acts.go_back(layout, "2", later="queue", waiting=quiet)
    learn(layout)
    assert rig.outcome(layout) != before
    middle = (before.step - 1) // 2 * 2
    acts.go_back(layout, f"undone/0/checkpoint-{middle}", waiting=quiet)
    learn(layout)
    assert rig.outcome(layout) == before


def test_a_mended_file_is_not_learned_beside_the_one_it_replaced(
    base: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"], "b": texts["b"], "c": texts["c"]})
    rig.run(layout)
    before = rig.outcome(layout)
    acts.forget_files(layout, ["b"], instead=texts["mended"], waiting=quiet)
    rig.run(layout)
    acts.go_back(layout, f"undone/0/checkpoint-{before.step}", waiting=quiet)
    assert files_of(layout) == [(1,), (2,), (3,)]
    rig.run(layout)
    assert rig.outcome(layout) == before


def test_a_mended_file_waits_again_after_a_rollback_to_before_it(
    base: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"], "b": texts["b"]})
    rig.configure(layout, base, checkpoints={"save_steps": 2, "save_total_limit": 50})
    rig.run(layout)
    acts.forget_files(layout, ["b"], instead=texts["mended"], waiting=quiet)
    rig.run(layout)
    acts.go_back(layout, "2", later="queue", waiting=quiet)
    assert rig.states(layout)["mended.jsonl"] == "ready"


def test_going_back_does_not_revive_a_forgotten_file_that_the_state_never_saw(run: Layout) -> None:
    """Its future is in the state's own curriculum, since it was trained on its way through it a second time."""
    acts.go_back(run, "4", waiting=quiet)
    rig.run(run, on_step=rig.stop_at(8))
    acts.forget_files(run, ["e"], waiting=quiet)
    acts.forget_files(run, ["a"], waiting=quiet)
    acts.go_back(run, "undone/1/checkpoint-8" if (run.undone / "1" / "checkpoint-8").exists() else
                 "undone/2/checkpoint-8", waiting=quiet)  # fmt: skip
    assert (5,) not in files_of(run)
    assert rig.states(run)["e"] == "forgotten"


def test_a_forgotten_file_that_comes_back_is_told(run: Layout) -> None:
    acts.forget_files(run, ["b"], waiting=quiet)
    assert Workspace(run).rollback("undone/0/checkpoint-10", dry_run=True).revived == ["b"]
    assert Workspace(run).rollback("undo", dry_run=True).revived == ["b"]
    assert Workspace(run).rollback("2", dry_run=True).revived == []


def test_status_tells_of_the_checkpoint_that_was_gone_back_to(run: Layout) -> None:
    acts.go_back(run, "4", waiting=quiet)
    rig.run(run, on_step=rig.stop_at(6))
    acts.go_back(run, "undone/0/checkpoint-14", waiting=quiet)
    for _ in range(2):
        told = Workspace(run).status()
        assert told.last_checkpoint is not None
        assert (told.last_checkpoint["step"], told.lineage) == (14, read_record(run.checkpoint(14)).lineage)
        rig.run(run, on_start=lambda trainer: trainer.stop.set("the test asked for it"))


def test_what_a_file_taught_is_measured_anew_where_its_end_is_another(make: Make) -> None:
    layout = make(["a"], checkpoints={"save_steps": 1, "save_total_limit": 50})
    rig.add(layout, "b", rig.sequences(14, 5), rows=40, held=rig.sequences(3, 6))
    rig.run(layout)
    with Ledger.open(layout.ledger) as ledger:
        before = ledger.holdouts.at(1)[0]
    acts.go_back(layout, "4", later="shelve", waiting=quiet)
    rig.run(layout)
    with Ledger.open(layout.ledger) as ledger:
        after = ledger.holdouts.at(1)[0]
    assert after.loss_before == before.loss_before
    assert after.loss_after not in (None, before.loss_after)


def test_a_command_from_another_container_is_rested_for_too(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "holder", lambda _: durable.ELSEWHERE)
    assert cut.held_for(run, {cut.HOLD: {"pid": 77, "why": "a rollback"}}) == "a rollback"
    monkeypatch.setattr(durable, "holder", lambda _: 78)
    assert cut.held_for(run, {cut.HOLD: {"pid": 77, "why": "a rollback"}}) is None


def test_cuts_that_never_came_about_do_not_push_out_those_that_did(
    run: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts.go_back(run, "6", later="shelve", waiting=quiet)
    for _ in range(3):
        with monkeypatch.context() as patch:

            def refuses(*_: object) -> None:
                raise StorageError("the disk is full")

            patch.setattr(cut, "_switch", refuses)
            with pytest.raises(StorageError):
                acts.go_back(run, "4", waiting=quiet)
    with Ledger.open(run.ledger) as ledger:
        assert undone.prune(run, ledger, 3) == []
