"""Programs that come first, in a folder that looks like /proc, and one that really runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nightschool.supervisor import others
from nightschool.supervisor.others import Seen
from tests.supervisor.fakes import wait_until

OWN = 100


def process(
    proc: Path, pid: int, comm: str, *, argv0: str = "", exe: str = "", state: str = "S", parent: int = 1
) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} ({comm}) {state} {parent} 1 1 0\n")
    (folder / "cmdline").write_bytes(argv0.encode() + b"\0--flag\0" if argv0 else b"")
    if exe:
        (folder / "exe").symlink_to(exe)


@pytest.mark.parametrize(
    "calls",
    [
        {"comm": "steam"},
        {"comm": "main", "argv0": "/usr/games/steam"},
        {"comm": "main", "exe": "/opt/steam"},
        {"comm": "main", "exe": "/opt/steam (deleted)"},
    ],
)
def test_a_program_is_known_by_each_of_its_names(tmp_path: Path, calls: dict[str, str]) -> None:
    process(tmp_path, 7, **calls)  # type: ignore[arg-type]
    assert others.running(["ollama", "steam"], tmp_path, OWN) == Seen("steam", 7)


@pytest.mark.parametrize("comm", ["steamer", "steam) S 1 (x", "my steam", "Steam"])
def test_control_another_name_is_another_program(tmp_path: Path, comm: str) -> None:
    process(tmp_path, 7, comm, argv0="/steam/other")
    assert others.running(["steam"], tmp_path, OWN) is None


def test_a_name_that_the_kernel_cuts_is_found(tmp_path: Path) -> None:
    process(tmp_path, 7, "a-very-long-nam")
    assert others.running(["a-very-long-name-of-a-program"], tmp_path, OWN) == Seen("a-very-long-name-of-a-program", 7)


def test_what_has_ended_or_is_our_own_does_not_count(tmp_path: Path) -> None:
    process(tmp_path, OWN, "steam")
    process(tmp_path, 101, "steam", parent=OWN)
    process(tmp_path, 102, "steam", parent=101)
    process(tmp_path, 103, "steam", state="Z")
    assert others.running(["steam"], tmp_path, OWN) is None
    process(tmp_path, 104, "steam", parent=103)
    assert others.running(["steam"], tmp_path, OWN) == Seen("steam", 104)


def test_what_vanishes_or_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()  # gone after it was listed
    (tmp_path / "6").mkdir()
    (tmp_path / "6/stat").write_text("nonsense")
    (tmp_path / "self").mkdir()
    process(tmp_path, 7, "steam")
    assert others.running(["steam"], tmp_path, OWN) == Seen("steam", 7)
    assert others.running(["steam"], tmp_path / "nowhere", OWN) is None


def test_a_real_program_is_seen_until_it_ends(tmp_path: Path) -> None:
    name = f"prog-{os.getpid()}"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / name)
    child = subprocess.Popen([tmp_path / name, "600"])
    try:
        wait_until(lambda: others.running([name], own=-1) == Seen(name, child.pid))
        assert others.running([name]) is None, "it is a child of this process"
        child.kill()
        # Until somebody collects its end it is a zombie.
        wait_until(lambda: others.running([name], own=-1) is None)
    finally:
        child.kill()
        child.wait()


def test_training_goes_on_only_when_all_have_been_gone_for_a_while() -> None:
    yielding, seen = others.Yielding(), Seen("steam", 7)
    assert yielding.look(None, 0) is None
    assert yielding.look(seen, 2) == "steam runs (process 7)"
    assert "has just ended" in (yielding.look(None, 2 + others.HOLD_SECONDS - 1) or "")
    assert yielding.look(seen, 12) is not None
    assert yielding.look(None, 12 + others.HOLD_SECONDS - 1) is not None
    assert yielding.look(None, 12 + others.HOLD_SECONDS) is None
    assert yielding.look(None, 60) is None
