"""The intake worker as a process: what it imports, what ends it, and that two never work on one workspace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nightschool.intake.__main__ import Lifeline
from tests import tiny

from .workspaces import Workspace

PATIENCE = 120.0


@contextmanager
def started(place: Workspace) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A worker process, and the write end of its lifeline."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "nightschool.intake", "--workspace", str(place.layout.root)]
    process = subprocess.Popen(
        [*command, "--lifeline", str(read_end)], pass_fds=(read_end,), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    os.close(read_end)
    try:
        yield process, write_end
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    model = tiny.make_tokenizer(tmp_path / "model")
    (model / "config.json").write_text("{}")
    return Workspace(tmp_path / "w", model)


def test_the_worker_prepares_what_arrives_and_ends_with_its_lifeline(place):
    number = place.drop("a.jsonl", json.dumps({"text": "hello"}).encode())
    with started(place) as (process, lifeline):
        until(lambda: place.get(number).state == "ready", process)
        process.send_signal(signal.SIGINT)  # Ctrl-C at the terminal is the supervisor's business
        later = place.drop("b.jsonl", b"")
        until(lambda: place.get(later).state == "rejected", process)
        os.close(lifeline)
        assert process.wait(PATIENCE) == 0
    log = place.layout.log_file.read_text()
    assert "a.jsonl is ready: 1 rows" in log
    assert "b.jsonl was rejected" in log


def test_sigterm_ends_it_and_a_second_worker_is_refused_with_the_pid_of_the_first(place):
    with started(place) as (first, lifeline):
        until(lambda: place.layout.intake_lock.exists() and place.layout.intake_lock.stat().st_size > 0, first)
        with started(place) as (second, other):
            _, errors = second.communicate(timeout=PATIENCE)
            assert second.returncode == 5
            assert str(first.pid) in errors.decode()
            os.close(other)
        first.terminate()
        assert first.wait(PATIENCE) == 0
        os.close(lifeline)


def test_watching_and_taking_files_in_imports_no_heavy_library():
    code = (
        "import sys, nightschool.intake.watch, nightschool.intake.accept, nightschool.intake.worker, "
        "nightschool.intake.__main__\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'numpy', 'datasets', 'trl') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_prepared_data_is_written_and_read_without_pandas(tmp_path):
    """Arrow imports it, where it is installed, for what needs it not: a tenth of the start of a trainer."""
    code = (
        "import sys, numpy as np, pathlib\n"
        "from nightschool.intake import packing, prepared\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "sequence = [np.arange(3, dtype=kind) for kind in ('i4', 'i1', 'i4', 'i4')]\n"
        "with prepared.PreparedWriter(folder) as writer: writer.write(packing.Packed(*sequence))\n"
        "prepared.write_meta(folder, {})\n"
        "found = prepared.PreparedReader(folder).sequence(0)\n"
        "assert [list(one) for one in found] == [[0, 1, 2]] * 4\n"
        "print('pandas' in sys.modules)\n"
        "import pyarrow as pa; pa.array([1]); print('pandas' in sys.modules)"
    )
    said = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True)
    assert said.split() == ["False", "True"], "the second is the control"


def test_a_lifeline_tells_an_open_pipe_from_a_closed_one():
    read_end, write_end = os.pipe()
    lifeline = Lifeline(read_end)
    assert not lifeline.stopping()
    os.close(write_end)
    assert lifeline.stopping()
    os.close(read_end)


def test_a_missing_workspace_is_a_clear_error(tmp_path):
    command = [sys.executable, "-m", "nightschool.intake", "--workspace", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "nightschool.toml is missing" in done.stderr
