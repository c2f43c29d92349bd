"""`verify` over snapshots and the archive: what is whole, what is not, and what is only of an earlier history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightschool import durable, verify
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.snapshots import made


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = made.workspace(tmp_path / "ws")
    made.checkpoint(found, 30)
    made.snapshot(found, "2026-11-22")
    made.checkpoint(found, 40)
    return found


def rewritten(path: Path) -> None:
    """As many bytes, in place, as root may."""
    data = path.read_bytes()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(bytes(len(data)))
    path.chmod(0o444)


def problems(layout: Layout, deep: bool) -> list[str]:
    return verify.report(layout, deep=deep).problems


def test_whole_ones_are_no_problem(layout: Layout) -> None:
    found = verify.report(layout, deep=True)
    assert found.good
    assert [(one.name, one.step, one.note) for one in found.snapshots] == [("2026-11-22", 30, "whole, belongs")]
    assert found.archive_files == made.FILES
    assert verify.report(layout).archive_files is None


@pytest.mark.parametrize("name", ["checkpoint-30/optimizer.pt", "adapter_model.safetensors", "ledger.db"])
def test_g8_a_file_rewritten_in_place_is_found(layout: Layout, name: str) -> None:
    durable.remove_tree(layout.checkpoint(30))  # the snapshot has it to itself now
    rewritten(layout.snapshots / "2026-11-22" / name)
    assert problems(layout, deep=False) == []  # the control: sizes do not tell
    (found,) = problems(layout, deep=True)
    assert found.startswith("Snapshot 2026-11-22: ")
    assert "does not match its hash" in found


def test_g8_rewriting_the_checkpoint_changes_the_snapshot_and_both_are_found(layout: Layout) -> None:
    rewritten(layout.checkpoint(30) / "optimizer.pt")
    assert len(problems(layout, deep=False)) == 1
    assert len(problems(layout, deep=True)) == 2


def test_a_file_that_is_missing_or_cut_short_is_found_without_reading(layout: Layout) -> None:
    (layout.snapshots / "2026-11-22" / "nightschool.toml").unlink()
    assert problems(layout, deep=False) == ["Snapshot 2026-11-22: nightschool.toml is missing."]


def test_a_folder_that_was_never_finished_is_found(layout: Layout) -> None:
    (layout.snapshots / "2026-11-22" / durable.MANIFEST).unlink()
    (found,) = problems(layout, deep=False)
    assert "is no whole snapshot" in found


def test_a_snapshot_of_a_history_that_was_undone_is_whole_all_the_same(layout: Layout) -> None:
    made.snapshot(layout, "later", "named")
    with Ledger.open(layout.ledger) as ledger:
        kept = ledger.entries.all()[:3]
        ledger.entries.replace_all(kept)
        ledger.steps.delete_after(30)
        ledger.checkpoints.retire(40, "undone")
    durable.remove_tree(layout.checkpoint(40))
    found = verify.report(layout, deep=True)
    assert found.problems == []
    assert [one.note for one in found.snapshots] == ["whole, belongs", "whole, of an earlier history"]


def test_a_snapshot_of_another_run_is_a_problem(layout: Layout, tmp_path: Path) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("root", {**made.ROOT, "seed": 43})
    (found,) = [text for text in problems(layout, deep=False) if text.startswith("Snapshot")]
    assert "belongs to another run" in found


def test_archived_files_are_compared_with_what_was_dropped(layout: Layout) -> None:
    first, second, *_ = sorted((layout.archive / "2026-11-20").iterdir())
    rewritten(first)
    second.unlink()
    assert problems(layout, deep=False) == []
    assert problems(layout, deep=True) == [
        "archive/2026-11-20/1.jsonl: its bytes are no longer those that were dropped.",
        "archive/2026-11-20/2.jsonl: it is missing.",
    ]


def test_a_folder_that_is_gone_is_not_an_empty_one(layout: Layout) -> None:
    layout.snapshots.rename(layout.root / "elsewhere")
    (found,) = problems(layout, deep=False)
    assert "is not there" in found


def test_one_that_is_removed_while_it_is_read_is_no_problem(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a purge, or by retention, which wait for nobody who reads."""
    folder, real = layout.snapshots / "2026-11-22", durable.check

    def check(path: Path, *arguments: Any, **more: Any) -> list[str]:
        if path == folder:
            durable.remove_tree(folder)
        return real(path, *arguments, **more)

    monkeypatch.setattr(durable, "check", check)
    found = verify.report(layout, deep=True)
    assert not folder.exists()
    assert found.problems == []
    assert found.snapshots == []
