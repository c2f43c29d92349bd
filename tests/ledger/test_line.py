"""Moving files in the queue: the order is the one asked for, arrivals respect it, and no long queue is rewritten."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.ledger import HIGH, LOW, NORMAL, NOW, Arrival, Ledger
from nightschool.ledger.line import between
from nightschool.ledger.order import natural_key

from .support import connection, plan, statements
from .test_files import arrive, bring_to, queued, work


def test_a_file_moved_last_is_behind_all_that_wait_and_before_what_arrives_later(ledger: Ledger) -> None:
    a, b = arrive(ledger, "a", "b")
    arrive(ledger, "c")
    arrive(ledger, "low", priority=LOW)
    ledger.line.last([a, b])
    arrive(ledger, "d")
    assert queued(ledger) == ["c", "a", "b", "d", "low"], "priorities are respected"


def test_a_file_moved_first_is_before_all_others_and_what_arrives_later_is_not(ledger: Ledger) -> None:
    arrive(ledger, "a", "b")
    arrive(ledger, "high", priority=HIGH)
    (late,) = arrive(ledger, "late")
    ledger.line.first(late)
    assert ledger.files.get(late).priority == HIGH, "or it would not be the first"
    arrive(ledger, "later")
    arrive(ledger, "high too", priority=HIGH)
    assert queued(ledger) == ["late", "high", "high too", "a", "b", "later"]


def test_the_newest_file_moved_first_does_not_take_later_arrivals_along(ledger: Ledger) -> None:
    """The number of an arrival was once taken from the newest row, which may have been moved."""
    arrive(ledger, "a")
    (newest,) = arrive(ledger, "b")
    ledger.line.first(newest)
    arrive(ledger, "c")
    assert queued(ledger) == ["b", "a", "c"]


def test_a_file_that_takes_the_place_of_another_does_not_take_later_arrivals_along(ledger: Ledger) -> None:
    (first,) = arrive(ledger, "a")
    arrive(ledger, "b")
    (newest,) = arrive(ledger, "c")
    ledger.files.set_state(first, "forgotten")
    ledger.files.take_place(newest, first)
    arrive(ledger, "d")
    assert queued(ledger) == ["c", "b", "d"]


def test_a_file_is_put_before_another_at_its_priority(ledger: Ledger) -> None:
    arrive(ledger, "a1", "a2", "a10")
    (x,) = arrive(ledger, "x")
    (low,) = arrive(ledger, "low", priority=LOW)
    ledger.line.before(x, 3)
    assert queued(ledger) == ["a1", "a2", "x", "a10", "low"]
    ledger.line.before(x, low)
    assert (queued(ledger), ledger.files.get(x).priority) == (["a1", "a2", "a10", "x", "low"], LOW)
    ledger.line.before(x, 1)
    assert queued(ledger) == ["x", "a1", "a2", "a10", "low"]
    ledger.line.before(x, x)
    assert queued(ledger) == ["x", "a1", "a2", "a10", "low"]


def test_files_of_one_name_that_came_together_can_be_parted(ledger: Ledger) -> None:
    ids = ledger.files.arrive([Arrival("same", f"/{n}") for n in range(3)] + [Arrival("same2", "/x")])
    (x,) = arrive(ledger, "x")
    ledger.line.before(x, ids[1])
    assert [row.id for row in ledger.files.queue()] == [ids[0], x, *ids[1:]]


def test_a_priority_is_changed_and_the_order_of_arrival_stays(ledger: Ledger) -> None:
    a, b, c = arrive(ledger, "a", "b", "c")
    ledger.line.priority(c, HIGH)
    ledger.line.priority(b, HIGH)
    ledger.line.priority(a, NOW)
    assert queued(ledger) == ["a", "b", "c"]
    ledger.line.priority(a, LOW)
    assert queued(ledger) == ["b", "c", "a"]
    with pytest.raises(ValueError, match="no priority 7"):
        ledger.line.priority(a, 7)


@pytest.mark.parametrize("state", ["training", "trained", "learned", "rejected", "duplicate", "set_aside", "forgotten"])
def test_only_what_waits_is_moved(ledger: Ledger, state: Any) -> None:
    a, b = arrive(ledger, "a", "b")
    ledger.files.set_state(a, state)
    acts: list[Callable[[], None]] = [
        lambda: ledger.line.last([b, a]), lambda: ledger.line.first(a), lambda: ledger.line.before(a, b),
        lambda: ledger.line.before(b, a), lambda: ledger.line.priority(a, HIGH),
    ]  # fmt: skip
    before = ledger.files.listing()
    for act in acts:
        with pytest.raises(ValueError, match=f"file {a} is {state}; it does not wait"):
            act()
    assert ledger.files.listing() == before, "also of several nothing is moved"


@pytest.mark.parametrize("seed", range(6))
def test_any_moves_give_the_order_of_a_plain_list(ledger: Ledger, seed: int) -> None:
    """Against a model: a list per priority."""
    chance = random.Random(seed)
    lists: dict[int, list[int]] = {HIGH: [], NORMAL: [], LOW: []}

    def take(id: int) -> int:
        priority = next(p for p, ids in lists.items() if id in ids)
        lists[priority].remove(id)
        return priority

    for round in range(120):
        every = [id for ids in lists.values() for id in ids]
        act = chance.choice(("arrive", "last", "first", "before", "before", "begin") if len(every) > 3 else ("arrive",))
        if act == "arrive":
            priority = chance.choice((HIGH, NORMAL, LOW))
            names = sorted(f"{chance.choice('abc')}{round}-{n}" for n in range(chance.randint(1, 4)))
            ids = arrive(ledger, *names, priority=priority)
            lists[priority] += sorted(ids, key=lambda id: natural_key(ledger.files.get(id).name))
            continue
        id = chance.choice(every)
        if act == "begin":
            take(id)
            ledger.files.set_state(id, "training")
        elif act == "last":
            lists[take(id)].append(id)
            ledger.line.last([id])
        elif act == "first":
            head = next(ids[0] for ids in lists.values() if ids)
            if head != id:
                target = next(p for p, ids in lists.items() if ids)
                take(id)
                lists[target].insert(0, id)
            ledger.line.first(id)
        else:
            other = chance.choice([one for one in every if one != id])
            take(id)
            target = next(ids for ids in lists.values() if other in ids)
            target.insert(target.index(other), id)
            ledger.line.before(id, other)
        assert [row.id for row in ledger.files.queue()] == [id for ids in lists.values() for id in ids]


texts = st.text(st.sampled_from("\x01\x02\x03ab"), max_size=6).filter(lambda text: not text.endswith("\x01"))


@given(texts, texts)
def test_there_is_always_room_between_two_keys(low: str, high: str) -> None:
    if low < high:
        found = between(low, high)
        assert low < found < high
        assert not found.endswith("\x01"), "so that there is room below it too"
    else:
        with pytest.raises(ValueError, match="is not before"):
            between(low, high)
    assert between(low, None) > low


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A queue of 20,000 files."""
    with Ledger.create(tmp_path_factory.mktemp("long") / "ledger.db") as ledger:
        arrive(ledger, *[f"part {number}.jsonl" for number in range(20_000)])
        bring_to(ledger, 1, "learned")
        yield ledger


MOVES: dict[str, Callable[[Ledger], None]] = {
    "last": lambda ledger: ledger.line.last([5_000]),
    "first": lambda ledger: ledger.line.first(15_000),
    "before": lambda ledger: ledger.line.before(12_000, 9_000),
    "priority": lambda ledger: ledger.line.priority(12_000, LOW),
}


@pytest.mark.parametrize("name", MOVES)
def test_e16_a_move_in_a_long_queue_costs_a_bounded_number_of_steps(long: Ledger, name: str) -> None:
    cost = work(long, lambda: statements(long, lambda: MOVES[name](long)))
    assert cost <= 1
    for sql in statements(long, lambda: MOVES[name](long)):
        if sql.startswith(("SELECT", "UPDATE")):
            assert "TEMP B-TREE" not in plan(long, sql)
            assert "SCAN files" not in plan(long, sql).replace("SCAN files USING INDEX files_queue", "")


def test_control_e16_without_its_index_a_move_looks_at_all_of_them(long: Ledger) -> None:
    sql = "SELECT max(batch) FROM files NOT INDEXED"
    assert work(long, lambda: connection(long).execute(sql).fetchall()) > 20
