"""A child that hangs in the middle of a change of the ledger, and with that keeps everybody from writing there."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nightschool.ledger import Ledger, database
from nightschool.ledger import holders as holders_module
from nightschool.ledger.holders import holders, named
from nightschool.settings import Settings
from nightschool.supervisor import holding, policies
from nightschool.supervisor.aside import Aside, Words
from nightschool.supervisor.children import Child, Tended
from nightschool.supervisor.holding import HELD_SECONDS, Holding
from nightschool.workspace import Layout
from tests.supervisor.fakes import Start, drop, events, gone, log_text, state, states, wait_until

WAYS = ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "BEGIN;SELECT count(*) FROM machine")
"""A change that was begun; one that is being committed; a look, which no commit can pass."""

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(";"):
    connection.execute(statement).fetchall()
print("held", flush=True)
time.sleep(600)
"""


def hold(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", WAYS)
def test_the_kernel_says_who_has_the_ledger(layout: Layout, how: str) -> None:
    other = layout.root / "other.db"
    with closing(sqlite3.connect(other)) as made:
        made.execute("CREATE TABLE machine (key TEXT)")
    assert holders(layout.ledger) == []
    process = hold(layout.ledger, how)
    try:
        assert holders(layout.ledger) == [process.pid]
        assert holders(other) == []
    finally:
        end(process)
    assert holders(layout.ledger) == [], "who has ended has none"


def test_nobody_has_it_where_this_process_has_or_the_kernel_does_not_tell(layout: Layout, tmp_path: Path) -> None:
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        assert holders(layout.ledger) == []
    assert holders(layout.ledger, tmp_path / "none") == []
    assert holders(tmp_path / "none") == []
    odd = tmp_path / "locks"
    number = layout.ledger.stat().st_ino
    odd.write_text(
        f"1: FLOCK  ADVISORY  WRITE 5 fe:00:{number} 1073741825 1073741825\n"
        f"1: -> POSIX  ADVISORY  WRITE 6 fe:00:{number} 1073741825 1073741825\n"
        f"2: POSIX  ADVISORY  WRITE 7 fe:00:{number} 0 EOF\n"
        f"3: POSIX  ADVISORY  WRITE 0 fe:00:{number} 1073741825 1073741825\n"
        f"4: OFDLCK ADVISORY  WRITE -1 fe:00:{number} 1073741825 1073741825\n"
        f"5: POSIX  ADVISORY  READ 8 00:2a:{number} 1073741826 1073742335\n"
    )
    assert holders(layout.ledger, odd) == [8]


def test_a_kernel_that_tells_it_to_others_tells_us_nothing(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with the /proc of the system around it a child's number may be anybody's."""
    process = hold(layout.ledger, WAYS[0])
    try:
        (tmp_path / "self").symlink_to(str(os.getpid() + 1))
        monkeypatch.setattr(holders_module, "OURSELVES", tmp_path / "self")
        assert holders(layout.ledger) == []
        monkeypatch.undo()
        assert holders(layout.ledger) == [process.pid], "the control"
    finally:
        end(process)


@pytest.mark.parametrize("how", WAYS[:2])
def test_b8_a_run_that_cannot_begin_says_who_has_the_ledger(
    layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    process = hold(layout.ledger, how)
    try:
        with pytest.raises(database.StorageError) as error, Ledger.open(layout.ledger) as ledger:
            ledger.machine.set("a", 1)
    finally:
        end(process)
    text = str(error.value)
    assert f"It is process {process.pid} ({sys.executable} -c " in text
    assert text.endswith("…) that has it: where that hangs, end it.")
    assert "\n" not in text
    assert named([]) == ""
    assert named([2**22 + 1]) == "process 4194305"


class Stand(Tended):
    """Something that keeps a child, without a process."""

    def __init__(self, pid: int | None) -> None:
        self.child = Child("page", [], Path("none"), 1.0, time.monotonic)
        self.child.__class__ = type("StandChild", (Child,), {"pid": property(lambda _: pid)})
        self.ended: list[str] = []

    def end(self, why: str) -> None:
        self.ended.append(why)


class Watch:
    """A `Holding` over a list of locks that the test writes, and its clock."""

    def __init__(self, ledger: Ledger, folder: Path, minutes: float = 30) -> None:
        self.ours, self.other = Stand(7), Stand(None)
        self.now = 0.0
        self.locks = folder / "locks"
        self.ledger = ledger
        self.holding = Holding(ledger, [self.other, self.ours], minutes, lambda: self.now, self.locks)

    def look(self, minutes: float, *pids: int) -> list[str]:
        number = self.ledger.path.stat().st_ino
        self.locks.write_text(
            "".join(f"1: POSIX  ADVISORY  WRITE {pid} fe:00:{number} 1073741825 1073741825\n" for pid in pids)
        )
        self.now = minutes * 60
        self.holding.look()
        assert not self.other.ended
        return self.ours.ended


@pytest.fixture
def watch(layout: Layout, tmp_path: Path) -> Iterator[Watch]:
    with Ledger.open(layout.ledger) as ledger:
        yield Watch(ledger, tmp_path)


def test_b6_a_child_is_ended_that_had_the_ledger_at_each_look_for_so_long(watch: Watch) -> None:
    assert watch.look(0, 7) == []
    assert watch.look(29.9, 9, 7) == []
    assert watch.look(30, 7, 9) == [
        "kept everybody else from the ledger for 30 min, in the middle of a change, and was ended"
    ]


def test_a_child_that_let_go_or_changed_the_ledger_meanwhile_is_not(watch: Watch) -> None:
    watch.look(0, 7)
    watch.look(20)
    watch.look(21, 7)
    assert watch.look(50, 7) == []
    watch.ledger.machine.set("a", 1)
    os.utime(watch.ledger.path, ns=(1, 1))
    assert watch.look(60, 7) == []
    assert watch.look(89, 7) == []
    assert watch.look(90, 7) != []


def test_nor_one_that_was_asked_to_stop_or_killed_or_is_none_of_ours(watch: Watch) -> None:
    watch.look(0, 7, 8)
    watch.ours.child.asked = True
    assert watch.look(40, 7, 8) == []
    watch.ours.child.asked, watch.ours.child.killed = False, True
    assert watch.look(40, 7, 8) == []
    watch.ours.child.killed = False
    assert watch.look(41, 8) == []


def test_with_no_limit_nobody_is_ended_for_it(layout: Layout, tmp_path: Path) -> None:
    with Ledger.open(layout.ledger) as ledger:
        watch = Watch(ledger, tmp_path, minutes=0)
        watch.look(0, 7)
        assert watch.look(10_000, 7) == []
        assert watch.holding.long
    assert policies.holds_up(1e9, 0) is None


def test_while_somebody_has_it_nobody_waits_for_it(watch: Watch, layout: Layout, monkeypatch) -> None:
    """The rounds go on, and with them signals, the service manager's watchdog and the watch over the trainer."""
    waited: list[float | None] = []
    monkeypatch.setattr(watch.ledger, "wait_at_most", waited.append)
    watch.look(0, 8)
    assert not watch.holding.long
    watch.look(HELD_SECONDS / 60, 8)
    watch.look(1, 8)
    assert watch.holding.long
    assert waited == [holding.PATIENCE_SECONDS]
    watch.look(2)
    assert not watch.holding.long
    assert waited == [holding.PATIENCE_SECONDS, None]


def test_a_connection_waits_no_longer_than_it_is_told_to(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(ledger: Ledger) -> float:
        began = time.monotonic()
        with pytest.raises(database.StorageError, match="stayed locked"):
            ledger.machine.set("a", 1)
        return time.monotonic() - began

    monkeypatch.setattr(database, "BUSY_SECONDS", 3.0)
    process = hold(layout.ledger, WAYS[0])
    try:
        with Ledger.open(layout.ledger) as ledger:
            ledger.wait_at_most(0.01)
            assert waits(ledger) < 2.5
            ledger.wait_at_most(None)
            assert waits(ledger) > 2.9
    finally:
        end(process)


def test_what_is_kept_beside_the_work_is_started_again_and_why_is_said(tmp_path: Path) -> None:
    now, said = [0.0], list[str]()
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = Child("page", command, tmp_path / "page.out", 1.0, lambda: now[0])
    page = Aside(child, Words("The page", "It is started again by itself.", ""), said.append, lambda: now[0])
    page.tend(wanted=True)
    first = child.pid
    page.end("hung, and was ended")
    wait_until(lambda: page.tend(wanted=True) or not child.alive)
    assert said == ["The page hung, and was ended. It is started again by itself."]
    now[0] = 60
    page.tend(wanted=True)
    assert child.pid not in (None, first)
    child.kill()
    wait_until(lambda: child.poll() is not None)


def limited(settings: Settings, minutes: float) -> Settings:
    return settings.model_copy(update={"machine": settings.machine.model_copy(update={"hang_minutes": minutes})})


@pytest.mark.parametrize(("role", "how"), [("trainer", WAYS[1]), ("intake", WAYS[0]), ("intake", WAYS[2])])
def test_b6_b8_the_machine_recovers_by_itself(
    layout: Layout, settings: Settings, background: Start, monkeypatch: pytest.MonkeyPatch, role: str, how: str
) -> None:
    """A trainer that waits for its next file, and an intake worker: no progress is expected of either."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.3)
    drop(layout, "a.jsonl")
    run = background(settings=limited(settings, 0.05), **{role: f"holds:{how}"})
    wait_until(lambda: events(layout, f"{role}.holding"))
    hung = events(layout, f"{role}.started")[0]
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: gone(hung))
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout) == {"learned": 2})
    wait_until(lambda: state(layout)["word"] == "idle")
    name = "intake worker" if role == "intake" else role
    assert f"The {name} kept everybody else from the ledger for " in log_text(layout)
    with Ledger.open(layout.ledger) as ledger:
        said = f"The {name}: kept everybody else"
        assert any(said in event.text for event in ledger.events.of_kind("accident"))
        assert ledger.check() == []
    assert run.stop() == 0


def test_b6_b8_control_without_the_limit_the_machine_stands_still_and_says_who_has_the_ledger(
    layout: Layout, settings: Settings, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(holding, "HELD_SECONDS", 0.5)
    looked, seen = Holding.look, list[bool]()
    monkeypatch.setattr(Holding, "look", lambda watching: looked(watching) or seen.append(bool(watching.long)))
    drop(layout, "a.jsonl")
    run = background(settings=limited(settings, 0), intake="holds:BEGIN IMMEDIATE")
    wait_until(lambda: events(layout, "intake.holding"))
    hung = events(layout, "intake.started")[0]
    wait_until(lambda: seen[-1:] == [True])
    drop(layout, "b.jsonl")
    wait_until(lambda: "Waiting for the disk" in log_text(layout))
    time.sleep(2)
    assert not gone(hung)
    assert "b.jsonl" not in log_text(layout), "it cannot even be entered"
    assert f"It is process {hung} ({sys.executable} " in log_text(layout)
    run.signals.stop = run.signals.at_once = True
    run.end()
    assert gone(hung)
