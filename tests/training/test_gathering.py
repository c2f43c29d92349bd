"""Small files that wait next to each other are trained on as one entry, and stay files of their own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool import gathering, verify
from nightschool.intake import worker
from nightschool.ledger import FileRow, Ledger
from nightschool.record import read_record
from nightschool.training.replay import replay
from nightschool.workspace import Layout
from tests.training import rig

SIZES = {"a": 3, "b": 5, "c": 2, "d": 9}
"""Sequences of each file; four make a step."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


def make(root: Path, base: Path, rows: dict[str, int] | None = None, gather_rows: int = 10) -> Layout:
    """A workspace with four files; each has the given number of rows, or one."""
    layout = rig.workspace(root, base, inbox={"gather_rows": gather_rows}, checkpoints={"save_steps": 2})
    for seed, (name, count) in enumerate(SIZES.items()):
        rig.add(layout, name, rig.sequences(count, seed), rows=(rows or {}).get(name, 1))
    return layout


def entries(layout: Layout) -> list[tuple[int, ...]]:
    with Ledger.open(layout.ledger) as ledger:
        return [row.file_ids for row in ledger.entries.all()]


def test_small_files_are_one_entry_and_every_row_is_trained_once(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base)
    seen: dict[int, Counter[rig.Row]] = {}
    rig.run(layout, seen=seen)
    assert entries(layout) == [(1, 2, 3, 4)]
    assert rig.outcome(layout).step == 5  # 19 sequences; one by one they would have made 1 + 2 + 1 + 3 steps
    wanted = sum((rig.rows_of(rig.sequences(n, seed)) for seed, n in enumerate(SIZES.values())), Counter())
    assert sum(seen.values(), Counter()) == wanted
    assert set(rig.states(layout).values()) == {"learned"}


def test_control_without_gathering_each_file_is_its_own(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base, gather_rows=0)
    rig.run(layout)
    assert entries(layout) == [(1,), (2,), (3,), (4,)]
    assert rig.outcome(layout).step == 7


def test_b3_killed_and_stopped_within_a_gathering_it_comes_to_the_same_bits(base: Path, tmp_path: Path) -> None:
    layout, other = (make(tmp_path / name, base) for name in ("undisturbed", "disturbed"))
    rig.run(layout)
    with pytest.raises(rig.Killed):
        rig.run(other, on_step=rig.kill_saved_at(3))
    rig.run(other, on_step=rig.stop_at(4))
    rig.run(other)
    assert rig.outcome(other) == rig.outcome(layout)
    (entry,) = read_record(other.checkpoint(5)).entries
    assert entry.file_ids == (1, 2, 3, 4)
    assert verify.report(other).good
    assert replay(other)["equal"]


def test_a_large_file_ends_a_gathering_and_is_by_itself(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base, rows={"c": 10})
    rig.run(layout)
    assert entries(layout) == [(1, 2), (3,), (4,)]
    assert [(b.before, b.after) for b in verify.report(layout).boundaries] == [("a and 1 more", "c"), ("c", "d")]


def test_nothing_begins_while_it_is_not_known_whether_the_next_is_small(base: Path, tmp_path: Path) -> None:
    layout = make(tmp_path / "run", base)
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_state(3, "archived")
    rig.run(layout)
    assert entries(layout) == []
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_state(3, "ready")
    rig.run(layout)
    assert entries(layout) == [(1, 2, 3, 4)]


def test_intake_and_trainer_go_by_one_number_however_old_their_settings_are(base: Path, tmp_path: Path) -> None:
    """Intake that began with 0 keeps three files ready, and no more until one of them begins."""
    layout = make(tmp_path / "run", base, gather_rows=10)
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set(worker.TOLD, {"gather_rows": 0})
        ledger.files.set_state(4, "archived")
    rig.run(layout)
    assert entries(layout) == [(1,), (2,), (3,)]


def row(number: int, rows: int, state: str = "ready", bytes: int = 100, priority: int = 1, tokens: int = 10) -> FileRow:
    found: Any = SimpleNamespace(
        id=number, options={}, rows_good=rows, state=state, bytes=bytes, priority=priority, tokens=tokens
    )
    return found


def together(queue: list[FileRow], gather_rows: int = 10, **recipes: str) -> list[int]:
    return [r.id for r, _ in gathering.together(queue, gather_rows, lambda r: recipes.get(f"f{r.id}", "{}"))]


@given(st.lists(st.tuples(st.integers(1, 14), st.booleans()), max_size=40))
def test_what_begins_together_does_not_depend_on_how_far_intake_is(files: list[tuple[int, bool]]) -> None:
    """With any part of the queue not ready yet, nothing begins, or exactly what begins when all is ready."""
    ready = [row(number, rows) for number, (rows, _) in enumerate(files)]
    now = [r if done else row(r.id, 0, "archived") for r, (_, done) in zip(ready, files, strict=True)]
    assert together(now) in ([], together(ready))


@given(st.lists(st.integers(1, 14), max_size=60))
def test_a_queue_is_cut_into_gatherings_of_small_files_and_single_large_ones(rows: list[int]) -> None:
    queue = [row(number, count) for number, count in enumerate(rows)]
    groups = []
    while queue:
        groups.append(together(queue))
        queue = queue[len(groups[-1]) :]
        assert groups[-1]
    assert [number for group in groups for number in group] == list(range(len(rows)))
    assert all(len(group) == 1 or all(rows[number] < 10 for number in group) for group in groups)


@given(st.lists(st.tuples(st.integers(1, 14), st.booleans()), max_size=40))
def test_what_is_awaited_is_the_first_that_keeps_the_rest_from_beginning(files: list[tuple[int, bool]]) -> None:
    queue = [row(number, rows, "ready" if done else "archived") for number, (rows, done) in enumerate(files)]
    awaited = gathering.awaited(queue, 10)
    assert bool(together(queue)) == (awaited is None and bool(queue))
    assert awaited is None or awaited.id == next(n for n, (_, done) in enumerate(files) if not done)


def test_a_gathering_has_a_limit_in_files_rows_and_tokens() -> None:
    assert len(together([row(n, 1) for n in range(2 * gathering.MOST_FILES)], 500)) == gathering.MOST_FILES
    assert len(together([row(n, 5) for n in range(100)], 10)) == gathering.MOST_TIMES * 10 / 5
    assert len(together([row(n, 5, tokens=gathering.MOST_TOKENS // 2) for n in range(9)], 500)) == 2


def test_a_file_of_many_bytes_is_large_even_before_it_is_read() -> None:
    """Nobody waits for it: what is small begins at once."""
    assert together([row(0, 1), row(1, 0, "archived", bytes=gathering.MOST_BYTES + 1)]) == [0]
    assert together([row(0, 1), row(1, 0, "archived")]) == []
    assert together([row(0, 1, bytes=gathering.MOST_BYTES + 1), row(1, 1)]) == [0]


def test_an_urgent_file_does_not_wait_for_the_others() -> None:
    assert together([row(0, 1, priority=0), row(1, 1), row(2, 1)]) == [0]
    assert together([row(0, 1, priority=0), row(1, 0, "archived")]) == [0]


def test_files_with_other_settings_are_not_gathered() -> None:
    assert together([row(0, 1), row(1, 1), row(2, 1)], f1="other") == [0]


def test_a_file_that_must_be_prepared_again_holds_the_rest_back() -> None:
    queue = [row(0, 1), row(1, 1)]
    assert gathering.together(queue, 10, lambda r: None if r.id else "{}") == []
