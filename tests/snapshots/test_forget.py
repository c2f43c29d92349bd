"""Forgetting gives the run in which the file was never dropped: weights, optimizer, lineage and curve, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool import Workspace, curriculum, verify
from nightschool.errors import DataError
from nightschool.intake.worker import Worker
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_record
from nightschool.settings import load_settings
from nightschool.snapshots import acts, forget
from nightschool.workspace import Layout
from tests import tiny
from tests.snapshots.conftest import SIZES, STEPS, Make, quiet
from tests.training import rig

Without = Callable[..., rig.Outcome]


@pytest.mark.parametrize("name", list(SIZES))
def test_each_file_forgotten_in_turn_equals_the_run_that_never_had_it(run: Layout, without: Without, name: str) -> None:
    plan = acts.forget_files(run, [name], waiting=quiet)
    assert plan.redo == sum(STEPS.values()) - STEPS[name] - plan.then
    rig.run(run)
    assert rig.outcome(run) == without(name)
    assert rig.states(run) == {**dict.fromkeys(SIZES, "learned"), name: "forgotten"}
    assert verify.report(run).problems == []


def test_control_one_sequence_of_the_file_left_in_is_seen(make: Make, without: Without) -> None:
    layout = make([name for name in SIZES if name != "c"])
    rig.add(layout, "left", rig.sequences(1, ord("c")))
    rig.run(layout)
    assert rig.outcome(layout).weights != without("c").weights


def test_several_files_are_forgotten_at_once_and_one_after_the_other(run: Layout, without: Without) -> None:
    acts.forget_files(run, ["b", "d"], waiting=quiet)
    rig.run(run)
    assert rig.outcome(run) == without("bd")
    acts.forget_files(run, ["a"], waiting=quiet)
    rig.run(run)
    assert rig.outcome(run) == without("abd")


def test_a_file_that_only_waits_undoes_nothing_whatever_was_saved_last(run: Layout) -> None:
    """Steps since the last checkpoint stay: nothing is gone back to."""
    shutil.rmtree(run.checkpoints()[-1][1])
    rig.add(run, "f", rig.sequences(8, ord("f")))
    steps = sum(STEPS.values())
    for dry_run in (True, False):
        plan = Workspace(run).forget(["f"], dry_run=dry_run, waiting=quiet)
        assert (plan.now, plan.then, plan.kept, plan.redo, plan.undone) == (steps, steps, steps, 0, [])
        assert not plan.undoable
    assert rig.states(run) == {**dict.fromkeys(SIZES, "learned"), "f": "forgotten"}
    control = Workspace(run).forget(["e"], dry_run=True)
    assert control.undone, "one that was learned is counted from the state that is gone back to"
    assert control.undoable


def test_the_newest_state_that_has_not_seen_it_is_gone_back_to(run: Layout) -> None:
    steps = [step for step, _ in run.checkpoints()]
    plan = Workspace(run).forget(["e"], dry_run=True)
    begins = sum(STEPS[name] for name in "abcd")
    assert plan.then == max(step for step in steps if step <= begins)
    assert [(one.name, one.steps) for one in plan.undone if one.name == "e"] == [("e", 3)]
    plan = Workspace(run).forget(["a"], dry_run=True)
    assert (plan.then, plan.start) == (0, None), "no checkpoint is left from before it"
    assert plan.redo == sum(STEPS.values()) - STEPS["a"]


def test_a_dry_run_changes_nothing(run: Layout) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    Workspace(run).forget(["c"], dry_run=True, purge=True)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()} == before


def test_the_file_in_training_is_forgotten_too(make: Make, without: Without) -> None:
    layout = make()
    rig.run(layout, on_step=rig.stop_at(5))  # in the middle of b
    acts.forget_files(layout, ["b"], waiting=quiet)
    rig.run(layout)
    assert rig.outcome(layout) == without("b")


def test_a_waiting_file_is_forgotten_without_touching_the_run(make: Make, without: Without) -> None:
    layout = make()
    rig.run(layout, on_step=rig.stop_at(5))
    before = [folder.stat().st_ino for _, folder in layout.checkpoints()]
    plan = acts.forget_files(layout, ["d"], waiting=quiet)
    assert (plan.then, plan.undone) == (5, [])
    assert [folder.stat().st_ino for _, folder in layout.checkpoints()] == before
    rig.run(layout)
    assert rig.outcome(layout) == without("d")


def test_one_of_several_files_that_are_trained_together(make: Make) -> None:
    layout = make(inbox={"gather_rows": 10})
    rig.run(layout)
    acts.forget_files(layout, ["c"], waiting=quiet)
    rig.run(layout)
    other = make([name for name in SIZES if name != "c"], inbox={"gather_rows": 10})
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)


def test_the_model_in_use_stays_until_the_new_one_has_caught_up(run: Layout) -> None:
    adapter = run.current_model / "adapter_model.safetensors"
    before = adapter.read_bytes()
    acts.forget_files(run, ["d"], waiting=quiet)
    total = sum(STEPS.values()) - STEPS["d"]
    assert Workspace(run).status().catching_up == total
    rig.run(run, on_step=rig.stop_at(total - 1))
    assert adapter.read_bytes() == before
    rig.run(run)
    assert adapter.read_bytes() == (run.checkpoint(total) / adapter.name).read_bytes() != before
    assert Workspace(run).status().catching_up is None
    assert rig.events(run, "caught-up")


def real(root: Path, base: Path, files: dict[str, Path]) -> Layout:
    """A workspace whose files went through intake."""
    layout = rig.workspace(root, base, checkpoints={"save_steps": 2})
    for name, path in files.items():
        Workspace(layout).add(path, name=name)
    with Ledger.open(layout.ledger) as ledger:
        worker = Worker(layout, ledger, load_settings(layout.settings_file), today=lambda: "2026-11-22")
        while worker.step():
            pass
    return layout


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    rows = {"a": 24, "b": 30, "c": 18, "mended": 27}
    return {name: tiny.rows(folder / f"{name}.jsonl", count, seed) for seed, (name, count) in enumerate(rows.items())}


def test_a_mended_file_takes_the_place_of_the_old_one(base: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    names = {"a": texts["a"], "b": texts["b"], "c": texts["c"]}
    layout = real(tmp_path / "ws", base, names)
    rig.run(layout)
    before = rig.outcome(layout)
    acts.forget_files(layout, ["b"], instead=texts["mended"], waiting=quiet)
    with Ledger.open(layout.ledger) as ledger:
        assert [entry.file_ids for entry in entries_of(ledger)] == [(1,), (4,), (3,)]
        assert ledger.machine.get("replacing") is None
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned", "b": "forgotten", "c": "learned", "mended.jsonl": "learned"}
    other = real(tmp_path / "other", base, {**names, "b": texts["mended"]})
    rig.run(other)
    assert rig.outcome(layout) == rig.outcome(other)
    # And it is taken back like any other.
    acts.go_back(layout, "undo", waiting=quiet)
    rig.run(layout)
    assert rig.outcome(layout) == before
    assert rig.states(layout) == {"a": "learned", "b": "learned", "c": "learned", "mended.jsonl": "set_aside"}


def test_a_mended_file_that_cannot_be_used_changes_nothing(base: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"], "b": texts["b"]})
    rig.run(layout)
    before = rig.outcome(layout)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{broken\n" * 5)
    with pytest.raises(DataError, match=r"broken\.jsonl cannot take the place of b: .* Nothing was forgotten"):
        acts.forget_files(layout, ["b"], instead=broken, waiting=quiet)
    assert rig.states(layout) == {"a": "learned", "b": "learned", "broken.jsonl": "rejected"}
    rig.run(layout)
    assert rig.outcome(layout) == before


def test_a_mended_file_stands_where_the_old_one_waited(base: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"], "b": texts["b"], "c": texts["c"]})
    acts.forget_files(layout, ["b"], instead=texts["mended"], waiting=quiet)
    with Ledger.open(layout.ledger) as ledger:
        assert [row.name for row in ledger.files.queue()] == ["a", "mended.jsonl", "c"]


def test_purge_removes_every_trace(run: Layout, without: Without) -> None:
    (run.archive / "b").write_bytes(b"the rows of b")
    (run.rejected / "b.bad-rows.jsonl").write_text("a bad row of b")
    digest = read_record(run.checkpoints()[-1][1]).entries[1].data_digest
    listed = [trace.what for trace in Workspace(run).traces(["b"])]
    acts.forget_files(run, ["b"], purging=True, waiting=quiet)
    assert not (run.archive / "b").exists()
    assert not (run.prepared / "b").exists()
    assert (run.prepared / "c").exists()
    assert not (run.rejected / "b.bad-rows.jsonl").exists()
    assert not list(run.undone.rglob("checkpoint-*"))
    assert not (run.current_model / "adapter_model.safetensors").exists(), "it had learned from b"
    assert any("archive" in what for what in listed)
    rig.run(run)
    assert rig.outcome(run) == without("b")
    for _, folder in run.checkpoints():
        assert digest not in str(read_record(folder).curriculum)
    with Ledger.open(run.ledger) as ledger:
        row = ledger.files.get(2)
        assert (row.state, row.archive, row.prepared) == ("forgotten", None, None)


def test_a_purge_may_follow_a_forgetting(run: Layout, without: Without) -> None:
    acts.forget_files(run, ["b"], waiting=quiet)
    (run.archive / "b").write_bytes(b"the rows of b")
    acts.forget_files(run, ["b"], purging=True, waiting=quiet)
    assert not (run.archive / "b").exists()
    assert not list(run.undone.rglob("checkpoint-*"))
    rig.run(run)
    assert rig.outcome(run) == without("b")
    with pytest.raises(DataError, match="was forgotten already"):
        acts.forget_files(run, ["b"], purging=True, waiting=quiet)


def test_the_same_bytes_dropped_again_are_not_learned(run: Layout) -> None:
    acts.forget_files(run, ["b"], waiting=quiet)
    with Ledger.open(run.ledger) as ledger:
        assert ledger.files.find_learnable_duplicate("b", excluding=99) == 2


def test_what_is_meant_must_be_one_file(run: Layout) -> None:
    with Ledger.open(run.ledger) as ledger:
        assert [row.name for row in forget.find(ledger, ["b", "2", "a"])] == ["b", "a"]
        with pytest.raises(DataError, match="There is no file zzz"):
            forget.find(ledger, ["zzz"])
    rig.add(run, "b-again", rig.sequences(4, 7))
    with Ledger.open(run.ledger) as ledger, ledger.transaction():
        ledger._database.write("UPDATE files SET name = 'b' WHERE name = 'b-again'")
    with Ledger.open(run.ledger) as ledger, pytest.raises(DataError, match=r"Several files are called b: 2 .*6 "):
        forget.find(ledger, ["b"])


def test_a_range_that_was_ended_early_stays_one() -> None:
    part = curriculum.Part(1, "d1", 8)
    other = curriculum.Part(2, "d2", 8)
    recipe = '{"train_batch_size":4,"epochs":1}'
    both = curriculum.Entry((part, other), recipe, 0, 3)
    assert curriculum.without([both], {2}) == [replace(both, parts=(part,), stop=2)]
    assert curriculum.without([both], {1, 2}) == []
    assert curriculum.without([replace(both, stop=4)], {1}) == [replace(both, parts=(other,), stop=2)]
