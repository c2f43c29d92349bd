"""A lost ledger, made again: what is known comes back, what is not is said, and nothing is learned twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nightschool import errors
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.rebuilding.rebuild import rebuild
from nightschool.record import entries_of
from nightschool.verify import report as verified
from nightschool.workspace import Layout
from tests.rebuilding import making


def is_sound(layout: Layout) -> bool:
    try:
        layout.require()
        with Ledger.open(layout.ledger) as ledger:
            return not ledger.check() and bool(making.core(layout))
    except NightschoolError:
        return False


@pytest.mark.parametrize("how", making.RUINS)
def test_c9_without_any_copy_all_that_training_goes_by_comes_back(layout: Layout, how: str) -> None:
    before = making.core(layout)
    old = layout.ledger.read_bytes()
    making.ruin(layout, how)
    assert not is_sound(layout)  # that this is damage at all
    told = rebuild(layout)
    after = making.core(layout)
    # The queue is by day and natural name: e9 was dropped after e10, and the ledger alone knew.
    assert after["queue"] == ["d.jsonl", "e9.jsonl", "e10.jsonl"]
    assert [after[key] for key in ("entries", "root", "there")] == [before[key] for key in ("entries", "root", "there")]
    named = {row[0]: row for row in after["files"].values()}  # type: ignore[attr-defined]
    assert named == {row[0]: row for row in before["files"].values()}  # type: ignore[attr-defined]
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):  # those that checkpoints name by number
        assert making.rows(layout)[name].id == next(id for id, row in before["files"].items() if row[0] == name)  # type: ignore[attr-defined]
    assert (told.copy, told.held, told.unmatched) == (None, [], [])
    assert told.queued == ["d.jsonl", "e9.jsonl", "e10.jsonl"]
    kept = [path for path in layout.state.glob("ledger.db.broken-*") if not path.name.endswith("-journal")]
    assert len(kept) == (0 if how == "deleted" else 1)
    assert how == "deleted" or kept[0].read_bytes() != old


def test_c9_steps_that_only_the_ledger_knew_are_counted_and_verify_says_so(layout: Layout) -> None:
    assert verified(layout).lost_steps == 0
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    # Each checkpoint has its last three losses: 3 to 7.
    assert making.curve(layout) == [(step, making.loss(step)) for step in range(3, 8)]
    assert (told.lost, told.steps) == ([(1, 2)], 5)
    found = verified(layout)
    assert (found.lost_steps, found.missing_steps) == (2, 0)
    assert not [text for text in found.problems if "holes" in text]


def test_c9_control_a_hole_that_was_not_lost_with_the_ledger_is_a_problem(layout: Layout) -> None:
    making.ruin(layout, "deleted")
    rebuild(layout)
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.delete("lost_steps")
    assert [text for text in verified(layout).problems if "holes" in text]


@pytest.mark.parametrize("how", making.RUINS)
def test_c9_a_copy_in_a_snapshot_is_brought_forward(tmp_path: Path, how: str) -> None:
    layout = making.workspace(tmp_path / "ws")
    ids = [making.drop(layout, name) for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    making.begin(layout, ids[0])
    making.save(layout, 3)
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_aside(ids[2], "not wanted")
    making.snapshot(layout, making.DAY, 3)
    making.begin(layout, ids[1])
    making.save(layout, 5, known=2)
    new = making.drop(layout, "d.jsonl", priority="high")
    before = making.core(layout)
    curve = making.curve(layout)
    making.ruin(layout, how)
    told = rebuild(layout)
    assert making.core(layout) == before
    assert making.curve(layout) == curve
    assert told.copy == f"snapshots/{making.DAY}/ledger.db"
    assert (told.lost, told.queued, told.held) == ([], ["d.jsonl"], [])
    assert making.states(layout) == {
        "a.jsonl": "learned", "b.jsonl": "training", "c.jsonl": "set_aside", "d.jsonl": "ready",
    }  # fmt: skip
    assert making.rows(layout)["c.jsonl"].reason == "not wanted"
    assert making.rows(layout)["d.jsonl"].id == new


def test_c9_the_newest_whole_copy_is_used(layout: Layout) -> None:
    first = making.snapshot(layout, "2026-11-20", 5)
    making.drop(layout, "f.jsonl")
    second = making.snapshot(layout, "2026-11-21", 7)
    making.ruin(layout, "deleted")
    assert rebuild(layout, dry_run=True).copy == "snapshots/2026-11-21/ledger.db"
    (second / "ledger.db").write_bytes((second / "ledger.db").read_bytes()[:3000])
    told = rebuild(layout)
    assert told.copy == f"snapshots/{first.name}/ledger.db"
    assert any("2026-11-21" in note and "damaged" in note for note in told.notes)


def test_c9_a_sound_ledger_is_left_alone_and_one_from_an_old_backup_is_brought_forward(layout: Layout) -> None:
    with pytest.raises(errors.WorkspaceError, match="is sound"):
        rebuild(layout)
    old = layout.ledger.read_bytes()
    id = making.drop(layout, "f.jsonl")
    making.begin(layout, id)
    making.save(layout, 10)
    before = making.core(layout)
    layout.ledger.write_bytes(old)
    told = rebuild(layout)
    assert told.copy == ".nightschool/ledger.db"
    assert making.core(layout) == before


def test_c9_a_learned_file_whose_prepared_data_is_gone_is_never_learned_twice(layout: Layout) -> None:
    """Nothing leads from a to its bytes: no file that may be it is queued, and the run goes on with c all the same."""
    row = making.rows(layout)["a.jsonl"]
    shutil.rmtree(layout.prepared / str(row.prepared))
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    found = making.rows(layout)
    assert "a.jsonl" in {name for name, _ in told.held}
    assert found["a.jsonl"].state == "set_aside"
    assert [name for name, _ in told.held] == ["a.jsonl", "e9.jsonl", "e10.jsonl"]
    assert found["d.jsonl"].state == "ready"  # it was prepared, and is none of the learned ones
    placeholder = found[told.unmatched[0].split(" ")[0]]
    assert (placeholder.id, placeholder.state, placeholder.archive) == (row.id, "learned", None)
    with Ledger.open(layout.ledger) as ledger:
        assert entries_of(ledger)[0].file_ids == (row.id,)


def test_c9_the_file_in_training_is_found_by_its_name_and_proved_when_prepared_again(layout: Layout) -> None:
    row = making.rows(layout)["c.jsonl"]
    shutil.rmtree(layout.prepared / str(row.prepared))
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    found = making.rows(layout)["c.jsonl"]
    assert told.by_name == ["c.jsonl"]
    # Intake looks for this folder, makes it again under the frozen recipe, and compares the digest.
    assert (found.prepared, found.data_digest, found.state) == (row.prepared, row.data_digest, "training")
    assert (found.archive, found.sha256) == (row.archive, row.sha256)


def test_c9_rejected_files_stay_rejected(layout: Layout) -> None:
    from nightschool.intake import rejected

    id = making.drop(layout, "bad.jsonl", ready=False)
    with Ledger.open(layout.ledger) as ledger:
        rejected.reject(layout, ledger, ledger.files.get(id), "every row is bad")
    before = making.rows(layout)["bad.jsonl"]
    making.ruin(layout, "deleted")
    rebuild(layout)
    after = making.rows(layout)["bad.jsonl"]
    assert (after.id, after.state, after.reason, after.archive, after.sha256) == (
        before.id, "rejected", before.reason, before.archive, before.sha256,
    )  # fmt: skip


def test_c9_the_same_bytes_are_not_learned_again_under_another_name(layout: Layout) -> None:
    making.archived(layout, "a-copy.jsonl", "content of a.jsonl")
    making.ruin(layout, "deleted")
    rebuild(layout)
    # Which of the two names was learned is not known, nor does it matter; the other is not.
    both = {row.state: row for name, row in making.rows(layout).items() if name in ("a.jsonl", "a-copy.jsonl")}
    assert set(both) == {"learned", "duplicate"}
    assert both["duplicate"].duplicate_of == both["learned"].id == 1


def test_c9_what_add_had_handed_over_is_not_lost(layout: Layout) -> None:
    (layout.incoming / "0011-000000").write_text("handed over")
    (layout.incoming / "taken").mkdir()
    (layout.incoming / "taken/9").write_text("on its way")
    (layout.incoming / "taken/4").write_text("content of d.jsonl")
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    rows = making.rows(layout)
    assert rows["added-0011-000000"].source == str(layout.incoming / "0011-000000")
    assert (rows["added-9"].id, rows["added-9"].state) == (9, "arrived")
    assert Path(rows["added-9"].source).parent == layout.incoming
    assert rows["d.jsonl"].id == 4
    assert set(told.queued) >= {"added-0011-000000", "added-9"}


def test_c9_a_damaged_newest_checkpoint_still_says_what_was_begun(layout: Layout) -> None:
    id = making.drop(layout, "f.jsonl")
    making.begin(layout, id)
    (making.save(layout, 10) / "optimizer.pt").write_bytes(b"moments!!!")
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    assert (told.state, told.step) == ("checkpoint-7", 7)
    assert making.states(layout)["f.jsonl"] == "training"
    with Ledger.open(layout.ledger) as ledger:
        assert [row.step for row in ledger.checkpoints.listing("published")] == [5, 7]
