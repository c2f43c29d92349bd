"""B1: SIGKILL at every system call of a save that changes the disk, with the real trainer, saver, torch and SQLite.

The save is made by a forked child of this process, so that nothing has to be imported for each kill, and strace kills
it *before* one call. For a LoRA run every call of the save is hit, one after the other: what torch and safetensors
write, SQLite's journal and pages, and all of `durable`'s operations. For a full model only what differs is hit: all
from the rename of the new checkpoint on. What is not here: kills in start-up and training (`test_kills.py`, at random,
and in-process in `tests/training`), and power cuts, which leave more than a kill does (`test_save_power_loss.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.durable import effects
from nightschool.ledger import Ledger
from tests.machine import one_save
from tests.machine.one_save import NEW, PREVIOUS, Ready

CALLS = (
    "openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,msync,"
    "fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,"
    "symlink,symlinkat"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


@dataclass(frozen=True)
class Point:
    """One system call of the save: strace counts the calls of each name for itself."""

    name: str
    ordinal: int
    text: str


@contextmanager
def traced(ready: Ready, *options: str) -> Iterator[Callable[[], int]]:
    """A child that is about to save, under strace; gives what lets it begin and returns how it ended."""
    child, go = ready.save_in_child()
    ended: list[int] = []

    def begin() -> int:
        os.write(go, b"x")
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        strace.wait()
        return ended[0]

    command = ["strace", "-f", "-p", str(child), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as strace:
        assert strace.stderr is not None
        try:
            first = strace.stderr.readline()  # said when every further system call of the child will be seen
            assert "attached" in first, first
            yield begin
        finally:
            os.close(go)
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            strace.kill()


def calls_of(ready: Ready, scratch: Path) -> list[Point]:
    """The system calls that change the disk in an undisturbed save, in their order."""
    ready.reset()
    with traced(ready, "-e", f"trace={CALLS}", "-o", str(scratch)) as begin:
        assert begin() == 0
    threads: list[str] = []
    counts: Counter[str] = Counter()
    points = []
    for line in scratch.read_text().splitlines():
        thread, call = line.split(maxsplit=1)
        found = re.match(r"(\w+)\(", call)
        if found is None:  # "+++ exited with 0 +++"
            continue
        name = found.group(1)
        counts[name] += 1
        if name != "openat" or "O_CREAT" in call:
            threads.append(thread)
            points.append(Point(name, counts[name], call))
    saver = threads[0]
    own = threads.count(saver)
    others = {line.split(maxsplit=1)[0] for line in scratch.read_text().splitlines()[:own]} - {saver}
    assert not others, "two threads are at work, so the numbers mean nothing"
    assert len(points) - own <= 1, "only the release of the lock comes after the save, on another thread"
    return points[:own]


def kill_at(ready: Ready, point: Point) -> None:
    """Make the save and end it before one system call."""
    ready.reset()
    inject = f"inject={point.name}:signal=KILL:when={point.ordinal}"
    with traced(ready, "-o", "/dev/null", "-e", f"trace={point.name}", "-e", inject) as begin:
        assert begin() == -signal.SIGKILL, f"was not killed at {point.text}"


def after_each(ready: Ready, points: list[Point]) -> Counter[str]:
    """Kill at each of the points and look what a start finds; how often what was found."""
    found: Counter[str] = Counter()
    for point in points:
        kill_at(ready, point)
        names = {path.name for path in ready.layout.current_model.iterdir()}
        with Ledger.open(ready.layout.ledger) as ledger:
            newest = ledger.checkpoints.newest()
        published = f"checkpoint-{NEW}" in names
        found["published, not in the ledger"] += published and newest is not None and newest.step == PREVIOUS
        found["retention half done"] += any(name.startswith(".trash-") for name in names)
        found["save half done"] += any(name.startswith(f".tmp-{NEW}-") for name in names)
        try:
            step = one_save.look(ready)
        except AssertionError as error:
            raise AssertionError(f"killed before {point.text}") from error
        assert step == (NEW if published else PREVIOUS)
        found[f"goes on at step {step}"] += 1
    return found


def test_b1_b2_b4_killed_at_every_system_call_of_a_save(tmp_path: Path) -> None:
    ready = one_save.prepare(tmp_path)
    points = calls_of(ready, tmp_path / "calls")
    assert one_save.look(ready) == NEW
    assert len(points) > 100
    assert {point.name for point in points} >= {"openat", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "link"}
    found = after_each(ready, points)
    assert found.pop(f"goes on at step {PREVIOUS}") + found.pop(f"goes on at step {NEW}") == len(points)
    assert len(+found) == 3, f"not all of what can be interrupted was: {found}"


def test_b1_killed_at_every_system_call_after_the_publishing_of_a_full_model(tmp_path: Path) -> None:
    ready = one_save.prepare(tmp_path, "full")
    points = calls_of(ready, tmp_path / "calls")
    (publishing,) = (at for at, one in enumerate(points) if "rename" in one.name and f'/checkpoint-{NEW}"' in one.text)
    assert any("symlink" in point.name for point in points[publishing:])
    after_each(ready, points[publishing:])
    assert str((ready.layout.current_model / "latest").readlink()) in {f"checkpoint-{PREVIOUS}", f"checkpoint-{NEW}"}


def test_b1_control_a_save_into_the_final_folder_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What many do: write the files where they belong, and take the newest folder that is there."""
    ready = one_save.prepare(tmp_path)

    def staging(parent: Path, label: str) -> Path:
        folder = parent / f"checkpoint-{label}"
        effects.active().mkdir(folder)
        return folder

    monkeypatch.setattr(durable, "staging", staging)
    monkeypatch.setattr(durable, "publish", lambda *_: None)
    monkeypatch.setattr(durable, "check", lambda *_, **__: [])
    points = calls_of(ready, tmp_path / "calls")
    assert one_save.look(ready) == NEW, "it is as good as the right way while nobody interrupts it"
    inside = [point for point in points if f"checkpoint-{NEW}/" in point.text and point.name == "openat"]
    caught = 0
    for point in inside:
        kill_at(ready, point)
        try:
            one_save.look(ready)
        except Exception:
            caught += 1
    assert caught >= len(inside) - 1


def test_b1_control_a_save_without_a_kill_gives_the_new_step(tmp_path: Path) -> None:
    """What `kill_at` finds is the kill's doing."""
    ready = one_save.prepare(tmp_path)
    never = Point("rename", 10_000, "a call that never comes")
    with pytest.raises(AssertionError, match="was not killed"):
        kill_at(ready, never)
    assert one_save.look(ready) == NEW


