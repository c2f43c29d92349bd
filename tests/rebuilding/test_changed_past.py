"""A lost ledger of a run whose past was changed: what was forgotten is not learned again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from nightschool import Workspace, queueing
from nightschool.ledger import Ledger
from nightschool.rebuilding.rebuild import rebuild
from nightschool.record import entries_of, write_generation
from nightschool.training import future
from nightschool.workspace import Layout
from tests.rebuilding import making


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
    before, rows = making.core(layout), making.rows(layout)
    making.ruin(layout, "flipped")
    told = rebuild(layout)
    assert (told.copy, told.held) == (f"snapshots/{making.DAY}/ledger.db", [])
    assert making.core(layout) == before
    assert making.rows(layout) == rows


def test_c9_after_a_rollback_and_a_new_checkpoint_the_order_to_come_is_known(layout: Layout) -> None:
    """Back to step 5, `again`: b and c are trained once more. The next checkpoint says so, copy or not."""
    Workspace(layout).rollback(5, waiting=str)
    making.save(layout, 6, generation=1)
    before = making.core(layout)
    shutil.rmtree(layout.undone / "0")
    making.ruin(layout, "deleted")
    told = rebuild(layout)
    assert making.core(layout)["entries"] == before["entries"]
    assert making.states(layout)["c.jsonl"] == "training"
    # Without a copy it is not known whether what waits was forgotten in that change.
    assert {name for name, _ in told.held} == {"d.jsonl", "e9.jsonl", "e10.jsonl"}


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


def test_c9_the_rest_of_a_skipped_file_waits_again_or_is_put_back_by_hand(tmp_path: Path) -> None:
    """A copy of the ledger knows that it waits; without one it is set aside, and nothing of it is lost."""
    layout = making.workspace(tmp_path / "ws")
    for name in ("a.jsonl", "b.jsonl"):
        making.begin(layout, making.drop(layout, name))
    with Ledger.open(layout.ledger) as ledger:
        first, second = entries_of(ledger)
        future.rewrite(ledger, [first, second], [replace(first, stop=1), second], 1)
    making.save(layout, 3)
    with Ledger.open(layout.ledger) as ledger:
        queueing.skip(ledger, first.file_ids, first.recipe)
    making.snapshot(layout, making.DAY, 3)
    making.ruin(layout, "deleted")
    rebuild(layout)
    assert making.states(layout) == {"a.jsonl": "skipped", "b.jsonl": "training"}
    shutil.rmtree(layout.snapshots / making.DAY)
    making.ruin(layout, "deleted")
    for copy in layout.state.glob("*.db*"):
        copy.unlink()
    rebuild(layout)
    assert making.states(layout) == {"a.jsonl": "set_aside", "b.jsonl": "training"}
    with Ledger.open(layout.ledger) as ledger:
        row = ledger.files.get(1)
        assert row.reason == "shelved after 1 of its 3 steps"
        assert "with the 2 of its 3 steps that are left" in queueing.put_back(ledger, [row])
        assert ledger.files.next_to_train() == ledger.files.get(1)
