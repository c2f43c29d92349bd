"""What an adversarial review of forgetting and purging found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import Workspace, verify
from nightschool.errors import StorageError
from nightschool.intake.worker import Worker
from nightschool.ledger import Ledger
from nightschool.record import read_record
from nightschool.settings import load_settings
from nightschool.snapshots import acts
from nightschool.workspace import Layout
from tests import tiny
from tests.snapshots.conftest import Make, quiet
from tests.snapshots.test_forget import real
from tests.snapshots.test_forget import texts as texts  # a fixture
from tests.training import rig

Without = Callable[..., rig.Outcome]


def intake(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        worker = Worker(layout, ledger, load_settings(layout.settings_file), today=lambda: "2026-11-23")
        while worker.step():
            pass


def test_a_purge_keeps_the_states_of_a_file_with_the_same_rows_that_stays(make: Make) -> None:
    layout = make([], checkpoints={"save_steps": 2, "save_total_limit": 50})
    for name, seed in (("first", 7), ("c", 3), ("second", 7), ("d", 4)):
        rig.add(layout, name, rig.sequences(9, seed))
    rig.run(layout)
    acts.forget_files(layout, ["second"], purging=True, waiting=quiet)
    other = make([])
    for name, seed in (("first", 7), ("c", 3), ("d", 4)):
        rig.add(other, name, rig.sequences(9, seed))
    rig.run(other)
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(other)
    assert verify.report(layout).problems == []


def test_a_purge_finds_states_that_saw_the_file_prepared_in_another_way(run: Layout) -> None:
    (run.undone / "0").mkdir()
    step, folder = run.checkpoints()[-1]
    folder.rename(run.undone / "0" / folder.name)
    with Ledger.open(run.ledger) as ledger:
        ledger._database.write("UPDATE files SET data_digest = 'another' WHERE name = 'e'")
    acts.forget_files(run, ["e"], purging=True, waiting=quiet)
    left = [path for path in run.undone.rglob("nightschool.json")]
    assert [path for path in left if read_record(path.parent).step == step] == []


def test_bytes_that_were_purged_and_are_dropped_again_are_kept(
    base: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"], "b": texts["b"]})
    acts.forget_files(layout, ["b"], purging=True, waiting=quiet)
    data = texts["b"].read_bytes()
    Workspace(layout).add(texts["b"], name="b")
    intake(layout)
    found = [path for path in layout.root.rglob("*") if path.is_file() and path.read_bytes() == data]
    assert found, "law 3: nothing dropped is ever lost"
    with Ledger.open(layout.ledger) as ledger:
        row = ledger.files.get(3)
        assert row.state == "rejected"
        assert "purged" in str(row.reason)


def test_a_file_that_was_just_dropped_is_forgotten_too(base: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"]})
    dropped = tiny.rows(layout.inbox / "b.jsonl", 12, 5)
    data = dropped.read_bytes()
    from nightschool.ledger import Arrival

    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("b.jsonl", dropped)])
    acts.forget_files(layout, ["b.jsonl"], waiting=quiet)
    assert not dropped.exists(), "or it would be taken for a new one"
    assert [path for path in layout.archive.rglob("*") if path.is_file() and path.read_bytes() == data]
    with Ledger.open(layout.ledger) as ledger:
        (number,) = ledger.files.arrive([Arrival("b.jsonl", tiny.rows(layout.inbox / "b.jsonl", 12, 5))])
    intake(layout)
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.files.get(number).state == "duplicate"


def test_a_file_that_was_just_added_is_purged_too(base: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"]})
    Workspace(layout).add(texts["b"], name="b")
    acts.forget_files(layout, ["b"], purging=True, waiting=quiet)
    data = texts["b"].read_bytes()
    assert [path for path in layout.root.rglob("*") if path.is_file() and path.read_bytes() == data] == []


def test_a_purge_removes_what_was_left_half_made(run: Layout) -> None:
    for parent in (run.current_model, run.snapshots, run.undone / "0", run.prepared):
        parent.mkdir(exist_ok=True)
        shutil.copytree(run.checkpoints()[-1][1], parent / ".tmp-15-abcd")
        shutil.copytree(run.checkpoints()[-1][1], parent / ".trash-abcd")
    acts.forget_files(run, ["b"], purging=True, waiting=quiet)
    assert [path for path in run.root.rglob(".t*") if path.name.startswith((".tmp-", ".trash-"))] == []


def test_a_second_place_that_is_not_there_is_not_passed_over(run: Layout, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not there"):
        acts.forget_files(run, ["b"], purging=True, second_place=tmp_path / "unmounted", waiting=quiet)
    assert rig.states(run)["b"] == "learned"


def test_why_a_purged_file_was_rejected_goes_with_it(base: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    layout = real(tmp_path / "ws", base, {"a": texts["a"]})
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{broken\n" * 5)
    Workspace(layout).add(broken)
    intake(layout)
    assert sorted(path.name for path in layout.rejected.iterdir())
    acts.forget_files(layout, ["broken.jsonl"], purging=True, waiting=quiet)
    assert sorted(path.name for path in layout.rejected.iterdir()) == []


def test_undo_after_a_waiting_file_was_forgotten_is_not_promised(run: Layout) -> None:
    """There was no cut: it would take back another one."""
    rig.add(run, "f", rig.sequences(8, 77))
    assert not acts.forget_files(run, ["f"], waiting=quiet).undoable
    assert acts.forget_files(run, ["b"], waiting=quiet).undoable
