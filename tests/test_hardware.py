"""What is told about the machine underneath."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from nightschool import gpus, hardware
from nightschool.settings import render_default_toml
from nightschool.workspace import Layout


def test_memory_of_a_process(tmp_path: Path) -> None:
    found = hardware.resident(os.getpid())
    assert found is not None
    assert found > 1_000_000
    assert hardware.resident(7, tmp_path) is None


@pytest.mark.parametrize(
    ("said", "found"),
    [("512, 81559\n", (512 << 20, 81559 << 20)), ("[N/A], [N/A]\n", None), ("", None), ("No devices were found", None)],
)
def test_what_the_gpu_tool_says(said: str, found: tuple[int, int] | None) -> None:
    assert hardware.gpu_memory(said.splitlines()) == found


@pytest.mark.parametrize(
    ("device", "visible", "card"),
    [
        ("auto", None, "0"),
        ("cuda", None, "0"),
        ("cuda:1", None, "1"),
        ("cuda:1", "2,3", "3"),
        ("auto", "GPU-5a, GPU-6b", "GPU-5a"),
        ("cuda:1", "2", None),
        ("auto", "", None),
        ("cpu", None, "0"),
    ],
)
def test_the_card_that_is_asked_about_is_the_one_trained_on(device: str, visible: str | None, card: str | None) -> None:
    assert hardware.card_of(device, visible) == card


def test_the_gpu_tool_is_asked_about_the_card_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "school")
    layout.create()
    layout.settings_file.write_text(render_default_toml({"model": {"name": "none", "device": "cuda:1"}}))
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho 1, 2\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware.Probe(layout).look().gpu_total == 2 << 20
    assert (tmp_path / "asked").read_text().startswith("-i 1 ")


def test_the_gpu_tool_is_asked_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho 1, 2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    now = 0.0
    probe = hardware.Probe(Layout(tmp_path), clock=lambda: now)
    for now in (0.0, 1.0, hardware.GPU_SECONDS - 1, hardware.GPU_SECONDS):  # noqa: B007
        assert probe.look().gpu_total == 2 << 20
    assert (tmp_path / "asked").read_text() == "x\nx\n"


@pytest.mark.parametrize("dies", [True, False])
def test_a_gpu_tool_that_hangs_is_given_up_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dies: bool
) -> None:
    """Inside a driver that hangs it does not even die; then it is neither waited for nor started once more."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\nexec sleep 600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpus, "_stuck", None)
    if not dies:
        monkeypatch.setattr(gpus.subprocess.Popen, "kill", lambda _: None)
    began = time.monotonic()
    assert gpus.query("gpu", "index,uuid", 1.0) == []
    assert time.monotonic() - began < 300
    assert caplog.text.count("nvidia-smi did not answer within 1 s and was given up") == 1
    stuck = gpus._stuck
    assert stuck is not None
    if dies:
        stuck.wait(60)
    else:
        asked = tmp_path / "asked"
        while not asked.exists() or not asked.read_text():  # it may begin later than it is given up
            time.sleep(0.01)
        assert gpus.query("gpu", "index,uuid", 1.0) == []
        assert asked.read_text() == "x\n"
        os.kill(stuck.pid, signal.SIGKILL)
        stuck.wait(60)
    tool.write_text("#!/bin/sh\necho 1, 2\n")
    assert gpus.query("gpu", "index,uuid") == ["1, 2"], "control: one that answers is asked again"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable: 40 kB\n", (60 << 10, 100 << 10)),
        ("MemTotal:  100 kB\n", None),
        ("MemTotal: many\nMemAvailable: 40 kB\n", None),
        ("", None),
    ],
)
def test_memory_of_the_computer(said: str, found: tuple[int, int] | None, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(said)
    assert hardware.memory(tmp_path / "meminfo") == found
    assert hardware.memory(tmp_path / "none") is None
