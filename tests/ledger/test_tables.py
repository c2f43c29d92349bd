"""The smaller families: entries, checkpoints, boundaries, events, small values."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool.ledger import EntryRow, HoldoutRow, Ledger

from .support import connection, plan, statements, step


def append(ledger: Ledger, *file_ids: int) -> list[int]:
    return [ledger.entries.append([(file_id, f"digest {file_id}", 40)], '{"v":1}', 10) for file_id in file_ids]


def test_entries_count_from_zero_and_keep_their_exact_recipe(ledger: Ledger, path: Path) -> None:
    recipe = '{"lr":1e-4,"name":"夜校 🌙","template":"a\\nb\\u0000"}\n '
    assert ledger.entries.append([(7, "digest", 40)], recipe, 10) == 0
    assert ledger.entries.append([(8, "digest", 40), (9, "other", 2)], "{}", 10, start=2, stop=5) == 1
    with Ledger.open(path) as other:
        first, second = other.entries.all()
    assert (first.position, first.parts, first.recipe, first.start, first.stop) == (
        0,
        ((7, "digest", 40),),
        recipe,
        0,
        10,
    )
    assert second.parts == ((8, "digest", 40), (9, "other", 2))
    assert (second.position, second.steps_total, second.start, second.stop) == (1, 10, 2, 5)
    assert first.began_at <= second.began_at


def test_entries_can_be_read_one_by_one(ledger: Ledger) -> None:
    assert ledger.entries.last() is None
    append(ledger, 5, 6, 5)
    last = ledger.entries.last()
    assert last is not None
    assert (last.position, ledger.entries.get(1).file_ids) == (2, (6,))
    assert [row.position for row in ledger.entries.of_file(5)] == [0, 2]
    with pytest.raises(KeyError, match="position 3"):
        ledger.entries.get(3)


def test_g5_a_cut_replaces_the_whole_list_or_nothing(ledger: Ledger) -> None:
    append(ledger, 1, 2, 3)
    before = ledger.entries.all()
    cut = [before[0], replace(before[2], stop=4)]
    ledger.entries.replace_all(cut)
    assert ledger.entries.all() == [before[0], replace(before[2], stop=4, position=1)]
    now = ledger.entries.all()
    with pytest.raises(ValueError, match="does not lie in"):
        ledger.entries.replace_all([before[0], replace(before[1], stop=11)])
    assert ledger.entries.all() == now
    assert append(ledger, 9) == [2]


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 11)])
def test_entry_ranges_that_cannot_be_are_refused(ledger: Ledger, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="does not lie in 10 steps"):
        ledger.entries.append([(1, "digest", 40)], "{}", 10, start, stop)
    assert ledger.entries.all() == []


def test_a_list_that_is_rewritten_between_two_pages_is_read_again(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [EntryRow(at, ((at, "digest", 40),), "{}", 10, 0, 10, "") for at in range(1200)]
    ledger.entries.replace_all(rows)
    pages, read = ledger.entries._pages, []

    def interrupted():
        for page in pages():
            yield page
            if not read:
                read.append(page)
                with Ledger.open(path) as other:
                    other.entries.replace_all(
                        [replace(row, parts=((row.position + 5000, "digest", 40),)) for row in rows[:900]]
                    )

    monkeypatch.setattr(ledger.entries, "_pages", interrupted)
    found = ledger.entries.all()
    assert [row.file_ids[0] for row in found] == [5000 + at for at in range(900)]
    assert read[0][0].file_ids == (0,)  # control: the pages alone would have mixed the two lists


def publish(ledger: Ledger, *steps: int, generation: int = 0) -> None:
    for number in steps:
        ledger.checkpoints.publish(
            number, generation, f"lineage {number}", f"current_model/checkpoint-{number}", 10, 20, 1.5, 0.1
        )


def test_a6_the_newest_checkpoint_is_chosen_by_number(ledger: Ledger) -> None:
    assert ledger.checkpoints.newest() is None
    publish(ledger, 900, 2600, 1250)
    newest = ledger.checkpoints.newest()
    assert newest is not None
    assert (newest.step, newest.path, newest.seconds, newest.stalled_seconds) == (
        2600,
        "current_model/checkpoint-2600",
        1.5,
        0.1,
    )
    assert [row.step for row in ledger.checkpoints.listing()] == [900, 1250, 2600]


def test_g4_a_higher_number_of_an_older_generation_is_not_the_newest(ledger: Ledger) -> None:
    publish(ledger, 1000, 2000)
    publish(ledger, 1500, generation=1)
    newest = ledger.checkpoints.newest()
    assert newest is not None
    assert (newest.step, newest.generation) == (1500, 1)


def test_g6_the_same_step_may_come_again_after_a_cut(ledger: Ledger) -> None:
    publish(ledger, 1000, 2000)
    assert ledger.checkpoints.retire(2000, "rolled back", state="undone", path="undone/1/checkpoint-2000") == 1
    publish(ledger, 2000, generation=1)
    rows = [(row.step, row.generation, row.state, row.path) for row in ledger.checkpoints.listing()]
    assert rows == [
        (1000, 0, "published", "current_model/checkpoint-1000"),
        (2000, 0, "undone", "undone/1/checkpoint-2000"),
        (2000, 1, "published", "current_model/checkpoint-2000"),
    ]


def test_checkpoints_are_retired_once_and_with_a_reason(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3)
    assert ledger.checkpoints.retire(1, "older than the newest 3") == 1
    assert ledger.checkpoints.retire(1, "again") == 0
    assert ledger.checkpoints.retire(2, "optimizer.pt is too short", state="damaged") == 1
    assert [(row.step, row.reason) for row in ledger.checkpoints.listing("retired")] == [(1, "older than the newest 3")]
    assert [row.step for row in ledger.checkpoints.listing("published")] == [3]
    assert [row.step for row in ledger.checkpoints.listing(limit=2)] == [2, 3]
    with pytest.raises(ValueError, match="cannot be retired"):
        ledger.checkpoints.retire(3, "why", state="published")


def test_b2_a_checkpoint_recorded_again_by_a_repair_is_one_row(ledger: Ledger) -> None:
    publish(ledger, 5)
    ledger.checkpoints.retire(5, "mistaken")
    publish(ledger, 5)
    assert [(row.step, row.state, row.reason) for row in ledger.checkpoints.listing()] == [(5, "published", None)]


def test_a4_a_boundary_says_whether_the_state_was_carried(ledger: Ledger) -> None:
    ledger.boundaries.before(0, 0, "abc")
    row = ledger.boundaries.get(0)
    assert row is not None
    assert (row.digest_after, row.carried) == (None, None)
    assert ledger.boundaries.after(0, "abc", "carried over") is True
    ledger.boundaries.before(1, 40, "abc")
    assert ledger.boundaries.after(1, "xyz") is False
    rows = [(row.position, row.step, row.carried, row.note) for row in ledger.boundaries.listing()]
    assert rows == [(0, 0, True, "carried over"), (1, 40, False, None)]
    ledger.boundaries.before(1, 40, "new")  # done again after a restart
    row = ledger.boundaries.get(1)
    assert row is not None
    assert (row.digest_before, row.digest_after, row.carried) == ("new", None, None)
    ledger.boundaries.delete_from(1)
    assert [row.position for row in ledger.boundaries.listing()] == [0]
    assert ledger.boundaries.get(1) is None
    with pytest.raises(KeyError, match="position 1"):
        ledger.boundaries.after(1, "xyz")


def test_every_boundary_is_read_however_many_there_are(ledger: Ledger) -> None:
    with ledger.transaction():
        for position in range(1001):
            ledger.boundaries.before(position, position * 10, "digest")
    assert [row.position for row in ledger.boundaries.each()] == list(range(1001))
    assert len(ledger.boundaries.listing()) == 500
    assert [row.position for row in ledger.boundaries.listing(after=998)] == [999, 1000]


def test_events_keep_their_fields(ledger: Ledger, path: Path) -> None:
    first = ledger.events.add("began", "Began a.jsonl", file=3, where=Path("/a b"), kind="of its own", text=None)
    ledger.events.add("note", "nothing more")
    with Ledger.open(path) as other:
        began, note = other.events.since()
        assert other.events.since(first) == other.events.latest(1) == [note]
    assert (began.kind, began.text, note.fields) == ("began", "Began a.jsonl", {})
    assert began.fields == {"file": 3, "where": "/a b", "kind": "of its own", "text": None}


def test_e11_what_json_cannot_hold_becomes_text(ledger: Ledger) -> None:
    ledger.events.add("loss", "not a number", loss=math.nan, more=[math.inf, {"deep": -math.inf}, 1.5])
    (event,) = ledger.events.since()
    assert event.fields == {"loss": "nan", "more": ["inf", {"deep": "-inf"}, 1.5]}
    (stored,) = connection(ledger).execute("SELECT fields FROM events").fetchone()
    json.loads(stored, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_events_of_a_kind_are_the_newest_ones_in_order(ledger: Ledger) -> None:
    for number in range(10):
        ledger.events.add("even" if number % 2 == 0 else "odd", str(number))
    assert [event.text for event in ledger.events.of_kind("even", limit=3)] == ["4", "6", "8"]
    assert [event.text for event in ledger.events.since(limit=2)] == ["0", "1"]
    assert ledger.events.of_kind("none") == []


def test_event_ids_are_never_given_twice(ledger: Ledger) -> None:
    first = ledger.events.add("a", "b")
    connection(ledger).execute("DELETE FROM events")
    assert ledger.events.add("a", "b") > first


@pytest.mark.parametrize("value", [None, False, 0, "", "夜校", [1, [2]], {"word": "training", "since": 1.5}])
def test_small_values_come_back(ledger: Ledger, path: Path, value: object) -> None:
    missing = object()
    assert ledger.machine.get("key", missing) is missing
    assert ledger.machine.updated_at("key") is None
    ledger.machine.set("key", "something else")
    ledger.machine.set("key", value)
    with Ledger.open(path) as other:
        assert other.machine.get("key", missing) == value
        assert other.machine.all() == {"key": value}
        assert other.machine.updated_at("key") is not None
    ledger.machine.delete("key")
    ledger.machine.delete("key")
    assert ledger.machine.all() == {}


def test_a_value_that_is_no_json_is_refused_and_nothing_changes(ledger: Ledger) -> None:
    ledger.machine.set("key", 1)
    with pytest.raises(TypeError):
        ledger.machine.set("key", object())
    assert ledger.machine.get("key") == 1


def test_h7_no_read_sorts_or_looks_at_a_whole_long_table(ledger: Ledger) -> None:
    append(ledger, 1, 2)
    publish(ledger, 1, 2)
    ledger.steps.record([step(1)])
    reads = [
        lambda: list(ledger.files.each()),
        lambda: list(ledger.files.each("learned")),
        lambda: ledger.files.find_learnable_duplicate("x", 1),
        lambda: ledger.entries.all(),
        lambda: ledger.entries.last(),
        lambda: ledger.entries.of_file(1),
        lambda: ledger.steps.last(),
        lambda: ledger.steps.range(0, 9),
        lambda: list(ledger.steps.losses()),
        lambda: ledger.steps.buckets(64),
        lambda: ledger.steps.count(),
        lambda: ledger.checkpoints.newest(),
        lambda: ledger.checkpoints.listing("published"),
        lambda: ledger.boundaries.listing(),
        lambda: ledger.holdouts.at(3),
        lambda: ledger.holdouts.of_files(1, 500),
        lambda: ledger.events.since(5),
        lambda: ledger.events.of_kind("began"),
        lambda: ledger.machine.get("state"),
    ]
    for read in reads:
        for sql in statements(ledger, read):
            found = plan(ledger, sql)
            assert "TEMP B-TREE" not in found, sql
            # The last row of a table is the first one of a scan from its end; the one-row table is scanned.
            # So is the page of entries whose files are looked up.
            found = found.replace("SCAN (subquery-1)", "")
            assert "SCAN" not in found or "LIMIT 1" in sql or "entries_revision" in sql, sql
    bare = "SELECT * FROM steps WHERE loss > 3 ORDER BY loss"
    assert "SCAN" in plan(ledger, bare)
    assert "TEMP B-TREE" in plan(ledger, bare)


def test_what_was_measured_around_entries_goes_with_them(ledger: Ledger) -> None:
    first, again, other = (
        HoldoutRow(0, 5, 7, 90, 3.0, 2.5),
        HoldoutRow(2, 5, 7, 90, 2.4, None),
        HoldoutRow(2, 6, 1, 9, 1.0, None),
    )
    ledger.holdouts.record([first, again, other])
    assert ledger.holdouts.at(2) == [again, other]
    assert ledger.holdouts.of_files(1, 5) == {5: again}
    ledger.holdouts.delete_from(1)
    assert ledger.holdouts.of_files(1, 9) == {5: first}
    ledger.holdouts.record([replace(first, loss_after=2.0)])
    assert ledger.holdouts.at(0) == [replace(first, loss_after=2.0)]
