"""What is told about the machine underneath."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nightschool import hardware
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
