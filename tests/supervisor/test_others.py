"""Programs to which the GPU is left: who counts as one, for how long, and how seldom it is looked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from nightschool.errors import SettingsError
from nightschool.settings import parse_settings
from nightschool.supervisor import others
from nightschool.supervisor.others import Others
from nightschool.yielding import check_names, matching
from tests.supervisor.fakes import wait_until


class Computer:
    """A made-up /proc and a clock."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.now = 100.0
        self.others = Others(lambda: self.now, proc)

    def start(
        self, pid: int, comm: str, *, exe: str = "", argv: tuple[str, ...] = (), state: str = "S",
        parent: int = 1, group: int = 0, session: int = 0,
    ) -> None:  # fmt: skip
        folder = self.proc / str(pid)
        folder.mkdir(parents=True)
        stat = f"{pid} ({comm}) {state} {parent} {group or pid} {session or pid} 0 -1 4194304 1 2 3"
        (folder / "stat").write_bytes(os.fsencode(stat))
        (folder / "cmdline").write_bytes(b"".join(os.fsencode(part) + b"\0" for part in argv))
        if exe:
            (folder / "exe").symlink_to(exe)

    def end(self, pid: int) -> None:
        shutil.rmtree(self.proc / str(pid))

    def look(self, *names: str, own: tuple[int, ...] = ()) -> str | None:
        """What is seen at the next look, 2 s later."""
        self.now += others.LOOK_SECONDS
        return self.others.look(names, own)


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    made = Computer(tmp_path / "proc")
    made.start(1, "systemd", exe="/usr/lib/systemd/systemd", argv=("/sbin/init",))
    made.start(2, "kthreadd", parent=0)
    made.start(90, "bash", exe="/usr/bin/bash", argv=("-bash",))
    return made


@pytest.mark.parametrize(
    ("comm", "exe", "argv"),
    [
        ("steam", "", ()),
        ("main", "/opt/games/steam", ("./start",)),
        ("main", "/opt/games/steam (deleted)", ()),
        ("main", "", ("/usr/games/steam", "-silent")),
        ("main", "", ("steam",)),
    ],
)
def test_a_program_is_known_by_any_of_its_three_names(
    computer: Computer, comm: str, exe: str, argv: tuple[str, ...]
) -> None:
    assert computer.look("ollama", "steam") is None
    computer.start(1234, comm, exe=exe, argv=argv)
    assert computer.look("ollama", "steam") == "steam runs (process 1234)"


@pytest.mark.parametrize("comm", ["Steam", "steamx", "stea", "steam)", "(steam)", "a steam"])
def test_control_another_name_is_not_it(computer: Computer, comm: str) -> None:
    computer.start(1234, comm, exe=f"/usr/bin/{comm}", argv=("/steam/game", "steam"))
    assert computer.look("steam") is None


def test_names_with_brackets_and_spaces_are_read_whole(computer: Computer) -> None:
    computer.start(7, "a) S 1 (b c", exe="/x")
    assert computer.look("a) S 1 (b c") == "a) S 1 (b c runs (process 7)"


def test_of_a_long_name_the_system_keeps_fifteen_bytes(computer: Computer) -> None:
    computer.start(5, "stable-diffusio")
    assert computer.look("stable-diffusion-server") == "stable-diffusion-server runs (process 5)"
    assert matching(["stable-diffusi"], "stable-diffusio", "", "") is None
    assert matching(["größenordnungen"], "größenordnung", "", "") == "größenordnungen", "bytes, not characters"


def test_what_has_ended_and_what_is_no_program_does_not_count(computer: Computer) -> None:
    computer.start(1234, "steam", state="Z")
    computer.start(1235, "steam", state="X")
    computer.start(1236, "steam", parent=2)
    assert computer.look("steam") is None


def test_ourselves_and_our_children_do_not_count(computer: Computer) -> None:
    me = os.getpid()
    computer.start(me, "python", group=90, session=90)
    computer.start(500_001, "python", parent=me, group=500_001, session=90)
    computer.start(500_002, "python", parent=500_001, group=500_001, session=90)
    computer.start(500_003, "python", parent=500_002, group=500_003, session=500_003)
    assert computer.look("python", own=(500_001,)) is None
    # What lost its parent is known by its group.
    computer.start(500_004, "python", parent=1, group=500_001, session=90)
    assert computer.look("python", own=(500_001,)) is None


def test_control_what_shares_only_our_terminal_counts(computer: Computer) -> None:
    computer.start(os.getpid(), "python", parent=90, group=os.getpid(), session=90)
    computer.start(500_005, "steam", parent=90, group=500_005, session=90)
    assert computer.look("steam", own=(500_001,)) == "steam runs (process 500005)"


def test_parents_that_go_in_a_circle_end_the_look(computer: Computer) -> None:
    computer.start(10, "a", parent=11)
    computer.start(11, "steam", parent=10)
    assert computer.look("steam") == "steam runs (process 11)"


def test_it_rests_for_ten_seconds_more_and_does_not_flap(computer: Computer) -> None:
    computer.start(1234, "steam")
    assert computer.look("steam") == "steam runs (process 1234)"
    computer.end(1234)
    told = [computer.look("steam") for _ in range(4)]
    assert told == ["steam ran until a moment ago"] * 4
    computer.start(1300, "steam")
    assert computer.look("steam") == "steam runs (process 1300)"
    computer.end(1300)
    told = [computer.look("steam") for _ in range(6)]
    assert told == ["steam ran until a moment ago"] * 4 + [None] * 2


def test_a_name_that_is_taken_from_the_settings_counts_no_more(computer: Computer) -> None:
    computer.start(1234, "steam")
    assert computer.look("steam") is not None
    assert computer.others.look(["ollama"]) is None, "at once, and with no hold-off"
    assert computer.others.look(["ollama", "steam"]) == "steam runs (process 1234)"
    assert computer.others.look([]) is None


def test_it_looks_every_two_seconds_and_not_at_all_without_names(
    computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    find = Others._find
    monkeypatch.setattr(Others, "_find", lambda self, own: (looks.append(computer.now), find(self, own))[1])
    for _ in range(100):
        computer.now += 0.125
        computer.others.look(["steam"])
    assert len(looks) == 7
    assert min(b - a for a, b in pairwise(looks)) >= others.LOOK_SECONDS
    for _ in range(100):
        computer.now += 1
        computer.others.look([])
    assert len(looks) == 7


def test_entries_that_vanish_or_make_no_sense_are_passed_over(computer: Computer) -> None:
    (computer.proc / "77").mkdir()
    for pid, text in ((78, b""), (79, b"79 steam S"), (80, b"80 (steam) S one 1 1"), (81, b"\xff\xff")):
        (computer.proc / str(pid)).mkdir()
        (computer.proc / str(pid) / "stat").write_bytes(text)
    (computer.proc / "82").write_text("a file")
    (computer.proc / "self").symlink_to("1")
    assert computer.look("steam") is None
    computer.start(83, "steam")
    (computer.proc / "83/cmdline").unlink()
    assert computer.look("steam") == "steam runs (process 83)"
    shutil.rmtree(computer.proc)
    computer.now += others.HOLD_OFF_SECONDS
    assert computer.look("steam") is None


@contextmanager
def program(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real program of that name."""
    shutil.copy(str(shutil.which("sleep")), path)
    process = subprocess.Popen([path, "600"], start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_real_program_is_seen_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ns-game-{os.getpid()}"
    now = [0.0]
    seen = Others(lambda: now[0])

    def look() -> str | None:
        now[0] += 2
        return seen.look([name])

    with program(tmp_path / "other") as control, program(tmp_path / name) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/exe").readlink().name == name)
        assert control.poll() is None
        assert look() is None, "a child of this very process is one of ours"
        monkeypatch.setattr(os, "getpid", lambda: 1 << 30)
        assert look() == f"{name} runs (process {process.pid})"
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: b") Z" in Path(f"/proc/{process.pid}/stat").read_bytes())
        assert look() == f"{name} ran until a moment ago"
        now[0] += others.HOLD_OFF_SECONDS
        assert look() is None


@pytest.mark.parametrize("name", ["", " ", "steam ", "/usr/bin/steam", "bin/steam", ".", "..", "a\0b"])
def test_a_name_that_no_program_has_is_refused_when_the_settings_are_read(name: str) -> None:
    with pytest.raises(SettingsError, match=r"machine\.yield_to"):
        check_names(["ollama", name])
    with pytest.raises(SettingsError, match=r"machine\.yield_to"):
        parse_settings({"model": {"name": "m"}, "machine": {"yield_to": [name]}})


def test_control_names_that_programs_have_are_taken() -> None:
    names = ["steam", "ollama", "python3.12", "a b", "größe", "Xorg"]
    check_names(names)
    check_names([])
    assert parse_settings({"model": {"name": "m"}, "machine": {"yield_to": names}}).machine.yield_to == names
