"""The queue and the history of files: who comes first, which states lead where."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightschool.errors import DataError
from nightschool.ledger import HIGH, LOW, NORMAL, Arrival, FileRow, Ledger
from nightschool.ledger.files import STATES, State

from .support import connection, plan, statements

COUNTS = {"shape": "text", "rows_good": 9, "rows_bad": 1, "tokens": 900, "label_tokens": 800, "sequences": 5}


def arrive(ledger: Ledger, *names: str, priority: int = NORMAL, **options: Any) -> list[int]:
    return ledger.files.arrive([Arrival(name, f"/inbox/{name}", priority, options) for name in names])


def bring_to(ledger: Ledger, id: int, state: State) -> None:
    """Take a file along the usual way up to a state."""
    files = ledger.files
    way: list[tuple[State, Callable[[], None]]] = [
        ("archived", lambda: files.archived(id, f"{id:064}", 10, f"archive/{id}")),
        ("ready", lambda: files.prepared_as(id, f"folder-{id}", data_digest="d", **COUNTS)),
        ("training", lambda: files.begin(id)),
        ("trained", lambda: files.trained(id)),
        ("learned", lambda: files.learned([id])),
    ]
    for name, act in way:
        if files.get(id).state == state:
            return
        act()
        assert files.get(id).state == name
    assert files.get(id).state == state


def queued(ledger: Ledger) -> list[str]:
    return [row.name for row in ledger.files.queue()]


def test_files_go_by_priority_then_arrival_then_natural_name(ledger: Ledger) -> None:
    arrive(ledger, "b10", "b2", "B1")
    arrive(ledger, "low", priority=LOW)
    arrive(ledger, "a1")
    arrive(ledger, "urgent", priority=HIGH)
    assert queued(ledger) == ["urgent", "B1", "b2", "b10", "a1", "low"]


def test_ids_are_given_in_name_order_and_returned_in_the_order_asked(ledger: Ledger) -> None:
    names = ["c", "a10", "b", "a9"]
    ids = arrive(ledger, *names)
    assert [ledger.files.get(id).name for id in ids] == names
    assert [row.name for row in ledger.files.listing()] == ["a9", "a10", "b", "c"]
    assert len({row.batch for row in ledger.files.listing()}) == 1


def test_a_path_that_waits_already_is_skipped(ledger: Ledger) -> None:
    (first,) = arrive(ledger, "a")
    assert arrive(ledger, "a") == []
    assert len(arrive(ledger, "a", "b", "b")) == 1
    assert [row.batch for row in ledger.files.listing()] == [1, 2]
    bring_to(ledger, first, "archived")
    assert arrive(ledger, "a") == [3]  # e6: the same name again is a new file once the first was taken
    assert arrive(ledger) == []


def test_e6_nothing_of_the_first_file_changes_when_its_name_comes_again(ledger: Ledger) -> None:
    (first,) = arrive(ledger, "a", epochs=3)
    bring_to(ledger, first, "learned")
    before = ledger.files.get(first)
    arrive(ledger, "a")
    assert ledger.files.get(first) == before


def test_what_was_found_out_comes_back(ledger: Ledger, path: Path) -> None:
    (id,) = ledger.files.arrive([Arrival("a b.jsonl", Path("/inbox/a b.jsonl"), HIGH, {"epochs": 2, "again": True})])
    bring_to(ledger, id, "learned")
    with Ledger.open(path) as other:
        row = other.files.get(id)
    assert (row.name, row.source, row.priority, row.options) == (
        "a b.jsonl",
        "/inbox/a b.jsonl",
        0,
        {"epochs": 2, "again": True},
    )
    assert (row.sha256, row.bytes, row.archive) == (f"{id:064}", 10, f"archive/{id}")
    assert (row.prepared, row.data_digest) == (f"folder-{id}", "d")
    assert {name: getattr(row, name) for name in COUNTS} == COUNTS
    assert row.learned_at is not None
    assert row.learned_at >= row.arrived_at


@pytest.mark.parametrize("state", STATES)
def test_a8_only_the_states_that_lead_there_are_allowed(ledger: Ledger, state: State) -> None:
    moves: dict[str, tuple[Callable[[int], None], set[str]]] = {
        "archived": (lambda id: ledger.files.archived(id, "0", 1, "a"), {"arrived"}),
        "duplicate": (lambda id: ledger.files.duplicate(id, 1), {"arrived", "archived"}),
        "ready": (lambda id: ledger.files.prepared_as(id, "f", data_digest="d", **COUNTS), {"archived"}),
        "rejected": (lambda id: ledger.files.reject(id, "why"), {"arrived", "archived", "ready", "set_aside"}),
        "training": (lambda id: ledger.files.begin(id), {"ready", "skipped"}),
        "trained": (lambda id: ledger.files.trained(id), {"training"}),
        "learned": (lambda id: ledger.files.learned([id]), {"training", "trained"}),
        "set_aside": (lambda id: ledger.files.set_aside(id, "why"), set(STATES)),
    }
    for target, (move, sources) in moves.items():
        (id,) = arrive(ledger, f"{state} to {target}")
        ledger.files.set_state(id, state)
        if state == target or state in sources:
            move(id)
            assert ledger.files.get(id).state == target
        elif target == "ready" and state in {"training", "skipped", "trained", "set_aside"}:
            move(id)  # the tokens were lost and made again; or it was set aside meanwhile
            assert ledger.files.get(id).state == state
        else:
            with pytest.raises(ValueError, match=f"file {id} is {state}; it cannot become"):
                move(id)
            assert ledger.files.get(id).state == state


def test_learned_files_keep_the_time_they_were_learned(ledger: Ledger) -> None:
    (id,) = arrive(ledger, "a")
    bring_to(ledger, id, "learned")
    learned_at = ledger.files.get(id).learned_at
    ledger.files.learned([id])
    assert ledger.files.get(id).learned_at == learned_at
    ledger.files.set_state(id, "ready")  # a cut
    assert ledger.files.get(id).learned_at is None


def test_learned_is_all_or_nothing(ledger: Ledger) -> None:
    one, other = arrive(ledger, "a", "b")
    bring_to(ledger, one, "trained")
    with pytest.raises(ValueError, match="cannot become learned"):
        ledger.files.learned([one, other])
    assert ledger.files.get(one).state == "trained"


def test_reasons_are_kept(ledger: Ledger) -> None:
    bad, same, out = arrive(ledger, "bad", "same", "zzz")
    ledger.files.reject(bad, "line 3 is no JSON", rows_bad=1, shape=None)
    ledger.files.duplicate(same, bad, "the same bytes")
    ledger.files.set_aside(out, "crashed the trainer 3 times")
    rows = [ledger.files.get(id) for id in (bad, same, out)]
    assert [row.reason for row in rows] == ["line 3 is no JSON", "the same bytes", "crashed the trainer 3 times"]
    assert (rows[0].rows_bad, rows[1].duplicate_of) == (1, bad)
    with pytest.raises(TypeError, match="cannot record colour"):
        ledger.files.reject(bad, "why", colour="red")


def test_e5_same_bytes_are_found_unless_that_file_is_out(ledger: Ledger) -> None:
    first, second, third = arrive(ledger, "a", "b", "c")
    for id in (first, second):
        ledger.files.archived(id, "same", 10, f"archive/{id}")
    find = ledger.files.find_learnable_duplicate
    assert (find("same", third), find("same", first), find("other", third)) == (first, second, None)
    ledger.files.reject(first, "why")
    assert find("same", third) == second
    ledger.files.set_aside(second, "why")
    assert find("same", third) is None


def test_each_stage_gets_the_first_of_its_files(ledger: Ledger) -> None:
    def stages() -> list[str | None]:
        found = (ledger.files.next_to_train(), ledger.files.next_to_prepare(), ledger.files.next_to_take())
        return [row.name if row else None for row in found]

    assert stages() == [None, None, None]
    a, b, _ = arrive(ledger, "a", "b", "c")
    assert stages() == ["a", None, "a"]
    bring_to(ledger, b, "archived")
    assert stages() == ["a", "b", "a"]
    bring_to(ledger, b, "ready")
    assert stages() == ["a", None, "a"]  # b is ready, but a comes first: the order must not depend on who is faster
    bring_to(ledger, a, "training")
    assert stages() == ["b", None, "c"]
    ledger.files.reject(b, "why")
    assert stages() == ["c", None, "c"]


def test_counts_name_every_state(ledger: Ledger) -> None:
    assert ledger.files.counts() == dict.fromkeys(STATES, 0)
    ids = arrive(ledger, "a", "b", "c")
    bring_to(ledger, ids[0], "ready")
    assert {state: count for state, count in ledger.files.counts().items() if count} == {"ready": 1, "arrived": 2}


def test_listings_are_pages(ledger: Ledger) -> None:
    ids = arrive(ledger, *[f"f{number}" for number in range(7)])
    bring_to(ledger, ids[3], "archived")
    assert [row.id for row in ledger.files.listing(after_id=2, limit=3)] == [3, 4, 5]
    assert [row.id for row in ledger.files.listing("archived")] == [ids[3]]
    assert [row.id for row in ledger.files.each("arrived")] == [id for id in ids if id != ids[3]]
    with pytest.raises(ValueError, match="page by page"):
        ledger.files.listing(limit=100_000)


def test_an_unknown_file_is_a_key_error(ledger: Ledger) -> None:
    for act in (ledger.files.get, ledger.files.begin, lambda id: ledger.files.set_aside(id, "why")):
        with pytest.raises(KeyError, match="no file with id 5"):
            act(5)


@pytest.mark.parametrize("name", ["a\udc80b", "\ud800"])
def test_e13_a_name_that_is_not_unicode_is_refused_before_anything_is_written(ledger: Ledger, name: str) -> None:
    with pytest.raises(DataError, match=r"not valid UTF-8\. Rename") as caught:
        arrive(ledger, "good", name)
    str(caught.value).encode()
    assert ledger.files.listing() == []


@pytest.mark.parametrize(
    "name", ["new\nline", "<script>", "'; DROP TABLE files; --", "nul\0byte", "夜校 🌙", " ", "%s"]
)
def test_e13_any_other_name_is_kept_as_it_is(ledger: Ledger, name: str) -> None:
    (id,) = arrive(ledger, name)
    assert (ledger.files.get(id).name, ledger.files.get(id).source) == (name, f"/inbox/{name}")
    assert arrive(ledger, name) == []


def test_a_priority_that_does_not_exist_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="a priority is -1, 0, 1 or 2"):
        arrive(ledger, "a", priority=5)


MANY = 100_000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger with 100,000 files that came at once in no order, of which the first 90,000 were learned long ago."""
    names = [f"part {number}.jsonl" for number in range(MANY)]
    random.Random(1).shuffle(names)
    with Ledger.create(tmp_path_factory.mktemp("crowded") / "ledger.db") as ledger:
        arrive(ledger, *names)
        connection(ledger).execute("UPDATE files SET state = 'learned' WHERE id <= 90000")
        for id in range(90_001, 90_004):
            bring_to(ledger, id, "ready" if id < 90_003 else "archived")
        yield ledger


def test_e16_the_queue_is_in_order_and_memory_is_bounded(crowded: Ledger) -> None:
    tracemalloc.start()
    found, last = 0, None
    while page := crowded.files.queue(last):
        assert [row.name for row in page] == [f"part {90_000 + found + at}.jsonl" for at in range(len(page))]
        found, last = found + len(page), page[-1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 10_000
    assert peak < 4 << 20


def work(ledger: Ledger, act: Callable[[], Any]) -> int:
    """How much SQLite has to do for `act`, in thousands of the instructions of its virtual machine."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection(ledger).set_progress_handler(tick, 1000)
    try:
        act()
    finally:
        connection(ledger).set_progress_handler(None, 0)
    return count


NEXT = ("next_to_train", "next_to_take", "next_to_prepare")


@pytest.mark.parametrize("name", NEXT)
def test_e16_the_next_file_is_found_through_an_index_in_a_bounded_number_of_steps(crowded: Ledger, name: str) -> None:
    act = getattr(crowded.files, name)
    (sql,) = statements(crowded, act)
    assert "USING INDEX files_" in plan(crowded, sql)
    assert "TEMP B-TREE" not in plan(crowded, sql)
    row = act()
    assert isinstance(row, FileRow)
    expected = {"next_to_train": 90_000, "next_to_take": 90_003, "next_to_prepare": 90_002}
    assert row.name == f"part {expected[name]}.jsonl"
    assert work(crowded, act) <= 1


def test_e16_a_page_of_the_queue_costs_the_same_wherever_it_is(crowded: Ledger) -> None:
    early, late = (crowded.files.listing(after_id=id, limit=1)[0] for id in (90_100, 99_400))
    (sql,) = statements(crowded, lambda: crowded.files.queue(late))
    assert "USING INDEX files_queue" in plan(crowded, sql)
    costs = [work(crowded, lambda row=row: crowded.files.queue(row)) for row in (early, late)]
    assert abs(costs[0] - costs[1]) <= 1


@pytest.mark.parametrize("name", NEXT)
def test_control_e16_left_to_itself_sqlite_may_sort_all_of_them(crowded: Ledger, name: str) -> None:
    (sql,) = statements(crowded, getattr(crowded.files, name))
    bare = sql.replace("FROM files INDEXED BY files_queue", "FROM files").replace(
        "INDEXED BY files_stage", "NOT INDEXED"
    )
    assert bare != sql
    assert "TEMP B-TREE" in plan(crowded, bare)
    assert work(crowded, lambda: connection(crowded).execute(bare).fetchall()) > 50
