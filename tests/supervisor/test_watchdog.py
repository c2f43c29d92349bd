"""An intake worker that hangs outside of any change of the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Ledger, database
from nightschool.settings import Settings
from nightschool.supervisor import holding, policies
from nightschool.supervisor.watchdog import Watchdog, moved
from nightschool.workspace import Layout
from tests.supervisor.fakes import Start, drop, events, gone, log_text, state, states, wait_until
from tests.supervisor.test_holding import WAYS, Stand, end, hold, limited

WHY = "neither read nor wrote anything for 30 min, and was ended"


class Watch:
    """A `Watchdog` over a child of which the test says how far it has read, and its clock."""

    def __init__(self, minutes: float = 30) -> None:
        self.kept = Stand(7)
        self.now = 0.0
        self.read: str | None = "0"
        self.refuses = False
        self.counted = 0
        self.watchdog = Watchdog(self.kept, minutes, lambda: self.now, self.before, lambda _: self.read)

    def before(self) -> None:
        if self.refuses:
            raise StorageError("busy")
        self.counted += 1

    def look(self, minutes: float, read: str | None = "0", excused: bool = False) -> list[str]:
        self.now, self.read = minutes * 60, read
        self.watchdog.look(excused)
        return self.kept.ended


def test_b6_a_worker_without_a_byte_for_so_long_is_ended_and_that_is_counted() -> None:
    watch = Watch()
    assert watch.look(0) == []
    assert watch.look(29.9) == []
    assert watch.counted == 0
    assert watch.look(30) == [WHY]
    assert watch.counted == 1


def test_b6_control_one_that_reads_a_little_or_waits_for_others_or_is_not_known_is_not() -> None:
    for read, excused in (("1", False), ("0", True), (None, False)):
        watch = Watch()
        watch.look(0)
        watch.look(20, read, excused)
        assert watch.look(49, read) == [], (read, excused)
    assert Watch(minutes=0).look(1e9) == []
    assert policies.stands_still(1e9, 0) is None


def test_nor_one_that_was_asked_to_stop_or_was_killed() -> None:
    watch = Watch()
    watch.look(0)
    watch.kept.child.asked = True
    assert watch.look(40) == []
    watch.kept.child.asked, watch.kept.child.killed = False, True
    assert watch.look(40) == []
    watch.kept.child.killed = False
    assert watch.look(40) != []


def test_where_the_try_cannot_be_counted_it_is_ended_later() -> None:
    watch = Watch()
    watch.look(0)
    watch.refuses = True
    with pytest.raises(StorageError):
        watch.look(30)
    assert watch.kept.ended == []
    watch.refuses = False
    assert len(watch.look(31)) == 1


def test_the_kernel_tells_a_process_that_waits_for_a_pipe_from_one_that_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = "import sys, time\nprint(flush=True)\nwhile True: open(sys.argv[1]).read(1); time.sleep(0.01)"
    (tmp_path / "file").write_text("a")
    for name in ("pipe", "file"):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            if name == "pipe":
                wait_until(partial(rests, process.pid))  # it may not have come there yet
            else:
                assert not rests(process.pid)
        finally:
            process.kill()
            process.communicate()
    assert moved(process.pid) is None


def rests(pid: int) -> bool:
    """Whether it moves nothing for three seconds."""
    before = moved(pid)
    assert before is not None
    until = time.monotonic() + 3
    while time.monotonic() < until:
        time.sleep(0.1)
        if moved(pid) != before:
            return False
    return True


@pytest.fixture
def stopped(layout: Layout, settings: Settings, background: Start) -> Callable[[float], int]:
    def start(minutes: float) -> int:
        drop(layout, "a.jsonl")
        background(settings=limited(settings, minutes))
        wait_until(lambda: states(layout) == {"learned": 1})
        hung = events(layout, "intake.started")[0]
        while True:  # not in the middle of a look at the ledger, which is another story
            os.kill(hung, signal.SIGSTOP)
            time.sleep(0.05)
            number = str(layout.ledger.stat().st_ino)
            if not any(f" {hung} " in line and number in line for line in Path("/proc/locks").read_text().splitlines()):
                return hung
            os.kill(hung, signal.SIGCONT)

    return start


def test_b6_the_machine_ends_it_and_goes_on_by_itself(layout: Layout, stopped: Callable[[float], int]) -> None:
    hung = stopped(0.1)
    wait_until(lambda: gone(hung))
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout) == {"learned": 2})
    wait_until(lambda: state(layout)["word"] == "idle")
    assert "The intake worker neither read nor wrote anything for " in log_text(layout)
    with Ledger.open(layout.ledger) as ledger:
        children = [(event.fields["child"], event.fields["then"]) for event in ledger.events.of_kind("accident")]
    assert children == [("intake worker", "restart")]
    assert len(events(layout, "trainer.started")) == 1, "the trainer has nothing to do with it"


def test_b6_control_without_the_limit_nothing_is_prepared_any_more(
    layout: Layout, stopped: Callable[[float], int]
) -> None:
    hung = stopped(0)
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout).get("arrived"))
    time.sleep(2)
    assert not gone(hung)
    assert states(layout) == {"learned": 1, "arrived": 1}


@pytest.mark.parametrize("blind", [False, True], ids=["real", "control"])
def test_time_in_which_it_waited_for_a_ledger_that_another_had_does_not_count(
    layout: Layout, settings: Settings, background: Start, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    """It is stopped here, so that it is as slow to wake up from that wait as can be."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(holding, "HELD_SECONDS", 0.3)
    if blind:
        monkeypatch.setattr(holding.Holding, "long", False)
    drop(layout, "a.jsonl")
    background(settings=limited(settings, 0.1))
    wait_until(lambda: state(layout).get("word") == "idle" and states(layout) == {"learned": 1})
    waits = events(layout, "intake.started")[0]
    other = hold(layout.ledger, WAYS[1])
    try:
        os.kill(waits, signal.SIGSTOP)
        time.sleep(7)
        assert not gone(waits)
    finally:
        end(other)
    if blind:
        wait_until(lambda: gone(waits))
        return
    time.sleep(2)
    os.kill(waits, signal.SIGCONT)
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout) == {"learned": 2})
    assert events(layout, "intake.started") == [waits]
