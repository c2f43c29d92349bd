"""Several processes on one ledger: writers, readers, and those that are killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Arrival, EntryRow, Ledger

from .support import child, connection, copy_files, impatient, output, step, strace

COUNT = """
path, name, times = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sys.stdin.readline()
with Ledger.open(path) as ledger:
    for number in range(times):
        with ledger.transaction():
            ledger.machine.set("n", ledger.machine.get("n", 0) + 1)
            ledger.steps.record([StepRow(name * times + number, name, 1.0, 1e-4, 1.0, 1, 1, 0.1)])
        ledger.files.arrive([Arrival(f"{name}-{number}", f"/inbox/{name}-{number}")])
"""


def test_several_writing_processes_none_fails(ledger: Ledger, path: Path) -> None:
    writers, times = 5, 30
    processes = [child(COUNT, path, name, times) for name in range(writers)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output(process)
    assert ledger.machine.get("n") == ledger.steps.count() == writers * times
    files = list(ledger.files.each())
    assert len(files) == len({file.name for file in files}) == len({file.batch for file in files}) == writers * times
    assert ledger.check() == []


HALF = """
ledger = Ledger.open(Path(sys.argv[1]))
with ledger.transaction():
    ledger.machine.set("a", "new")
    # More than SQLite's cache holds, so that changed pages are in the file already, long before the commit.
    for number in range(800):
        ledger.machine.set(f"value {number}", "new" * 1300)
    say("half-way")
    sys.stdin.readline()
"""


def half_written(ledger: Ledger, path: Path) -> None:
    """Leave the ledger as a process leaves it that was killed in the middle of a large transaction."""
    with ledger.transaction():
        for number in range(800):
            ledger.machine.set(f"value {number}", "old" * 1300)
    process = child(HALF, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "half-way\n"
    process.send_signal(signal.SIGKILL)
    output(process, expect=None)
    assert process.returncode == -signal.SIGKILL


def is_old(ledger: Ledger) -> bool:
    return {value[:3] for key, value in ledger.machine.all().items() if key != "a"} == {"old"}


def test_b2_kill_in_the_middle_of_a_transaction_leaves_nothing_of_it(ledger: Ledger, path: Path) -> None:
    ledger.machine.set("a", "old")
    half_written(ledger, path)
    with Ledger.open(copy_files(path, path.parent / "copy")) as after:
        assert after.check() == []
        assert after.machine.get("a") == "old"
        assert is_old(after)
    ledger.machine.set("a", "the one that was open all along goes on too")
    assert is_old(ledger)


def test_control_without_its_journal_the_killed_transaction_does_damage(ledger: Ledger, path: Path) -> None:
    half_written(ledger, path)
    copy = copy_files(path, path.parent / "copy")
    journal = copy.with_name("ledger.db-journal")
    assert journal.stat().st_size > 0
    journal.unlink()
    try:
        with Ledger.open(copy) as after:
            whole = after.check() == [] and is_old(after)
    except StorageError:
        whole = False
    assert not whole


COMMIT = """
ledger = Ledger.open(Path(sys.argv[1]))
with ledger.transaction():
    ledger.machine.set("a", "new")
    ledger.steps.record([StepRow(step, 0, 1.0, 1e-4, 1.0, 1, 1, 0.1) for step in range(100, 300)])
    ledger.entries.append([(1, "digest", 5)], "{}", 10)
say("committed")
"""


def test_b1_kill_at_every_system_call_of_a_commit(ledger: Ledger, path: Path) -> None:
    ledger.machine.set("a", "old")
    ledger.steps.record([step(number) for number in range(150)])
    ledger.close()
    outcomes = []
    for call in range(1, 100):
        copy = copy_files(path, path.parent / str(call))
        kill = strace("-e", "trace=pwrite64,fdatasync,ftruncate", "-o", "/dev/null")
        kill += ["-e", f"inject=pwrite64,fdatasync,ftruncate:signal=KILL:when={call}"]
        process = child(COMMIT, copy, through=kill)
        said = output(process, expect=None)
        with Ledger.open(copy) as after:
            assert after.check() == []
            found = (after.machine.get("a"), after.steps.count(), len(after.entries.all()))
            assert found in {("old", 150, 0), ("new", 300, 1)}
            assert said == "" or found[0] == "new", "a commit that had returned is gone"
        outcomes.append((found[0], said))
        if process.returncode == 0:
            break
    assert outcomes[0] == ("old", "")
    assert outcomes[-1] == ("new", "committed\n")
    assert len(outcomes) > 10


def fill(ledger: Ledger) -> None:
    ledger.files.arrive([Arrival(f"{number}.jsonl", f"/inbox/{number}") for number in range(2000)])
    ledger.steps.record([step(number) for number in range(2000)])
    ledger.entries.replace_all([EntryRow(at, ((at, "digest", 5),), "{}", 10, 0, 10, "") for at in range(600)])


def half_consumed(ledger: Ledger) -> list[Iterator[Any]]:
    iterators: list[Iterator[Any]] = [ledger.files.each(), ledger.steps.losses(page=10), iter(ledger.entries.all())]
    for iterator in iterators:
        next(iterator)
    return iterators


def held_cursor(ledger: Ledger) -> list[Iterator[Any]]:
    cursor = connection(ledger).execute("SELECT * FROM steps ORDER BY step")
    cursor.fetchone()
    return [cursor]


@pytest.mark.parametrize(("read", "blocks"), [(half_consumed, False), (held_cursor, True)], ids=["pages", "control"])
def test_h7_a_reader_that_stops_reading_delays_no_commit(
    ledger: Ledger, path: Path, read: Callable[[Ledger], list[Iterator[Any]]], blocks: bool
) -> None:
    fill(ledger)
    with Ledger.open(path) as reader:
        iterators = read(reader)
        impatient(ledger)
        if blocks:
            with pytest.raises(StorageError, match="locked"):
                ledger.steps.record([step(2000)])
        else:
            ledger.steps.record([step(2000)])
            ledger.files.arrive([Arrival("late.jsonl", "/inbox/late")])
        rest = [sum(1 for _ in iterator) for iterator in iterators]
    # What was written meanwhile is seen by the page that comes to it; nothing is missed or seen twice.
    assert rest == ([1999] if blocks else [2000, 200, 599])
