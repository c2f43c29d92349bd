from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightschool.supervisor.children import Child
from nightschool.workspace import Layout
from tests.supervisor.fakes import child_command, events, gone, wait_until


def make(layout: Layout, role: str = "sleeper", behaviour: str = "good", grace: float = 60.0) -> Child:
    output = layout.state / f"{role}.out"
    return Child(role, child_command(layout, role, behaviour), output, grace, time.monotonic, cwd=layout.root)


def finish(child: Child) -> int:
    codes: list[int] = []

    def ended() -> bool:
        code = child.poll()
        if code is not None:
            codes.append(code)
        return bool(codes)

    wait_until(ended, "the child's end")
    return codes[0]


def test_b5_a_child_asked_to_stop_saves_and_ends_with_0(layout: Layout) -> None:
    child = make(layout)
    child.start()
    wait_until(lambda: events(layout, "sleeper.started"))
    child.ask_to_stop()
    assert finish(child) == 0
    assert events(layout, "sleeper.saved")
    assert not child.killed


def test_a_deaf_child_is_killed_after_its_grace_time(layout: Layout) -> None:
    child = make(layout, behaviour="deaf", grace=0.0)
    child.start()
    wait_until(lambda: events(layout, "sleeper.started"))
    child.ask_to_stop()
    assert finish(child) == -9
    assert child.killed


def test_a_child_can_be_started_again_and_its_output_is_kept_apart(layout: Layout) -> None:
    child = make(layout, behaviour="exit:7:1")
    child.start()
    assert finish(child) == 7
    assert child.last_output()[-1] == "last words of sleeper"
    child.start()
    wait_until(lambda: child.last_output() == ["hello from sleeper"])
    child.kill()
    assert finish(child) == -9


def test_of_a_progress_bar_only_its_last_state_is_quoted(layout: Layout) -> None:
    child = make(layout)
    child.output.write_bytes(b"loading: 0%\rloading: 100%\r\n\nfailed\n")
    assert child.last_output() == ["loading: 100%", "failed"]


def test_helpers_of_a_child_end_with_it(layout: Layout, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys, pathlib, os\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'helper')!r}).write_text(str(p.pid))\n"
        "os._exit(1)\n"
    )
    child = Child("parent", [sys.executable, str(script)], layout.trainer_output, 1.0, time.monotonic)
    child.start()
    assert finish(child) == 1
    wait_until(lambda: gone(int((tmp_path / "helper").read_text())))


DRIVER = """
import sys, time
sys.path.insert(0, {top!r})
from nightschool.workspace import Layout
from tests.supervisor.test_children import make
layout = Layout(__import__("pathlib").Path({root!r}))
from nightschool.supervisor import children
if {leaky}:
    import os
    pipe, popen, pairs = os.pipe, children.subprocess.Popen, []
    def recorded():
        pairs.append(pipe())
        return pairs[-1]
    class Leaky(popen):
        def __init__(self, *args, **kw):
            super().__init__(*args, **{{**kw, "pass_fds": pairs[-1]}})
    os.pipe, children.subprocess.Popen = recorded, Leaky
for role in ("first", "second"):
    make(layout, role).start()
print("ready", flush=True)
time.sleep(600)
"""


def children_of_a_killed_parent(layout: Layout, leaky: bool) -> list[int]:
    code = DRIVER.format(top=str(Path(__file__).parents[2]), root=str(layout.root), leaky=leaky)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    wait_until(lambda: events(layout, "first.started") and events(layout, "second.started"))
    pids = events(layout, "first.started") + events(layout, "second.started")
    os.killpg(parent.pid, 9)
    parent.wait()
    parent.stdout.close()
    return pids


def test_b8_b10_children_end_by_themselves_when_the_parents_process_group_is_killed(layout: Layout) -> None:
    pids = children_of_a_killed_parent(layout, leaky=False)
    wait_until(lambda: all(gone(pid) for pid in pids))
    assert len(events(layout, "first.orphaned")) == 1
    assert len(events(layout, "second.orphaned")) == 1


def test_b8_control_a_write_end_that_leaks_into_the_children_keeps_them_alive(layout: Layout) -> None:
    pids = children_of_a_killed_parent(layout, leaky=True)
    try:
        # Long after a child with a sound lifeline has gone (it looks every 0.02 s), these have noticed nothing.
        probe = make(layout, "probe")
        probe.start()
        wait_until(lambda: events(layout, "probe.started"))
        probe._write_end, end = -1, probe._write_end
        os.close(end)
        wait_until(lambda: events(layout, "probe.orphaned"))
        assert not any(gone(pid) for pid in pids)
        probe._write_end = os.open("/dev/null", os.O_RDONLY)
        finish(probe)
    finally:
        for pid in pids:
            os.kill(pid, 9)


def test_the_lifeline_of_one_child_is_closed_for_the_other(layout: Layout) -> None:
    first, second = make(layout, "first"), make(layout, "second")
    first.start()
    second.start()
    try:
        assert fcntl.fcntl(first._write_end, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        wait_until(lambda: events(layout, "second.started"))
        pipes = {fd.readlink() for fd in Path(f"/proc/{second.pid}/fd").iterdir() if fd.is_symlink()}
        ours = Path(f"/proc/self/fd/{first._write_end}").readlink()
        assert ours not in pipes
    finally:
        for child in (first, second):
            child.kill()
            finish(child)


def test_runaway_output_is_cut(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightschool.supervisor.children.OUTPUT_BYTES", 10)
    child = make(layout)
    child.start()
    wait_until(lambda: child.poll() is None and events(layout, "sleeper.started") and child.output.stat().st_size == 0)
    child.kill()
    assert finish(child) == -9
