"""B1, B2, B4: SIGKILL at every system call that changes the disk, in a save and in the tidying up after an accident.

Trainer, saver, torch, safetensors and SQLite are the real ones. What is to be killed is a forked child of this process,
so that nothing has to be imported for each kill, and strace kills it *before* one call. All calls are hit, one after
the other: a save of a LoRA run and of a full model, with the ledger's journal and pages, the root adapter and
retention, and a start that finds a damaged checkpoint and half-done folders. What is not here: kills in training and
in the loading of the model (`test_kills.py`, at random; `tests/training`, in-process), and power cuts, which leave more
than a kill
does (`test_save_power_loss.py`).
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
from nightschool.training import resume
from tests.durable.faults import files_below
from tests.machine import one_save
from tests.machine.one_save import NEW, PREVIOUS, Ready

CALLS = (
    "openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,msync,"
    "fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,"
    "symlink,symlinkat"
)

Action = Callable[[Callable[[], object]], object]
"""Gets a function to call when all is ready for what is to be killed."""

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@dataclass(frozen=True)
class Point:
    """One system call of the save: strace counts the calls of each name for itself."""

    name: str
    ordinal: int
    text: str


@contextmanager
def traced(action: Action, *options: str) -> Iterator[Callable[[], int]]:
    """A child that is about to do something, under strace; gives what lets it begin and returns how it ended."""
    child, go = one_save.fork(action)
    ended: list[int] = []

    def begin() -> int:
        go.send(b"g")
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
            go.close()
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            strace.kill()


def calls_of(action: Action, scratch: Path) -> list[Point]:
    """The system calls that change the disk when nobody disturbs it, in their order."""
    with traced(action, "-e", f"trace={CALLS}", "-o", str(scratch)) as begin:
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
        threads.append(thread)
        points.append(Point(name, counts[name], call))
    own = threads.count(threads[0])
    assert len(set(threads[:own])) == 1, "two threads are at work in turns, so the numbers mean nothing"
    assert len(points) - own <= 1, "only the release of the lock comes after the save, on another thread"
    return [point for point in points[:own] if point.name != "openat" or "O_CREAT" in point.text]


def kill_at(action: Action, point: Point) -> None:
    """Do it, and end it before one system call."""
    inject = f"inject={point.name}:signal=KILL:when={point.ordinal}"
    with traced(action, "-o", "/dev/null", "-e", f"trace={point.name}", "-e", inject) as begin:
        assert begin() == -signal.SIGKILL, f"was not killed at {point.text}"


def after_each(ready: Ready, points: list[Point]) -> Counter[str]:
    """Kill at each of the points and look what a start finds; how often what was found."""
    found: Counter[str] = Counter()
    for point in points:
        ready.reset()
        kill_at(ready.save, point)
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_b1_b2_b4_killed_at_every_system_call_of_a_save(tmp_path: Path, method: str) -> None:
    ready = one_save.prepare(tmp_path, method)
    ready.reset()
    points = calls_of(ready.save, tmp_path / "calls")
    assert one_save.look(ready) == NEW
    assert len(points) > 100
    assert {point.name for point in points} >= {"openat", "pwrite64", "fsync", "fdatasync", "rename", "unlink"}
    found = after_each(ready, points)
    assert found.pop(f"goes on at step {PREVIOUS}") + found.pop(f"goes on at step {NEW}") == len(points)
    assert len(+found) == 3, f"not all of what can be interrupted was: {found}"


@dataclass
class Accident:
    """A workspace whose newest checkpoint is damaged, with what kills in a save and in retention leave beside it."""

    ready: Ready
    damaged: dict[str, bytes]

    def start(self, wait: Callable[[], object]) -> None:
        """What a start does before the model is loaded."""
        with Ledger.open(self.ready.layout.ledger) as ledger:
            wait()
            resume.find_start(self.ready.layout, ledger, self.ready.trainer.root)

    def look(self) -> None:
        """Start, and hold what was found against what is to be found, however often it was begun before."""
        layout = self.ready.layout
        with Ledger.open(layout.ledger) as ledger:
            assert ledger.check() == []
            found = resume.find_start(layout, ledger, self.ready.trainer.root)
            assert found.folder == layout.checkpoint(PREVIOUS)
            assert ledger.files.get(1).state == "training"
            assert ledger.steps.count() == PREVIOUS
            assert [row.step for row in ledger.checkpoints.listing(state="published")] == [PREVIOUS]
        assert one_save.digests_of(layout.checkpoint(PREVIOUS)) == self.ready.digests[PREVIOUS]
        assert [files_below(path) for path in layout.undone.glob("*/*")] == [self.damaged]
        assert not list(layout.current_model.glob(".t*"))

    def after_each(self, points: list[Point]) -> None:
        for point in points:
            self.ready.reset()
            kill_at(self.start, point)
            try:
                self.look()
            except AssertionError as error:
                raise AssertionError(f"killed before {point.text}") from error


def make_accident(root: Path) -> Accident:
    ready = one_save.prepare(root)
    layout = ready.layout
    newest = layout.checkpoint(NEW)
    with (newest / "optimizer.pt").open("r+b") as file:
        file.seek(100)
        file.write(b"bits")
    for name in (f".tmp-{NEW + 1}-0123abcd", ".trash-0123abcd"):
        shutil.copytree(layout.checkpoint(PREVIOUS), layout.current_model / name)
    shutil.rmtree(ready.pristine)
    shutil.copytree(layout.root, ready.pristine, symlinks=True)
    return Accident(ready, files_below(newest))


@pytest.mark.slow
def test_b1_b2_killed_at_every_system_call_of_tidying_up(tmp_path: Path) -> None:
    """A start that finds the newest checkpoint damaged, and what kills left behind, is itself killed; then another."""
    accident = make_accident(tmp_path)
    points = calls_of(accident.start, tmp_path / "calls")
    assert {point.name for point in points} >= {"unlink", "rmdir", "rename", "fsync", "pwrite64", "fdatasync"}
    accident.after_each(points)


def test_b1_control_setting_aside_by_copying_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accident = make_accident(tmp_path)

    def copy_and_delete(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        shutil.rmtree(source)

    monkeypatch.setattr(durable, "publish", copy_and_delete)
    points = calls_of(accident.start, tmp_path / "calls")
    accident.look()
    inside = [point for point in points if "undone" in point.text and point.name == "openat"]
    assert len(inside) > 5
    with pytest.raises(AssertionError, match="killed before"):
        accident.after_each(inside)


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
    ready.reset()
    points = calls_of(ready.save, tmp_path / "calls")
    assert one_save.look(ready) == NEW, "it is as good as the right way while nobody interrupts it"
    inside = [point for point in points if f"checkpoint-{NEW}/" in point.text and point.name == "openat"]
    assert len(inside) > 5
    caught = 0
    for point in inside:
        ready.reset()
        kill_at(ready.save, point)
        try:
            one_save.look(ready)
        except Exception:
            caught += 1
    assert caught >= len(inside) - 1


def test_b1_control_a_save_without_a_kill_gives_the_new_step(tmp_path: Path) -> None:
    """What `kill_at` finds is the kill's doing."""
    ready = one_save.prepare(tmp_path)
    ready.reset()
    never = Point("rename", 10_000, "a call that never comes")
    with pytest.raises(AssertionError, match="was not killed"):
        kill_at(ready.save, never)
    assert one_save.look(ready) == NEW
