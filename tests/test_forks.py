"""Forked starts are what cold ones are: program, exit code, signals, lifeline, parent, group and session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forks

SCRIPT = """
import atexit, json, os, signal, sys, threading, time

what, *more = sys.argv[1:]
if what == "tell":
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    print(json.dumps({
        "argv": sys.argv, "name": __name__, "folder": os.getcwd(), "environment": dict(os.environ),
        "parent": os.getppid() == int(more[0]), "leads": [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
        "threads": len(os.listdir("/proc/self/task")), "input": sys.stdin.read(),
        "signals": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "streams": [[one.encoding, one.errors, one.line_buffering] for one in (sys.stdout, sys.stderr)],
        "given": [fd for fd in (0, 1, 2, *map(int, more[1:])) if fd in fds],
    }))
elif what == "code":
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("not flushed", end=" ")
    sys.exit(eval(more[0]))
elif what == "raise":
    raise ValueError("on purpose")
elif what == "signal":
    os.kill(os.getpid(), int(more[0]))
    time.sleep(60)
elif what == "lifeline":
    print("ready", flush=True)
    os.read(int(more[0]), 1)
    print("its parent is gone", flush=True)
elif what == "sleep":
    print("ready", flush=True)
    time.sleep(60)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(params=["cold", "forked"])
def start(request: pytest.FixtureRequest, script: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts the script, each test once by a cold start, which says what is to be expected, and once by a fork."""
    kind = {"cold": forks.COLD, "forked": forks.Popen}[request.param]
    forked: list[int] = []
    real = forks.Nursery.fork

    def fork(*arguments: Any) -> int:
        forked.append(real(*arguments))
        return forked[-1]

    monkeypatch.setattr(forks.Nursery, "fork", fork)

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        asked = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = kind([sys.executable, "-P", str(script), *map(str, arguments)], text=True, **asked)
        # Not by its command line, which is empty as soon as it has ended.
        assert (process.pid in forked) == (kind is forks.Popen), "not the kind of start that is looked at"
        return process

    return start


def told(kind: Any, script: Path, folder: Path, **options: Any) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    try:
        process = kind(
            [sys.executable, "-P", str(script), "tell", str(os.getpid()), str(read_end)], text=True, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(read_end,),
            env={**os.environ, "SOME": "thing"}, **options,
        )  # fmt: skip
        said, complained = process.communicate("some input", timeout=120)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert process.returncode == 0, complained
    return {**json.loads(said), "given": [0, 1, 2, "the lifeline"][: len(json.loads(said)["given"])]}


@pytest.mark.parametrize("options", [{}, {"process_group": 0}, {"start_new_session": True}])
def test_a_fork_finds_what_a_cold_start_finds(script: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    cold = told(forks.COLD, script, tmp_path, **options)
    assert told(forks.Popen, script, tmp_path, **options) == cold
    assert cold["parent"]
    assert cold["leads"] == [bool(options), "start_new_session" in options]
    assert (cold["folder"], cold["threads"], cold["input"]) == (str(tmp_path), 1, "some input")


@pytest.mark.parametrize(
    ("value", "code"), [("0", 0), ("None", 0), ("7", 7), ("256 + 9", 9), ("'in words'", 1), ("True", 1)]
)
def test_it_ends_with_the_same_code_after_threads_and_exit_functions(start: Start, value: str, code: int) -> None:
    process = start("code", value)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == code
    assert said == "not flushed thread\nat exit\n"
    assert ("in words" in complained) == (code == 1 and "words" in value)


def test_an_error_is_told_and_is_code_1(start: Start) -> None:
    process = start("raise")
    _, complained = process.communicate(timeout=120)
    assert process.returncode == 1
    assert complained.splitlines()[-1] == "ValueError: on purpose"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_an_end_by_a_signal_is_seen_as_that(start: Start, number: signal.Signals) -> None:
    process = start("signal", int(number))
    process.communicate(timeout=120)
    assert process.returncode == -number


def test_it_can_be_signalled_and_killed_with_its_group(start: Start) -> None:
    for kill in (os.kill, os.killpg):
        process = start("sleep", process_group=0)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.poll() is None
        kill(process.pid, signal.SIGKILL)
        assert process.wait(120) == -signal.SIGKILL
        process.communicate()


def test_nobody_but_this_process_holds_the_other_end_of_its_lifeline(start: Start) -> None:
    read_end, write_end = os.pipe()
    process = start("lifeline", read_end, pass_fds=(read_end,))
    os.close(read_end)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    other = start("sleep")  # started later: it must not keep the first one alive
    time.sleep(0.2)
    assert process.poll() is None
    os.close(write_end)
    assert process.communicate(timeout=120)[0] == "its parent is gone\n"
    assert other.poll() is None
    other.kill()
    other.communicate()


def test_control_what_is_read_at_import_is_not_forked_with_another_value(script: Path) -> None:
    """OpenMP has read its number of threads long ago: such a start is a cold one."""
    for changed, expected in (({}, False), ({"OMP_NUM_THREADS": "3"}, True)):
        process = forks.Popen([sys.executable, "-P", str(script), "sleep"], env={**os.environ, **changed})
        cold = forks.__file__.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()
        process.wait()
        assert cold == expected


@pytest.mark.parametrize("command", [["-c", "pass"], ["-m", "json.tool", "--help"]])
def test_control_what_is_not_this_program_is_started_cold(command: list[str]) -> None:
    process = forks.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    found = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert process.wait(120) == 0
    assert forks.__file__.encode() not in found
