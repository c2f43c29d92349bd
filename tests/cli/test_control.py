"""pause, resume, stop, run and doctor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightschool import checkup, durable
from nightschool.cli import main
from nightschool.errors import BusyError
from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.workspace import Layout
from tests.cli.conftest import Run

PATIENCE = 240.0
"""Seconds; long, so that a busy computer fails no test."""


def machine_value(layout: Layout, key: str) -> object:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get(key)


def test_pause_and_resume_work_with_and_without_a_machine(here: Run, layout: Layout) -> None:
    assert "does not run" in here("pause").out
    assert machine_value(layout, "paused") == {"until": None}
    assert here("status", "--json").json["paused"] is True
    assert "does not run" in here("resume").out
    assert machine_value(layout, "paused") is False
    first = machine_value(layout, "resumed")
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        assert "Pausing" in here("pause").out
        assert "Going on" in here("resume").out
    assert machine_value(layout, "resumed") not in (None, first), "each resume is one that a failed machine notices"


def start_machine(layout: Layout) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "nightschool", "-C", str(layout.root), "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + PATIENCE
    while durable.holder(layout.supervisor_lock) != process.pid:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


def test_stop_ends_a_running_machine_and_waits(here: Run, layout: Layout) -> None:
    assert here("stop").out == "No machine runs here.\n"
    process = start_machine(layout)
    try:
        result = here("stop")
        assert (result.code, result.out.splitlines()[-1]) == (0, "Stopped.")
        assert durable.holder(layout.supervisor_lock) is None
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "nightschool has stopped." in output
    finally:
        process.kill()
        process.wait()
    assert here("status", "--json").json["state"] == "stopped"


def test_b9_a_second_run_names_the_first(here: Run, layout: Layout) -> None:
    process = start_machine(layout)
    try:
        result = here("run")
        assert result.code == BusyError.exit_code
        assert str(process.pid) in result.err
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_run_until_idle_on_an_empty_workspace(here: Run, layout: Layout) -> None:
    result = here("run", "--until-idle")
    assert (result.code, result.err) == (0, "")
    assert "Nothing is left to learn." in result.out


def test_a_machine_in_another_container_cannot_be_stopped_from_here(
    here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(pid: int, number: int) -> None:
        raise ProcessLookupError

    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        monkeypatch.setattr(os, "kill", unknown)
        result = here("stop")
    assert result.code == BusyError.exit_code
    assert "container" in result.err


def verdicts(here: Run) -> dict[str, str]:
    return {finding["what"]: finding["verdict"] for finding in here("doctor", "--json").json}


def test_doctor_finds_a_new_workspace_in_order(here: Run) -> None:
    result = here("doctor")
    assert result.code == 0, result.out
    assert result.out.endswith("Everything is in order.\n")
    found = verdicts(here)
    assert {found[w] for w in ("libraries", "workspace", "permissions", "ledger", "machine", "settings", "model")} == {
        "good"
    }


def test_doctor_without_a_workspace_still_looks_at_the_machine(cli: Run, tmp_path: Path) -> None:
    result = cli("-C", tmp_path, "doctor", "--json")
    assert result.code == 1
    assert [finding["what"] for finding in result.json] == ["system", "libraries", "gpu", "workspace"]


@pytest.mark.parametrize(
    ("breakage", "what"),
    [
        (lambda layout: (layout.root.parent / "base" / "config.json").unlink(), "model"),
        (lambda layout: layout.settings_file.write_text("[model]\nnam = 1\n"), "settings"),
        (lambda layout: layout.ledger.write_bytes(b"nonsense" * 1000), "ledger"),
        (lambda layout: layout.inbox.rename(layout.root / "away"), "workspace"),
    ],
)
def test_doctor_finds_what_is_bad_and_says_what_to_do(here: Run, layout: Layout, breakage: object, what: str) -> None:
    breakage(layout)  # type: ignore[operator]
    assert verdicts(here)[what] == "bad"
    assert here("doctor").code == 1


def test_doctor_names_the_process_that_works(here: Run, layout: Layout) -> None:
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        assert f"process {os.getpid()}" in here("doctor").out


def test_c5_doctor_sees_that_the_next_checkpoints_will_not_fit(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(layout.settings_file)
    folder = layout.checkpoint(5)
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    usage = type(shutil.disk_usage("/"))
    # Room for the next checkpoint, and machine.min_free_gb beside it; with less, training waits.
    for free, verdict in ((1000, "bad"), (10**9, "bad"), (2 * 10**9, "note"), (10**12, "good")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(10**12, 0, free))
        (finding,) = checkup.room(layout, settings)
        assert finding.verdict == verdict
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 1000))
    (finding,) = checkup.room(layout, settings)
    assert "3.0 kB" in finding.found or "3 kB" in finding.found
    assert "save_total_limit" in finding.advice


def test_doctor_sees_a_base_model_that_does_not_fit_the_gpu(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(layout.settings_file)
    monkeypatch.setattr(checkup, "gpu_memory", lambda: 2)
    assert [(f.what, f.verdict) for f in checkup.model(settings)] == [("model", "good"), ("fit", "bad")]
    monkeypatch.setattr(checkup, "gpu_memory", lambda: 10**9)
    assert [f.what for f in checkup.model(settings)] == ["model"]


def test_errors_are_one_plain_sentence_on_standard_error(cli: Run, tmp_path: Path) -> None:
    result = cli("-C", tmp_path, "files")
    assert (result.code, result.out) == (4, "")
    assert result.err.startswith("nightschool: There is no nightschool.toml in ")
    assert "Traceback" not in result.err


def test_python_m_nightschool(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "nightschool", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "nightschool 0.1.0\n")


def test_ctrl_c_while_waiting_ends_with_130(monkeypatch: pytest.MonkeyPatch, layout: Layout) -> None:
    from nightschool.cli import stop

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    monkeypatch.setattr(stop.time, "sleep", interrupted)
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        assert main(["-C", str(layout.root), "stop"]) == 130


def test_a_typing_error_suggests_the_command(cli: Run) -> None:
    result = cli("stats")
    assert result.code == 2
    assert "Did you mean 'status'" in result.err
