"""A lost ledger, made again: what is known comes back, what is not is said, and nothing is learned twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nightschool import Workspace, checkup, durable, errors
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.rebuilding.rebuild import Report, rebuild
from nightschool.record import entries_of, write_generation
from nightschool.verify import report as verified
from nightschool.workspace import Layout
from tests.durable.faults import files_below, killed_at
from tests.rebuilding import making

RUINS = ["deleted", "empty", "truncated", "garbage", "flipped"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two files learned, a third in the middle, two waiting: nine steps, of which seven are done."""
    layout = making.workspace(tmp_path / "ws")
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        id = making.drop(layout, name)
        making.begin(layout, id)
    making.save(layout, 5)
    making.save(layout, 7)
    making.drop(layout, "d.jsonl")
    making.drop(layout, "e10.jsonl", ready=False, day="2026-11-23")
    making.drop(layout, "e9.jsonl", ready=False, day="2026-11-23")
    return layout


def is_sound(layout: Layout) -> bool:
    try:
        layout.require()
        with Ledger.open(layout.ledger) as ledger:
            return not ledger.check() and bool(core(layout))
    except NightschoolError:
        return False


def core(layout: Layout) -> dict[str, object]:
    """What training goes by."""
    with Ledger.open(layout.ledger) as ledger:
        files = {
            row.id: (row.name, row.state, row.sha256, row.archive, row.prepared, row.data_digest, row.sequences)
            for row in ledger.files.each()
        }
        queue = [row.name for row in ledger.files.queue()]
        there = [(row.step, row.lineage) for row in ledger.checkpoints.listing("published")]
        root = ledger.machine.get("root")
        return {"files": files, "queue": queue, "entries": entries_of(ledger), "root": root, "there": there}


@pytest.mark.parametrize("how", RUINS)
def test_c9_without_any_copy_all_that_training_goes_by_comes_back(layout: Layout, how: str) -> None:
    before = core(layout)
    old = layout.ledger.read_bytes()
    making.ruin(layout, how)
    assert not is_sound(layout)  # that this is damage at all
    told = rebuild(layout)
    after = core(layout)
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


@pytest.mark.parametrize("how", RUINS)
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
    before = core(layout)
    curve = making.curve(layout)
    making.ruin(layout, how)
    told = rebuild(layout)
    assert core(layout) == before
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
    before = core(layout)
    layout.ledger.write_bytes(old)
    told = rebuild(layout)
    assert told.copy == ".nightschool/ledger.db"
    assert core(layout) == before


def test_c9_after_a_cut_nothing_that_may_have_been_forgotten_is_learned_again(layout: Layout) -> None:
    """Back to step 5, in the middle of b; then the ledger is lost, and no copy is left."""
    undone = layout.undone / "0"
    undone.mkdir()
    shutil.move(layout.checkpoint(7), undone / "checkpoint-7")
    write_generation(layout, 1)
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    assert making.states(layout) == {
        "a.jsonl": "learned", "b.jsonl": "training", "c.jsonl": "set_aside", "d.jsonl": "set_aside",
        "e9.jsonl": "set_aside", "e10.jsonl": "set_aside",
    }  # fmt: skip
    assert {name for name, _ in told.held} == {"c.jsonl", "d.jsonl", "e9.jsonl", "e10.jsonl"}
    assert "undone/0/checkpoint-7" in dict(told.held)["c.jsonl"]
    # Control: without the number of the cut all of them would be learned.
    making.ruin(layout, "deleted")
    layout.generation_file.unlink()
    shutil.rmtree(undone)
    assert [name for name, _ in rebuild(layout).held] == []


def test_c9_a_forgotten_file_stays_forgotten(layout: Layout) -> None:
    """Forgetting is recorded in the copy of a snapshot that was taken after it."""
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_state(4, "forgotten", "forgotten")
        ledger.events.add("cut", "Forgetting d.jsonl.", step=7, generation=1)
    write_generation(layout, 1)
    making.snapshot(layout, making.DAY, 7)
    making.drop(layout, "f.jsonl")
    making.archived(layout, "d-again.jsonl", "content of d.jsonl")
    making.ruin(layout, "garbage")
    told = rebuild(layout)
    assert making.states(layout)["d.jsonl"] == "forgotten"
    assert making.states(layout)["d-again.jsonl"] == "set_aside"
    assert making.states(layout)["f.jsonl"] == "ready"
    assert told.queued == ["f.jsonl"]


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


def test_c9_a_run_never_begins_anew_in_silence(layout: Layout) -> None:
    """All present checkpoints are gone: what a snapshot says is published, so that a start refuses."""
    making.snapshot(layout, making.DAY, 7)
    for _, folder in layout.checkpoints():
        shutil.rmtree(folder)
    (layout.snapshots / making.DAY / "ledger.db").unlink()
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    assert told.state == making.DAY
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.checkpoints.newest() is not None
    shutil.rmtree(layout.snapshots / making.DAY)
    making.ruin(layout, "deleted")
    write_generation(layout, 2)
    with pytest.raises(errors.CheckpointError, match="cannot be made again"):
        rebuild(layout)
    assert not layout.ledger.exists()


def test_c9_a_lost_generation_is_written_again(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.events.add("cut", "A rollback.", generation=3)
    making.save(layout, 9, generation=3)
    making.ruin(layout, "deleted")
    layout.generation_file.unlink(missing_ok=True)
    rebuild(layout)
    assert layout.generation_file.read_text() == "3\n"
    # What was made again knows of which history it is.
    making.ruin(layout, "deleted")
    layout.generation_file.write_text("rubbish")
    assert rebuild(layout).done
    assert layout.generation_file.read_text() == "3\n"


def test_c9_no_machine_may_run(layout: Layout) -> None:
    making.ruin(layout, "deleted")
    for path in (layout.supervisor_lock, layout.trainer_lock, layout.intake_lock, layout.way_back_lock):
        with durable.Lock(path, "something"), pytest.raises(errors.BusyError):
            rebuild(layout)
    assert not layout.ledger.exists()


def test_c9_a_dry_run_changes_nothing(layout: Layout) -> None:
    making.ruin(layout, "truncated")
    before = {name: data for name, data in files_below(layout.root).items() if not name.endswith(".lock")}
    told = rebuild(layout, dry_run=True)
    after = {name: data for name, data in files_below(layout.root).items() if not name.endswith(".lock")}
    assert after == before
    done = rebuild(layout)
    assert (told.done, done.done) == (False, True)
    left_out = {"done", "broken"}
    assert {k: v for k, v in told.to_dict().items() if k not in left_out} == {
        k: v for k, v in done.to_dict().items() if k not in left_out
    }


@pytest.mark.parametrize("how", ["deleted", "truncated", "stale"])
def test_c9_killed_anywhere_the_old_ledger_or_the_new_one_is_there(layout: Layout, tmp_path: Path, how: str) -> None:
    making.snapshot(layout, making.DAY, 7)
    if how == "stale":
        old = layout.ledger.read_bytes()
        making.begin(layout, 4)
        making.save(layout, 12)
        layout.ledger.write_bytes(old)
        layout.ledger.with_name("ledger.db-journal").write_bytes(b"")
    else:
        making.ruin(layout, how)
        # A journal that SQLite would play back into whatever stands beside it.
        layout.ledger.with_name("ledger.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 600)
    before = layout.ledger.read_bytes() if layout.ledger.exists() else None
    reference = Layout(tmp_path / "reference")
    shutil.copytree(layout.root, reference.root)
    rebuild(reference)
    wanted, killed, point = core(reference), 0, 0
    while True:
        copy = Layout(tmp_path / f"copy{point}")
        shutil.copytree(layout.root, copy.root)
        if not killed_at(point, lambda: rebuild(copy)):  # noqa: B023 - called at once
            break
        killed += 1
        now = copy.ledger.read_bytes() if copy.ledger.exists() else None
        if now == before:
            assert rebuild(copy).done
        assert core(copy) == wanted
        kept = [
            path.read_bytes() for path in copy.state.glob("ledger.db.broken-*") if not path.name.endswith("-journal")
        ]
        assert before is None or before in kept
        shutil.rmtree(copy.root)
        # Everywhere, once; the others differ in what is kept of the old one, which is done in the last few operations.
        point += 1 if how == "stale" else 4
    assert killed > (30 if how == "stale" else 5)


def test_c9_the_journal_of_the_old_ledger_is_kept_beside_it(layout: Layout) -> None:
    """It is moved first: SQLite would play back, into the new ledger, whatever lies there under that name."""
    making.ruin(layout, "truncated")
    journal = layout.ledger.with_name("ledger.db-journal")
    journal.write_bytes(b"of the old one")
    told = rebuild(layout)
    assert told.broken is not None
    assert Path(f"{told.broken}-journal").read_bytes() == b"of the old one"


def test_c9_an_older_copy_is_migrated(layout: Layout) -> None:
    from nightschool.ledger import schema
    from nightschool.ledger.database import Database, utc_now

    making.snapshot(layout, making.DAY, 7)
    path = layout.snapshots / making.DAY / "ledger.db"
    path.unlink()
    old = Database(path, utc_now, may_create=True)
    schema.install(old, schema.MIGRATIONS[:1])
    old.write("INSERT INTO events (at, kind, text, fields) VALUES ('', 'x', 'from the first format', '{}')")
    old.close()
    before = path.read_bytes()
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    assert told.copy == f"snapshots/{making.DAY}/ledger.db"
    assert path.read_bytes() == before
    with Ledger.open(layout.ledger) as ledger:
        assert "from the first format" in [event.text for event in ledger.events.latest()]
    assert making.states(layout)["a.jsonl"] == "learned"


@pytest.mark.parametrize("how", RUINS)
def test_c9_errors_name_the_way_out(layout: Layout, how: str) -> None:
    making.ruin(layout, how)
    said = [f"{one.found} {one.advice}" for one in (*checkup.examine(lambda: layout),) if one.verdict == "bad"]
    assert any("nightschool doctor --rebuild-ledger" in text for text in said)
    if how in ("empty", "garbage"):
        with pytest.raises(errors.StorageError, match="--rebuild-ledger"):
            Ledger.open(layout.ledger)
    if how == "deleted":
        with pytest.raises(errors.WorkspaceError, match="--rebuild-ledger"):
            layout.require()


def test_c10_an_archive_that_is_not_there_is_not_an_empty_one(layout: Layout) -> None:
    making.ruin(layout, "deleted")
    layout.archive.rename(layout.root / "elsewhere")
    with pytest.raises(errors.WorkspaceError, match="archive"):
        rebuild(layout)


def test_the_report_is_json(layout: Layout) -> None:
    making.ruin(layout, "deleted")
    told: Report = rebuild(layout, dry_run=True)
    assert json.loads(json.dumps(told.to_dict()))["files"] == {"learned": 2, "training": 1, "ready": 1, "archived": 2}


def test_c9_after_a_real_forgetting_the_copy_of_before_brings_nothing_back(layout: Layout) -> None:
    """Forgets c, of which two steps are done, and then loses the ledger before anything is saved again."""
    Workspace(layout).forget(["c.jsonl"], waiting=str)
    assert making.states(layout)["c.jsonl"] == "forgotten"
    before = making.rows(layout)
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    # The copy was made before, and knows nothing of it: neither c nor what waited is learned without being asked for.
    assert told.copy == "undone/0/ledger.db"
    after = making.states(layout)
    assert (after["c.jsonl"], after["d.jsonl"], after["e9.jsonl"]) == ("set_aside", "set_aside", "set_aside")
    assert (after["a.jsonl"], after["b.jsonl"]) == ("learned", "training")
    assert {name: row.id for name, row in making.rows(layout).items()} == {name: row.id for name, row in before.items()}
    assert layout.generation_file.read_text() == "1\n"


def test_c9_a_snapshot_after_a_forgetting_knows_all_of_it(layout: Layout) -> None:
    Workspace(layout).forget(["c.jsonl"], waiting=str)
    making.snapshot(layout, making.DAY, 5)
    before, rows = core(layout), making.rows(layout)
    making.ruin(layout, "flipped")
    told = rebuild(layout)
    assert (told.copy, told.held) == (f"snapshots/{making.DAY}/ledger.db", [])
    assert core(layout) == before
    assert making.rows(layout) == rows


def test_c9_after_a_rollback_and_a_new_checkpoint_the_order_to_come_is_known(layout: Layout) -> None:
    """Back to step 5, `again`: b and c are trained once more. The next checkpoint says so, copy or not."""
    Workspace(layout).rollback(5, waiting=str)
    making.save(layout, 6, generation=1)
    before = core(layout)
    shutil.rmtree(layout.undone / "0")
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    assert core(layout)["entries"] == before["entries"]
    assert making.states(layout)["c.jsonl"] == "training"
    # Without a copy it is not known whether what waits was forgotten in that change.
    assert {name for name, _ in told.held} == {"d.jsonl", "e9.jsonl", "e10.jsonl"}
