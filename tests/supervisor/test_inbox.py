from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from nightschool.errors import StorageError, WorkspaceError
from nightschool.intake import watch
from nightschool.ledger import Arrival, Ledger
from nightschool.ledger.files import Files
from nightschool.supervisor.inbox import NAMED, Inbox
from nightschool.workspace import Layout


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ledger(layout: Layout) -> Iterator[Ledger]:
    with Ledger.open(layout.ledger) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def inbox(layout: Layout, ledger: Ledger, clock: Clock, said: list[str]) -> Inbox:
    return Inbox(layout.inbox, ledger, 5.0, 60.0, said.append, clock)


def test_e1_a_file_is_taken_only_when_it_has_rested(inbox: Inbox, ledger: Ledger, clock: Clock) -> None:
    path = inbox.inbox / "a.jsonl"
    path.write_text("half")
    inbox.look()
    clock.now += 4
    path.write_text("half and more")
    inbox.look()
    clock.now += 4
    inbox.look()
    assert (ledger.files.counts()["arrived"], inbox.waiting) == (0, 1)
    clock.now += 1
    inbox.look()
    assert (ledger.files.counts()["arrived"], inbox.waiting) == (1, 0)


def test_the_next_look_is_when_a_file_will_have_rested(inbox: Inbox, ledger: Ledger, clock: Clock) -> None:
    (inbox.inbox / "a.jsonl").write_text("whole")
    inbox.look()
    clock.now += 4.9
    inbox.look()
    clock.now += 0.05
    assert not inbox.due(), "looked a moment ago, and it has not rested yet"
    clock.now += 0.05
    assert inbox.due()
    inbox.look()
    assert ledger.files.counts()["arrived"] == 1
    clock.now += 0.05
    assert not inbox.due()


def test_a_file_that_cannot_be_taken_when_it_has_rested_is_not_looked_at_all_the_time(
    inbox: Inbox, clock: Clock
) -> None:
    path = inbox.inbox / "a.jsonl"
    with path.open("w") as writer:
        writer.write("still open")
        writer.flush()
        inbox.look()
        clock.now += 5
        inbox.look()
        assert inbox.waiting == 1
        clock.now += 0.05
        assert not inbox.due()


def test_priorities_come_from_the_folder(inbox: Inbox, ledger: Ledger, clock: Clock) -> None:
    for name in ("low/c.jsonl", "b.jsonl", "high/a.jsonl"):
        (inbox.inbox / name).write_text("x")
    inbox.look()
    clock.now += 5
    inbox.look()
    assert [row.name for row in ledger.files.queue()] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_c6_an_arrival_that_could_not_be_recorded_is_tried_again(
    inbox: Inbox, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox.inbox / "a.jsonl").write_text("x")
    inbox.look()
    clock.now += 5
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StorageError("full")

        patch.setattr(ledger.files, "enter", full)
        with pytest.raises(StorageError):
            inbox.look()
    assert inbox.waiting == 1
    inbox.look()
    assert ledger.files.counts()["arrived"] == 1


def test_it_looks_at_once_when_a_folder_changed_and_else_when_a_rescan_is_due(inbox: Inbox, clock: Clock) -> None:
    inbox.look()
    assert not inbox.due()
    (inbox.inbox / "low" / "a.jsonl").write_text("x")
    assert inbox.due()
    inbox.look()
    assert not inbox.due()
    clock.now += 1.25
    assert inbox.due(), "files that settle are looked at more often"
    clock.now += 5
    inbox.look()
    clock.now += 58
    assert not inbox.due()
    (inbox.inbox / "new").mkdir()
    inbox.look()
    assert inbox.due(), "once more for what came into the new folder before it was watched"
    inbox.look()
    (inbox.inbox / "new" / "b.jsonl.part").write_text("x")
    assert inbox.due()
    inbox.look()
    clock.now += 59
    assert not inbox.due()
    clock.now += 1
    assert inbox.due()


def test_e16_a_slow_scan_is_not_repeated_back_to_back(inbox: Inbox, clock: Clock) -> None:
    inbox.look()
    inbox._took = 2.0
    (inbox.inbox / "a.jsonl").write_text("x")
    clock.now += 19
    assert not inbox.due()
    clock.now += 2
    assert inbox.due()


def test_c10_a_missing_inbox_is_no_empty_one(inbox: Inbox, layout: Layout) -> None:
    layout.inbox.rename(layout.root / "away")
    with pytest.raises(WorkspaceError):
        inbox.look()


def test_e16_many_files_are_told_in_few_lines(inbox: Inbox, ledger: Ledger, clock: Clock, said: list[str]) -> None:
    for number in range(1000):
        (inbox.inbox / f"{number}.jsonl").write_text("x")
    inbox.look()
    clock.now += 5
    inbox.look()
    assert ledger.files.counts()["arrived"] == 1000
    assert len(said) == NAMED + 1
    assert "990 more" in said[-1]


def test_e13_what_is_not_taken_is_told_once(inbox: Inbox, clock: Clock, said: list[str]) -> None:
    (inbox.inbox / "link.jsonl").symlink_to("/etc/passwd")
    inbox.look()
    clock.now += 60
    inbox.look()
    assert len(said) == 1
    assert "link.jsonl" in said[0]


def test_e21_a_file_that_is_held_open_is_entered_only_when_it_is_let_go(
    inbox: Inbox, ledger: Ledger, clock: Clock, said: list[str]
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (inbox.inbox / name).write_text("x")
    with (inbox.inbox / "a.jsonl").open("ab"):
        if not watch.held_open(inbox.inbox / "a.jsonl"):
            pytest.skip("this file system grants no leases")
        for _ in range(3):
            inbox.look()
            clock.now += 5
        assert [row.name for row in ledger.files.queue()] == ["b.jsonl"]
        assert inbox.waiting == 1
        assert sum("open for writing" in line for line in said) == 1
    inbox.look()
    assert [row.name for row in ledger.files.queue()] == ["b.jsonl", "a.jsonl"]


def test_e21_a_file_that_intake_gave_back_is_entered_again(inbox: Inbox, ledger: Ledger, clock: Clock) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (inbox.inbox / name).write_text("x")
    inbox.look()
    clock.now += 5
    inbox.look()
    ledger.files.withdraw(1)
    ledger.files.reject(2, "left where it is")
    inbox.look()
    assert [(row.id, row.name) for row in ledger.files.queue()] == [(3, "a.jsonl")], "and what was refused is not"


def test_files_in_folders_are_entered_with_their_relative_names(
    inbox: Inbox, ledger: Ledger, clock: Clock, said: list[str]
) -> None:
    for name in ("b/c.jsonl", "high/a/b.jsonl", "a.jsonl"):
        (inbox.inbox / name).parent.mkdir(exist_ok=True, parents=True)
        (inbox.inbox / name).write_text("xyz")
    inbox.look()
    clock.now += 5
    inbox.look()
    assert [(row.name, row.bytes) for row in ledger.files.queue()] == [
        ("a/b.jsonl", 3),
        ("a.jsonl", 3),
        ("b/c.jsonl", 3),
    ]
    assert any("high/a/b.jsonl (3 B)" in line for line in said)


def test_e16_files_are_entered_in_one_natural_order_a_page_at_a_time(
    inbox: Inbox, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files.enter, "__defaults__", (7,))
    for number in range(100):
        (inbox.inbox / f"{(number * 37) % 100}.jsonl").write_text("x")
    inbox.look()
    clock.now += 5
    inbox.look()
    assert [row.name for row in ledger.files.queue()] == [f"{n}.jsonl" for n in range(100)]
    assert len({row.batch for row in ledger.files.queue()}) == 15


def test_e16_control_pages_in_the_order_of_the_folder_are_no_order(ledger: Ledger) -> None:
    names = [f"{(number * 37) % 100}.jsonl" for number in range(100)]
    for first in range(0, 100, 7):
        ledger.files.arrive([Arrival(name, f"/inbox/{name}") for name in names[first : first + 7]])
    assert [row.name for row in ledger.files.queue()] != [f"{n}.jsonl" for n in range(100)]


def test_e16_an_error_between_two_pages_loses_no_file(
    inbox: Inbox, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files.enter, "__defaults__", (40,))
    for number in range(100):
        (inbox.inbox / f"{number}.jsonl").write_text("x")
    inbox.look()
    clock.now += 5
    real, calls = ledger.files._insert, iter(range(9))

    def full(rows: Any) -> int:
        if next(calls) == 1:
            raise StorageError("full")
        return real(rows)

    monkeypatch.setattr(ledger.files, "_insert", full)
    with pytest.raises(StorageError):
        inbox.look()
    assert ledger.files.counts()["arrived"] == 40
    inbox.look()
    assert [row.name for row in ledger.files.queue()] == [f"{n}.jsonl" for n in range(100)]


def test_e1_a_file_moved_into_the_inbox_is_entered_at_once(inbox: Inbox, ledger: Ledger, layout: Layout) -> None:
    (layout.root / "a.jsonl").write_text("x")
    os.utime(layout.root / "a.jsonl", (1_000_000_000, 1_000_000_000))
    inbox.look()
    (layout.root / "a.jsonl").rename(inbox.inbox / "a.jsonl")
    (inbox.inbox / "b.jsonl").write_text("copied")
    inbox.look()
    assert [row.name for row in ledger.files.queue()] == ["a.jsonl"]


def test_e21_a_file_whose_settings_are_being_written_waits_for_them(inbox: Inbox, ledger: Ledger, clock: Clock) -> None:
    for name in ("a.jsonl", "a.jsonl.toml"):
        (inbox.inbox / name).write_text("x")
    with (inbox.inbox / "a.jsonl.toml").open("ab"):
        if not watch.held_open(inbox.inbox / "a.jsonl.toml"):
            pytest.skip("this file system grants no leases")
        inbox.look()
        clock.now += 5
        inbox.look()
        assert ledger.files.counts()["arrived"] == 0
    inbox.look()
    assert [row.name for row in ledger.files.queue()] == ["a.jsonl"]


def test_e21_control_without_the_lease_it_is_entered(
    inbox: Inbox, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "held_open", lambda path: False)
    (inbox.inbox / "a.jsonl").write_text("x")
    with (inbox.inbox / "a.jsonl").open("ab"):
        inbox.look()
        clock.now += 5
        inbox.look()
    assert ledger.files.counts()["arrived"] == 1
