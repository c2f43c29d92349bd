"""The machine on a real small file system that fills up, and on one that is read-only from the start."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.supervisor import policies
from nightschool.supervisor import run as supervisor
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, Background, commands, drop, log_text, state, states, wait_until, word_is

SMALL_TOML = TOML + "[machine]\nmin_free_gb = 0.001\n"


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"NOT CHECKED on a real file system: mounting is not allowed here ({done.stderr.strip()}); the injected "
            "forms in tests/durable/test_storage_errors.py and tests/supervisor/test_resting.py run everywhere"
        )


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place))
    try:
        made = Layout(place / "ws")
        made.create()
        made.settings_file.write_text(SMALL_TOML)
        Ledger.create(made.ledger).close()
        yield made
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_DELAY", "STORAGE_DELAY", "LONGEST_STORAGE_DELAY", "LEDGER_DELAY"):
        monkeypatch.setattr(policies, name, 0.1)


def fill(layout: Layout) -> Path:
    """Take all the room there is."""
    ballast = layout.root / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return ballast


def remount(layout: Layout, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(layout.root.parent)], check=True)


def test_c7_on_a_read_only_file_system_it_refuses_to_start_and_says_so(layout: Layout) -> None:
    settings = load_settings(layout.settings_file)
    remount(layout, "ro")
    try:
        with pytest.raises(StorageError, match="read-only"):
            supervisor.run(layout, settings, True, commands=commands(layout))
    finally:
        remount(layout, "rw")
    drop(layout, "a.jsonl")
    assert supervisor.run(layout, settings, True, commands=commands(layout), tick_seconds=0.02) == 0
    assert states(layout) == {"learned": 1}


@pytest.mark.usefixtures("quick")
def test_c5_c6_while_it_runs_it_waits_for_room_and_goes_on_by_itself(layout: Layout) -> None:
    machine = Background(layout, load_settings(layout.settings_file))
    try:
        drop(layout, "a.jsonl")
        wait_until(lambda: states(layout) == {"learned": 1})
        wait_until(word_is(layout, "idle"))
        ballast = fill(layout)
        # A name takes no room that is counted, on a file system in memory.
        (layout.inbox / "b.jsonl").touch()
        wait_until(lambda: machine.result or waits(layout), "the machine says that it waits")
        assert not machine.result, "it stays up"
        ballast.unlink()
        drop(layout, "c.jsonl")
        wait_until(lambda: states(layout).get("learned") == 3)
        assert machine.stop() == 0
    finally:
        machine.signals.stop = machine.signals.at_once = True
        machine.thread.join()


def waits(layout: Layout) -> bool:
    return state(layout).get("word") == "waiting for disk" or "Waiting for the disk" in log_text(layout)
