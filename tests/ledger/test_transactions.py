"""One connection: settings, atomic groups, threads, forks."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Arrival, Ledger, database

from .support import connection, impatient, statements, step


def test_c1_connections_are_set_up_for_power_cuts(ledger: Ledger, path: Path) -> None:
    with Ledger.open(path) as other:
        for one in (ledger, other):
            pragma = {
                name: connection(one).execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "busy_timeout")
            }
            assert pragma == {"journal_mode": "truncate", "synchronous": 2, "busy_timeout": 30_000}


def test_a_group_is_one_change(ledger: Ledger, path: Path) -> None:
    with Ledger.open(path) as other, ledger.transaction():
        ledger.machine.set("a", 1)
        ledger.events.add("began", "one")
        assert impatient(other).machine.get("a") is None
        assert ledger.machine.get("a") == 1
    with Ledger.open(path) as other:
        assert (other.machine.get("a"), len(other.events.since())) == (1, 1)


def test_a_group_that_fails_leaves_nothing(ledger: Ledger) -> None:
    def act() -> None:
        with ledger.transaction():
            ledger.machine.set("a", 1)
            ledger.machine.set("a", 1 // 0)

    with pytest.raises(ZeroDivisionError):
        act()
    assert ledger.machine.get("a") is None
    ledger.machine.set("a", 2)  # the connection is usable again
    assert ledger.machine.get("a") == 2


def test_nested_groups_join_the_outer_one(ledger: Ledger) -> None:
    def act(value: int) -> None:
        with ledger.transaction(), ledger.transaction():
            ledger.machine.set("a", value)
            with ledger.transaction():
                ledger.steps.record([step(value)])

    def act_and_fail() -> None:
        with ledger.transaction():
            act(2)
            raise ZeroDivisionError

    ran = [sql.split()[0] for sql in statements(ledger, lambda: act(1))]
    assert (ran.count("BEGIN"), ran.count("COMMIT")) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        act_and_fail()
    assert (ledger.machine.get("a"), ledger.steps.count()) == (1, 1)


def test_a_failed_part_that_was_swallowed_takes_the_rest_with_it(ledger: Ledger) -> None:
    def fail_last() -> None:
        with ledger.transaction():
            ledger.machine.set("a", 1)
            with suppress(ZeroDivisionError), ledger.transaction():
                ledger.machine.set("b", 1)
                raise ZeroDivisionError("broke")

    def fail_first() -> None:
        with ledger.transaction():
            with suppress(KeyError):
                ledger.files.begin(99)
            ledger.machine.set("a", 1)

    with pytest.raises(StorageError, match="nothing of it was kept: broke"):
        fail_last()
    with pytest.raises(StorageError, match="nothing of it was kept: 'no file with id 99'") as caught:
        fail_first()
    assert isinstance(caught.value.__cause__, KeyError)
    assert ledger.machine.all() == {}


def test_every_change_begins_immediate(ledger: Ledger) -> None:
    changes = [
        lambda: ledger.files.arrive([Arrival("a", "/a")]),
        lambda: ledger.files.archived(1, "0" * 64, 3, "archive/a"),
        lambda: ledger.files.set_aside(1, "because"),
        lambda: ledger.entries.append([(1, "d", 3)], "{}", 3),
        lambda: ledger.entries.replace_all([]),
        lambda: ledger.steps.record([step(1)]),
        lambda: ledger.steps.delete_after(0),
        lambda: ledger.checkpoints.publish(1, 0, "l", "p", 1, 1),
        lambda: ledger.checkpoints.retire(1, "old"),
        lambda: ledger.boundaries.before(0, 0, "d"),
        lambda: ledger.boundaries.after(0, "d"),
        lambda: ledger.boundaries.delete_from(0),
        lambda: ledger.events.add("a", "b"),
        lambda: ledger.machine.set("a", 1),
        lambda: ledger.machine.delete("a"),
    ]
    for change in changes:
        ran = statements(ledger, change)
        assert ran[0] == "BEGIN IMMEDIATE"
        assert ran[-1] == "COMMIT"


def count_up_together(path: Path, seconds: float) -> tuple[int, list[BaseException]]:
    """Two connections read a number, wait for each other for so long, and write it back plus one."""
    met, failures = threading.Barrier(2, timeout=seconds), []

    def work() -> None:
        try:
            with Ledger.open(path) as ledger, ledger.transaction():
                number = ledger.machine.get("n", 0)
                with suppress(threading.BrokenBarrierError):
                    met.wait()
                ledger.machine.set("n", number + 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger.open(path) as ledger:
        return ledger.machine.get("n"), failures


def test_two_writers_who_read_first_wait_for_each_other(ledger: Ledger, path: Path) -> None:
    assert count_up_together(path, 1.0) == (2, [])


def test_control_without_begin_immediate_one_of_them_fails(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BEGIN", "BEGIN")
    number, failures = count_up_together(path, 60.0)  # they do meet, be it late
    assert number == 1
    assert [type(failure) for failure in failures] == [StorageError]


def test_threads_share_a_ledger_and_take_turns(ledger: Ledger) -> None:
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(25):
                with ledger.transaction():
                    ledger.machine.set("n", ledger.machine.get("n", 0) + 1)
                    ledger.events.add("count", f"{name} {number}")
                ledger.events.since(0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ledger.machine.get("n") == len(ledger.events.since(0)) == 100


def test_a_forked_child_is_told_to_open_its_own(ledger: Ledger) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            ledger.machine.get("a")
        except RuntimeError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    ledger.machine.set("a", 1)


def test_a_lock_that_stays_taken_is_said_plainly(ledger: Ledger, path: Path) -> None:
    with Ledger.open(path) as other, ledger.transaction():
        impatient(other)
        with pytest.raises(StorageError, match="stayed locked by another process") as caught:
            other.machine.set("a", 1)
    assert caught.value.errno is not None
    assert os.strerror(caught.value.errno) == "Device or resource busy"


@pytest.mark.parametrize("folder", ["50% off?mode=ro#x", "Kätzchen 夜校", "a'b\"c", "line\nbreak"])
def test_e13_any_folder_name_will_do(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    with Ledger.create(tmp_path / folder / "ledger.db") as ledger:
        ledger.machine.set("a", 1)
    assert sorted(file.name for file in (tmp_path / folder).iterdir()) == ["ledger.db", "ledger.db-journal"]


def test_a_relative_path_is_kept_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger.create(Path("ledger.db")) as ledger:
        monkeypatch.chdir("/")
        ledger.machine.set("a", 1)
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        assert ledger.machine.get("a") == 1


def test_d3_a_clock_that_jumps_back_changes_no_order(path: Path) -> None:
    helsinki = timezone(timedelta(hours=3))
    times = iter([datetime(2026, 10, 25, 4, 30, tzinfo=helsinki), *[datetime(2001, 1, 1, tzinfo=UTC)] * 9])
    with Ledger.create(path, clock=lambda: next(times)) as ledger:
        for text in "abc":
            ledger.events.add("jump", text)
        assert [event.text for event in ledger.events.since(0)] == ["a", "b", "c"]
        assert [event.text for event in ledger.events.of_kind("jump", limit=2)] == ["b", "c"]
        row = connection(ledger).execute("SELECT applied_at FROM migrations").fetchone()
        assert row == ("2026-10-25T01:30:00.000+00:00",)
