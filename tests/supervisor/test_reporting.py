"""The process that tells the trackers: kept, and of no weight for the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nightschool import durable, trackers
from nightschool.errors import SettingsError
from nightschool.settings import Settings, TrackerSettings, load_settings
from nightschool.supervisor import aside, reporting
from nightschool.supervisor import run as supervisor
from nightschool.supervisor.reporting import Reporting
from nightschool.supervisor.run import Commands
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, child_command, commands, events, log_text, wait_until

TOLD = "The process that tells the trackers"


@pytest.fixture
def told(layout: Layout) -> Settings:
    layout.settings_file.write_text(TOML + '[trackers]\nreport_to = ["tensorboard"]\n')
    return load_settings(layout.settings_file)


def run(layout: Layout, settings: Settings, tracker: str, trainer: str = "after:tracker") -> int:
    """A run that is not over before the tracker, which comes behind all others, is there."""
    (layout.inbox / "a.jsonl").write_text('{"text": "a"}\n')
    found = commands(layout, trainer)
    found = Commands(found.trainer, found.intake, child_command(layout, "tracker", tracker))
    return supervisor.run(layout, settings, True, commands=found, tick_seconds=0.02)


def test_it_runs_while_the_machine_does_and_is_the_last_to_go(layout: Layout, told: Settings) -> None:
    assert run(layout, told, "good") == 0
    assert events(layout, "tracker.saved") == events(layout, "tracker.started") != []
    ends = {role: (layout.root / f"{role}.saved").stat().st_mtime_ns for role in ("trainer", "intake", "tracker")}
    assert max(ends, key=lambda role: ends[role]) == "tracker"
    assert TOLD not in log_text(layout)


def test_without_a_tracker_in_the_settings_there_is_no_such_process(layout: Layout, settings: Settings) -> None:
    assert run(layout, settings, "good", trainer="good") == 0
    assert not events(layout, "tracker.started")


@pytest.mark.parametrize("behaviour", ["exit:1", "exit:8", "exit:11", "exit:3"])
def test_one_that_cannot_run_keeps_nothing_from_being_learned(layout: Layout, told: Settings, behaviour: str) -> None:
    assert run(layout, told, behaviour, trainer=f"said:{TOLD}") == 0
    said = log_text(layout)
    assert said.count(TOLD) == 1
    assert f"ended with exit code {behaviour[5:]}: last words of tracker." in said


def test_one_that_does_not_stop_is_killed_after_its_time_and_the_run_ends(
    layout: Layout, told: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "GRACE", 0.2)
    assert run(layout, told, "deaf") == 0
    assert "The trackers did not finish within 0 seconds." in log_text(layout)


def test_one_that_is_not_installed_is_said_before_anything_begins(
    layout: Layout, told: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "_installed", lambda name: False)
    with pytest.raises(SettingsError, match=r"TensorBoard, which is not installed.*nightschool\[tensorboard\]"):
        run(layout, told, "good")
    assert not events(layout, "intake.started")
    assert log_text(layout) == ""


class Kept:
    """A Reporting over a small program, with a clock of its own."""

    def __init__(self, layout: Layout, program: str) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.starts = layout.root / "starts"
        text = f"open({str(self.starts)!r}, 'a').write('x'); {program}"
        self.reporting = Reporting(
            layout,
            [sys.executable, "-S", "-c", text],
            TrackerSettings(report_to=["tensorboard"]),
            self.said.append,
            lambda: self.now,
        )

    def count(self) -> int:
        return len(self.starts.read_text()) if self.starts.exists() else 0

    def life(self) -> None:
        """Let it be started, and end by itself."""
        self.reporting.tend(True)
        assert self.reporting.child.alive

        def over() -> bool:
            self.reporting.tend(True)
            return not self.reporting.child.alive

        wait_until(over)


def test_it_is_started_again_for_ever_ever_more_seldom_and_that_is_said_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(layout, "import sys; sys.exit(1)")
    for number in range(1, 9):
        kept.life()
        assert kept.count() == number
        kept.now += min(5.0 * 2 ** (number - 1), 600.0) - 0.1
        kept.reporting.tend(True)
        assert not kept.reporting.child.alive
        kept.now += 0.2
    assert len(kept.said) == 1
    # After a good long life it is news again.
    kept.reporting.tend(True)
    kept.now += aside.STEADY_SECONDS
    wait_until(lambda: kept.reporting.tend(True) or not kept.reporting.child.alive)
    assert len(kept.said) == 2


def test_one_of_an_earlier_run_is_waited_for(layout: Layout) -> None:
    kept = Kept(layout, "pass")
    code = "import sys; from pathlib import Path; from nightschool import durable\n"
    code += "with durable.Lock(Path(sys.argv[1]), 'it'): print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(layout.tracker_lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as earlier:
        assert earlier.stdout is not None
        earlier.stdout.readline()
        kept.reporting.tend(True)
        assert not kept.reporting.child.alive
        earlier.communicate(b"\n")
    assert durable.holder(Path(layout.tracker_lock)) is None
    kept.now += aside.LOCK_SECONDS
    kept.life()
    assert kept.count() == 1
