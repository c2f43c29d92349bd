"""What is marked on the curve: files, resumes, cuts, snapshots, numerics; bounded, and read on from where it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.dashboard import marks as module
from nightschool.dashboard.marks import Marked, Stretch, longest
from nightschool.dashboard.shapes import Marks
from nightschool.ledger import Arrival, EntryRow, Ledger

from .made import fill, row


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.db") as made:
        yield made


def files(ledger: Ledger, *names: str) -> list[int]:
    return ledger.files.arrive([Arrival(name, f"/dropped/{name}") for name in names])


def entry(ledger: Ledger, ids: list[int], steps: int, start: int = 0, recipe: str = "{}") -> None:
    ledger.entries.append([(id, f"d{id}", steps) for id in ids], recipe, start + steps, start)


def done(ledger: Ledger, steps: int) -> None:
    fill(ledger, (row(step) for step in range(1, steps + 1)))


def told(found: Marks) -> list[tuple[str, int, int]]:
    return [(one.name, one.first, one.last) for one in found.files]


def test_files_are_marked_with_the_steps_that_were_done_on_them(ledger: Ledger) -> None:
    a, b, c, d = files(ledger, "a.jsonl", "b.jsonl", "<script>.jsonl", "later.jsonl")
    entry(ledger, [a], 10)
    entry(ledger, [b, c], 20)
    entry(ledger, [c], 30)
    entry(ledger, [d], 40)
    done(ledger, 45)
    marked = Marked()
    found = marked.marks(ledger)
    assert told(found) == [("a.jsonl", 1, 10), ("b.jsonl and 1 more", 11, 30), ("<script>.jsonl", 31, 45)]
    assert [one.ids for one in found.files] == [[a], [b, c], [c]]
    assert (found.files_left_out, found.marks, found.marks_left_out) == (0, [], 0)
    assert told(marked.marks(ledger, 10, 11)) == told(found)[:2]
    assert told(marked.marks(ledger, 11, 30)) == told(found)[1:2]
    assert told(marked.marks(ledger, 46, 90)) == []


def test_a_file_that_was_interrupted_is_marked_twice_and_one_with_new_settings_once(ledger: Ledger) -> None:
    a, b = files(ledger, "a.jsonl", "b.jsonl")
    entry(ledger, [a], 10)
    entry(ledger, [b], 5)
    entry(ledger, [a], 10, start=10)
    entry(ledger, [a], 10, start=20, recipe='{"learning_rate":1}')
    done(ledger, 35)
    assert told(Marked().marks(ledger)) == [("a.jsonl", 1, 10), ("b.jsonl", 11, 15), ("a.jsonl", 16, 35)]


def test_an_entry_that_is_added_is_read_alone_and_a_list_that_is_rewritten_anew(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = files(ledger, *(f"{number}.jsonl" for number in range(5)))
    for id in ids[:3]:
        entry(ledger, [id], 10)
    done(ledger, 100)
    marked = Marked()
    marked.marks(ledger)
    asked: list[int] = []
    real = ledger.entries.extents
    monkeypatch.setattr(ledger.entries, "extents", lambda after, limit: asked.append(after) or real(after, limit))
    entry(ledger, [ids[3]], 10)
    assert told(marked.marks(ledger))[-1] == ("3.jsonl", 31, 40)
    assert asked == [2]
    rows = ledger.entries.all()
    ledger.entries.replace_all([rows[3], rows[0]])
    assert told(marked.marks(ledger)) == [("3.jsonl", 1, 10), ("0.jsonl", 11, 20)]
    assert asked == [2, -1]


def test_control_a_rewritten_list_is_not_seen_without_its_revision(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ledger.entries), "revision", lambda self: 0)
    with pytest.raises(AssertionError):
        test_an_entry_that_is_added_is_read_alone_and_a_list_that_is_rewritten_anew(ledger, monkeypatch)


def test_a_list_that_is_rewritten_while_it_is_read_is_read_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = files(ledger, "a.jsonl", "b.jsonl")
    entry(ledger, [a], 10)
    entry(ledger, [b], 10)
    done(ledger, 20)
    rows, real = ledger.entries.all(), ledger.entries.file_ids

    def rewriting(position: int) -> tuple[int, ...]:
        if ledger.entries.revision() == 0:
            ledger.entries.replace_all([rows[1]])
        return real(position)

    monkeypatch.setattr(ledger.entries, "file_ids", rewriting)
    assert told(Marked().marks(ledger)) == [("b.jsonl", 1, 10)]


def test_with_ten_thousand_files_the_longest_are_told_in_few_reads(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 10_000
    ids = files(ledger, *(f"{at}.jsonl" for at in range(number)))
    rows = [EntryRow(at, ((id, "d", 1),), "{}", 9, 0, 1 + at % 7, "") for at, id in enumerate(ids)]
    ledger.entries.replace_all(rows)
    ledger.steps.record([row(50_000)])
    read: list[int] = []
    real = type(ledger._database).rows

    def counted(self: Any, sql: str, parameters: Any = ()) -> list[Any]:
        found = real(self, sql, parameters)
        read.append(len(found))
        return found

    monkeypatch.setattr(type(ledger._database), "rows", counted)
    marked = Marked()
    found = marked.marks(ledger)
    assert max(read) == module.PAGE
    assert (len(found.files), found.files_left_out) == (module.FILES, number - module.FILES)
    assert {one.last - one.first + 1 for one in found.files} == {7}
    assert [one.first for one in found.files] == sorted(one.first for one in found.files)
    read.clear()
    assert marked.marks(ledger) == found
    assert len(read) < 10
    near = marked.marks(ledger, 1, 400)
    assert near.files_left_out == 0
    assert [one.first for one in near.files[:3]] == [1, 2, 4]


def test_events_are_marked_where_they_happened(ledger: Ledger) -> None:
    ledger.events.add("began", "Began a.jsonl.", file=1, step=0)
    ledger.events.add("numerics", "Other threads.", step=20, changes=[])
    ledger.events.add("resumed", "Resumed from checkpoint-20.", step=20, digest="x")
    ledger.events.add("snapshot", "Took the snapshot <b>.", name="<b>", step=40, kind="nightly", lineage="l")
    ledger.events.add("resumed", "A kind of long ago, without a step.")
    done(ledger, 100)
    found = Marked().marks(ledger)
    assert [(one.kind, one.step, one.text) for one in found.marks] == [
        ("numerics", 20, "Other threads."),
        ("resumed", 20, "Resumed from checkpoint-20."),
        ("snapshot", 40, "Took the snapshot <b>."),
    ]
    assert found.marks[0].at == ledger.events.latest()[1].at
    assert [one.step for one in Marked().marks(ledger, 21, 40).marks] == [40]


def test_after_a_cut_what_happened_in_the_other_past_is_not_marked(ledger: Ledger) -> None:
    marked = Marked()
    for step in (20, 40, 60):
        ledger.events.add("snapshot", f"Took one of {step}.", step=step)
    done(ledger, 60)
    assert [one.step for one in marked.marks(ledger).marks] == [20, 40, 60]
    ledger.steps.delete_after(30)
    ledger.events.add("cut", "Went back to step 30.", step=30, generation=1)
    ledger.steps.record([row(step) for step in range(31, 51)])
    ledger.events.add("snapshot", "Took one of 50.", step=50)
    wanted = [("snapshot", 20), ("cut", 30), ("snapshot", 50)]
    for one in (marked, Marked()):
        assert [(mark.kind, mark.step) for mark in one.marks(ledger).marks] == wanted


def test_of_too_many_marks_the_latest_are_told(ledger: Ledger) -> None:
    for step in range(1, 251):
        ledger.events.add("resumed" if step % 2 else "snapshot", f"{step}", step=step)
    done(ledger, 300)
    found = Marked().marks(ledger)
    assert ([one.step for one in found.marks], found.marks_left_out) == (list(range(51, 251)), 50)


def test_events_are_read_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 31):
        ledger.events.add("resumed", f"{step}", step=step)
    done(ledger, 40)
    monkeypatch.setattr(module, "PAGE", 10)
    asked: list[int] = []
    real = ledger.events.since
    monkeypatch.setattr(ledger.events, "since", lambda after, *rest: asked.append(after) or real(after, *rest))
    marked = Marked()
    assert len(marked.marks(ledger).marks) == 30
    asked.clear()
    marked.marks(ledger)
    assert asked == []
    ledger.events.add("cut", "back", step=35)
    assert marked.marks(ledger).marks[-1].step == 35
    assert asked == [30] * len(module.KINDS)


def test_an_empty_ledger_has_no_marks(ledger: Ledger) -> None:
    assert Marked().marks(ledger) == Marks(files=[], files_left_out=0, marks=[], marks_left_out=0)


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(0, 200), st.integers(0, 200), st.integers(1, 10))
def test_the_longest_are_those_of_which_most_is_seen(lengths: list[int], low: int, high: int, most: int) -> None:
    first, last = min(low, high), max(low, high)
    stretches, end = [], 0
    for at, length in enumerate(lengths):
        stretches.append(Stretch(end + 1, end + length, at, (at, 1)))
        end += length

    def seen(one: Stretch) -> int:
        return min(one.last, last) - max(one.first, first)

    chosen = longest(stretches, first, last, most)
    assert len(chosen) == min(most, len(stretches))
    assert chosen == sorted(chosen, key=lambda one: one.first)
    left = [one for one in stretches if one not in chosen]
    assert not left or min(map(seen, chosen)) >= max(map(seen, left))
