"""Making a lost ledger again is refused where it must be, and safe to end anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nightschool import checkup, durable, errors
from nightschool.ledger import Ledger
from nightschool.rebuilding.rebuild import Report, rebuild
from nightschool.record import write_generation
from nightschool.workspace import Layout
from tests.durable.faults import files_below, killed_at
from tests.rebuilding import making


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
    wanted, killed, point = making.core(reference), 0, 0
    while True:
        copy = Layout(tmp_path / f"copy{point}")
        shutil.copytree(layout.root, copy.root)
        if not killed_at(point, lambda: rebuild(copy)):  # noqa: B023 - called at once
            break
        killed += 1
        now = copy.ledger.read_bytes() if copy.ledger.exists() else None
        if now == before:
            assert rebuild(copy).done
        assert making.core(copy) == wanted
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


@pytest.mark.parametrize("how", making.RUINS)
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
