"""Programs that come first, in a folder that looks like /proc, and one that really runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool.settings import load_settings
from nightschool.supervisor import others
from nightschool.supervisor.gate import Gate
from nightschool.supervisor.others import Seen
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, Background, events, gone, log_text, wait_until

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


class World:
    """The clock, and the program that runs."""

    now = 0.0
    seen: Seen | None = None
    looks = 0

    def running(self, names: Sequence[str]) -> Seen | None:
        self.looks += 1
        return self.seen if names else None


def test_training_goes_on_only_when_all_have_been_gone_for_a_while() -> None:
    world, seen = World(), Seen("steam", 7)
    yielding = others.Yielding(["steam"], lambda: world.now, world.running)

    def word(now: float, found: Seen | None) -> str | None:
        world.now, world.seen = now, found
        rest = yielding.rest()
        return rest and rest[1]

    assert word(0, None) is None
    assert word(2, seen) == "steam runs (process 7; machine.yield_to)"
    assert "has just ended" in (word(2 + others.HOLD_SECONDS - 1, None) or "")
    assert word(14, seen) is not None
    assert word(14 + others.HOLD_SECONDS - 1, None) is not None
    assert word(16 + others.HOLD_SECONDS, None) is None
    assert word(60, None) is None


def test_processes_are_looked_at_every_two_seconds_and_not_in_every_round() -> None:
    world = World()
    yielding = others.Yielding(["steam"], lambda: world.now, world.running)
    for tenth in range(100):
        world.now = tenth / 10
        yielding.rest()
    assert world.looks == 5


def test_pause_and_hours_are_told_before_a_program_and_that_before_the_disk() -> None:
    world = World()
    world.seen = Seen("steam", 7)
    yielding = others.Yielding(["steam"], lambda: world.now, world.running)
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
    for text, told, word in (
        ("22:00-07:00", {"paused": True}, "paused"),
        ("22:00-07:00", {}, "outside hours"),
        ("", {}, "paused"),
    ):
        gate = Gate(text, lambda _: None, now=lambda: noon, others=(yielding.rest, lambda: ("waiting for disk", "x")))
        gate.look(told)
        assert gate.rest is not None
        assert gate.rest[0] == word
    assert "steam runs" in gate.rest[1]
    yielding.names = []
    world.now = 100
    gate.look({})
    assert gate.rest == ("waiting for disk", "x")


def test_the_machine_rests_while_the_program_runs_and_goes_on_after_it(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others, "HOLD_SECONDS", 0.0)
    name = f"game-{os.getpid()}"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / name)
    # A child of this process would be one of the machine's own: it runs in a thread here.
    pid = int(subprocess.check_output(["sh", "-c", f"{tmp_path / name} 600 >/dev/null 2>&1 & echo $!"]))
    layout.settings_file.write_text(f'{TOML}[machine]\nyield_to = ["{name}"]\n')
    machine = Background(layout, load_settings(layout.settings_file))
    try:
        (layout.inbox / "a.jsonl").write_text("{}\n")
        wait_until(lambda: name in log_text(layout), "the log names the program")
        assert not events(layout, "trainer.started")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: events(layout, "trainer.started"), "training goes on")
    finally:
        machine.stop()
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
