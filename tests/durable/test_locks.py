"""Locks between real processes: one holder at a time, gone with its holder, never kept by a child."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.durable import lock as lock_module
from nightschool.errors import BusyError, StorageError

HOLD = """
import sys, time
from pathlib import Path
from nightschool.durable import Lock
lock = Lock(Path(sys.argv[1]), "a nightschool run")
lock.acquire()
print("held", flush=True)
for line in sys.stdin:
    if line.strip() == "ask":
        print(lock.still_held(), flush=True)
    if line.strip() == "release":
        lock.release()
        print("released", flush=True)
"""
# The same, but with a forked child that outlives it and says its own pid.
HOLD_AND_FORK = """
import fcntl, os, sys, time
from pathlib import Path
from nightschool.durable import Lock
if sys.argv[2] == "flock":
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
else:
    lock = Lock(Path(sys.argv[1]), "a nightschool run")
    lock.acquire()
child = os.fork()
if child == 0:
    time.sleep(600)
    os._exit(0)
print(child, flush=True)
time.sleep(600)
"""
ASK = """
import sys
from pathlib import Path
from nightschool.durable import holder
print(holder(Path(sys.argv[1])))
"""


class Helper:
    """A process that holds a lock until it is told otherwise."""

    def __init__(self, script: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first_line = self.read()

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def helper(script: str, *args: str) -> Iterator[Helper]:
    started = Helper(script, *args)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "supervisor.lock"


def test_b9_the_second_is_refused_and_told_who_holds_it(path: Path) -> None:
    with helper(HOLD, str(path)) as first:
        with pytest.raises(
            BusyError, match=rf"A nightschool run is already at work.*process {first.pid}, since"
        ) as got:
            durable.Lock(path, "a nightschool run").acquire()
        assert got.value.pid == first.pid
        assert durable.holder(path) == first.pid
        assert first.tell("ask") == "True", "asking and failing must not disturb the holder"
        assert first.tell("release") == "released"
        assert durable.holder(path) is None
        with durable.Lock(path, "a nightschool run") as mine:
            assert mine.still_held()
    assert durable.holder(path) is None


def test_b9_works_right_after_kill_9_of_the_holder(path: Path) -> None:
    with helper(HOLD, str(path)) as first:
        assert first.first_line == "held"
        first.kill()
        assert json.loads(path.read_text())["pid"] == first.pid, "what the dead one wrote is still there, and stale"
        assert durable.holder(path) is None
        with durable.Lock(path, "a nightschool run") as mine:
            assert mine.still_held()
            assert json.loads(path_text_from_elsewhere(path))["pid"] == os.getpid()


@pytest.mark.parametrize("kind", ["lock", "flock"])
def test_b9_a_forked_child_does_not_keep_the_lock(path: Path, kind: str) -> None:
    """With the control: `flock` in the same place stays held, so the child is really there and has the file open."""
    with helper(HOLD_AND_FORK, str(path), kind) as first:
        child = int(first.first_line)
        try:
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            os.kill(child, 0)  # it lives
            if kind == "lock":
                durable.Lock(path, "a nightschool run").acquire()
            else:
                fd = os.open(path, os.O_RDWR)
                with pytest.raises(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.close(fd)
        finally:
            os.kill(child, signal.SIGKILL)


def path_text_from_elsewhere(path: Path) -> str:
    """The file's text, read by another process: closing it in this one would drop the lock."""
    return subprocess.run(["cat", path], capture_output=True, text=True, check=True).stdout


def test_b10_a_lock_whose_file_was_deleted_is_no_longer_held(path: Path) -> None:
    with durable.Lock(path, "a trainer") as mine:
        assert mine.still_held()
        path.unlink()
        assert not mine.still_held()
        with helper(HOLD, str(path)) as second:
            assert second.first_line == "held"
            assert not mine.still_held()
        mine.release()
        assert json.loads(path.read_text())["pid"] == second.pid, "the file is the other's; it was not touched"


def test_b10_a_lock_whose_file_was_replaced_is_no_longer_held(path: Path) -> None:
    with durable.Lock(path, "a trainer") as mine:
        other = path.with_name("other")
        other.write_text("x")
        other.rename(path)
        assert not mine.still_held()


def test_b10_a_lock_lost_to_a_careless_close_is_noticed_when_taken(path: Path) -> None:
    mine = durable.Lock(path, "a trainer")
    mine.acquire()
    path.read_text()  # opens and closes the file in the holding process: POSIX drops the lock
    with helper(HOLD, str(path)) as second:
        assert second.first_line == "held", "the control: the lock really was lost"
        assert not mine.still_held()
        assert second.tell("release") == "released"
        assert not mine.still_held(), "someone else had it meanwhile"
    mine.release()


def test_looking_from_inside_the_holder_does_not_drop_the_lock(path: Path) -> None:
    with durable.Lock(path, "a trainer") as mine:
        assert durable.holder(path) == os.getpid()
        for again in (mine, durable.Lock(path, "a trainer")):
            with pytest.raises(BusyError) as got:
                again.acquire()
            assert got.value.pid == os.getpid()
        assert mine.still_held()
        answer = subprocess.run([sys.executable, "-c", ASK, path], capture_output=True, text=True, check=True).stdout
        assert int(answer) == os.getpid()


def test_a_forked_child_does_not_think_it_holds_the_lock(path: Path) -> None:
    with durable.Lock(path, "a trainer") as mine:
        child = os.fork()
        if child == 0:
            inherited = mine.still_held()
            mine.release()
            os._exit(1 if inherited or lock_module._held_here(path) else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert mine.still_held(), "the child's release took the parent's lock"
        assert durable.holder(path) == os.getpid()


def test_many_at_once_exactly_one_wins(path: Path) -> None:
    start, go = os.pipe()
    results, report = os.pipe()
    children = []
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(start, 1)  # returns for all of them when the other end is closed
            try:
                durable.Lock(path, "a run").acquire()
                os.write(report, b"1")
            except BusyError:
                os.write(report, b"0")
            time.sleep(600)
        children.append(child)
    try:
        os.close(go)
        answers = b""
        while len(answers) < len(children):
            answers += os.read(results, 100)
        assert sorted(answers) == sorted(b"1" + b"0" * 11)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for fd in (start, results, report):
            os.close(fd)


def test_release_and_acquire_again(path: Path) -> None:
    mine = durable.Lock(path, "a run")
    for _ in range(3):
        mine.acquire()
        assert mine.still_held()
        mine.release()
        assert not mine.still_held()
        mine.release()
    assert path.read_bytes() == b""


def test_holder_of_nothing(path: Path) -> None:
    assert durable.holder(path) is None
    path.write_text("rubbish")
    assert durable.holder(path) is None
    with durable.Lock(path, "a run"):
        assert json.loads(path_text_from_elsewhere(path))["pid"] == os.getpid()


def test_a_holder_in_another_container_gets_no_pid_that_could_be_anyones(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel answers then: a lock, and 0 for the pid. `kill(0)` would signal this very process's group."""
    path.write_text('{"pid": 1, "since": "2026-11-22T03:00:00+00:00"}')
    real = fcntl.fcntl

    def nameless(fd: int, command: int, argument: bytes) -> bytes:
        assert command == fcntl.F_GETLK
        real(fd, command, argument)
        return lock_module._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

    monkeypatch.setattr(lock_module.fcntl, "fcntl", nameless)
    assert durable.holder(path) == durable.ELSEWHERE
    with pytest.raises(ProcessLookupError):
        os.kill(durable.ELSEWHERE, signal.SIGTERM)
    monkeypatch.undo()
    with helper(HOLD, str(path)):
        monkeypatch.setattr(lock_module.fcntl, "fcntl", nameless)
        with pytest.raises(BusyError, match="a process in another container") as got:
            durable.Lock(path, "a run").acquire()
    assert got.value.pid == durable.ELSEWHERE


def test_c10_a_missing_folder_is_said_not_created(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not there") as got:
        durable.Lock(tmp_path / "unmounted/x.lock", "a run").acquire()
    assert got.value.errno == errno.ENOENT
    assert not (tmp_path / "unmounted").exists()


def test_a_link_in_the_place_of_a_lock_is_not_followed(path: Path) -> None:
    target = path.with_name("precious")
    target.write_text("x")
    path.symlink_to(target)
    with pytest.raises(StorageError):
        durable.Lock(path, "a run").acquire()
    assert target.read_text() == "x"


def test_c6_a_full_disk_does_not_stop_a_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock_module.os, "pwrite", full)
    with durable.Lock(path, "a run") as mine:
        assert mine.still_held()
