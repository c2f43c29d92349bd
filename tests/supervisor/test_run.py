"""The loop with stand-in children, in this process: ends by itself, through `until_idle` or an error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import errors
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.supervisor import machine as machine_module
from nightschool.supervisor import policies
from nightschool.supervisor import run as supervisor
from nightschool.workspace import Layout
from tests.supervisor.fakes import (
    TOML,
    Background,
    Start,
    commands,
    drop,
    events,
    log_text,
    state,
    states,
    tell,
    wait_until,
    word_is,
)  # fmt: skip


def run(
    layout: Layout,
    settings: Settings,
    trainer: str = "good",
    intake: str = "good",
    echo: supervisor.Echo | None = None,
) -> int:
    return supervisor.run(layout, settings, True, echo, commands=commands(layout, trainer, intake), tick_seconds=0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_DELAY", "STORAGE_DELAY", "LONGEST_STORAGE_DELAY", "BUSY_DELAY", "DEVICE_DELAY", "LEDGER_DELAY"):
        monkeypatch.setattr(policies, name, 0.05)


def test_until_idle_learns_everything_and_ends_with_0(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl", "high/b.jsonl", "low/c.jsonl", ".hidden", "d.part")
    lines: list[str] = []
    assert run(layout, settings, echo=lines.append) == 0
    assert states(layout) == {"learned": 3}
    assert len(events(layout, "trainer.started")) == 1
    assert events(layout, "trainer.saved") == events(layout, "trainer.started")
    assert state(layout)["word"] == "stopped"
    assert any("New in the inbox: high/b.jsonl" in line for line in lines)
    assert "\n".join(lines) + "\n" == log_text(layout)


def test_an_empty_inbox_needs_no_child(layout: Layout, settings: Settings) -> None:
    assert run(layout, settings) == 0
    assert not events(layout, "trainer.started")
    assert not events(layout, "intake.started")


@pytest.mark.parametrize("stage", ["training", "trained"])
def test_a8_a9_a_file_that_was_in_training_is_taken_up_again(layout: Layout, settings: Settings, stage: str) -> None:
    drop(layout, "a.jsonl")
    assert run(layout, settings) == 0
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_state(1, "training" if stage == "training" else "ready")
    assert run(layout, settings) == 0
    assert len(events(layout, "trainer.started")) == 2
    assert states(layout) == {"learned": 1}


@pytest.mark.parametrize("stage", ["ready", "training"])
def test_c3_intake_runs_beside_a_file_that_only_needs_training(layout: Layout, settings: Settings, stage: str) -> None:
    """It alone can make the prepared data again without which the trainer ends."""
    with Ledger.open(layout.ledger) as ledger:
        id = make_ready(ledger)
        if stage == "training":
            ledger.files.begin(id)
    background = Background(layout, settings, trainer=f"exit:{errors.StorageError.exit_code}")
    wait_until(lambda: events(layout, "intake.started"))
    assert background.stop() == 0


@pytest.mark.usefixtures("quick")
def test_f3_a_killed_trainer_is_started_again_and_the_log_says_how_it_ended(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    assert run(layout, settings, trainer="kill:2") == 0
    assert len(events(layout, "trainer.started")) == 3
    assert states(layout) == {"learned": 1}
    assert "The trainer was ended by SIGKILL" in log_text(layout)
    assert "  | hello from trainer" in log_text(layout)


@pytest.mark.usefixtures("quick")
def test_f3_a_gpu_that_is_lost_is_waited_for_however_long_and_the_file_is_learned(
    layout: Layout, settings: Settings
) -> None:
    drop(layout, "a.jsonl")
    lives = policies.CRASHES + 2
    assert run(layout, settings, trainer=f"exit-after-step:{policies.DEVICE}:{lives}") == 0
    assert len(events(layout, "trainer.started")) == lives + 1
    assert states(layout) == {"learned": 1}
    assert "waits and tries again by itself: last words of trainer" in log_text(layout)


@pytest.mark.usefixtures("quick")
def test_b7_a_crash_loop_ends_as_failed_with_the_last_words_in_the_log(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    assert run(layout, settings, trainer="exit:1") == errors.TrainingError.exit_code
    assert len(events(layout, "trainer.started")) == policies.CRASHES
    assert state(layout)["word"] == "failed"
    assert "  | last words of trainer" in log_text(layout)
    assert states(layout) == {"ready": 1}


@pytest.mark.usefixtures("quick")
def test_b7_control_a_trainer_that_gets_further_each_time_is_never_given_up(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    assert run(layout, settings, trainer=f"kill:{policies.CRASHES + 2}") == 0
    assert len(events(layout, "trainer.started")) == policies.CRASHES + 3


def test_a_permanent_error_is_not_tried_again(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    code = errors.ModelError.exit_code
    assert run(layout, settings, trainer=f"exit:{code}") == code
    assert len(events(layout, "trainer.started")) == 1
    assert state(layout) | {"since": ""} == {"word": "failed", "reason": "last words of trainer", "since": ""}


@pytest.mark.usefixtures("quick")
def test_c5_a_trainer_without_room_is_tried_again_until_there_is_some(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    times = policies.CRASHES + 2
    assert run(layout, settings, trainer=f"exit:{errors.StorageError.exit_code}:{times}") == 0
    assert len(events(layout, "trainer.started")) == times + 1
    assert states(layout) == {"learned": 1}


@pytest.mark.usefixtures("quick")
def test_a_failed_intake_worker_lets_the_trainer_finish_what_is_ready(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")
    with Ledger.open(layout.ledger) as ledger:
        ready = make_ready(ledger)
    assert run(layout, settings, intake=f"exit:{errors.ModelError.exit_code}") == errors.ModelError.exit_code
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.files.get(ready).state == "learned"
    assert states(layout) == {"learned": 1, "arrived": 1}


def make_ready(ledger: Ledger) -> int:
    from nightschool.ledger import Arrival

    (id,) = ledger.files.arrive([Arrival("ready.jsonl", "/nowhere")])
    ledger.files.archived(id, "1" * 64, 1, "archive/ready.jsonl")
    ledger.files.prepared_as(
        id, "p", shape="text", rows_good=1, rows_bad=0, tokens=1, label_tokens=1, sequences=1, data_digest="d"
    )
    return id


def test_pause_saves_and_frees_the_gpu_and_resume_goes_on(layout: Layout, background: Start) -> None:
    machine = background()
    wait_until(word_is(layout, "idle"))
    drop(layout, "a.jsonl")
    wait_until(lambda: states(layout) == {"learned": 1})
    tell(layout, paused=True)
    wait_until(word_is(layout, "paused"))
    assert events(layout, "trainer.saved") == events(layout, "trainer.started")
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout) == {"learned": 1, "ready": 1}, "files are taken in while paused")
    assert len(events(layout, "trainer.started")) == 1
    tell(layout, paused=False)
    wait_until(lambda: states(layout) == {"learned": 2})
    assert machine.stop() == 0


def test_a_failed_machine_stays_up_and_resume_tries_again(layout: Layout, background: Start) -> None:
    code = errors.ModelError.exit_code
    machine = background(trainer=f"exit:{code}:1")
    drop(layout, "a.jsonl")
    wait_until(word_is(layout, "failed"))
    drop(layout, "b.jsonl")
    wait_until(lambda: states(layout) == {"ready": 2}, "files are taken in while failed")
    tell(layout, resumed=1)
    wait_until(lambda: states(layout) == {"learned": 2})
    assert machine.stop() == 0


def test_stopping_a_failed_machine_gives_the_failures_code(layout: Layout, background: Start) -> None:
    machine = background(trainer="exit:9")
    drop(layout, "a.jsonl")
    wait_until(word_is(layout, "failed"))
    assert machine.stop() == 9
    assert state(layout)["word"] == "failed"


def test_c10_a_workspace_that_vanishes_stops_the_run_and_is_never_taken_for_an_empty_one(
    layout: Layout, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "MISSING_SECONDS", 0.0)
    machine = background()
    drop(layout, "a.jsonl")
    wait_until(lambda: states(layout) == {"learned": 1})
    layout.inbox.rename(layout.root / "elsewhere")
    found = machine.end()
    assert isinstance(found, errors.WorkspaceError)
    assert not layout.inbox.exists()
    assert events(layout, "trainer.saved") == events(layout, "trainer.started")


def test_an_editor_that_replaces_the_settings_does_not_stop_the_run(
    layout: Layout, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "MISSING_SECONDS", 600.0)
    noticed = threading.Event()
    real = supervisor.Supervisor._missing

    def missing(self: supervisor.Supervisor, error: errors.NightschoolError) -> None:
        noticed.set()
        real(self, error)

    monkeypatch.setattr(supervisor.Supervisor, "_missing", missing)
    machine = background()
    wait_until(word_is(layout, "idle"))
    layout.settings_file.unlink()
    wait_until(noticed.is_set)
    layout.settings_file.write_text(TOML)
    drop(layout, "a.jsonl")
    wait_until(lambda: states(layout) == {"learned": 1})
    assert machine.stop() == 0


def test_b9_a_lock_that_was_removed_under_the_run_stops_it(
    layout: Layout, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "MISSING_SECONDS", 0.0)
    machine = background()
    wait_until(word_is(layout, "idle"))
    layout.supervisor_lock.unlink()
    assert isinstance(machine.end(), errors.WorkspaceError)


@pytest.mark.usefixtures("quick")
def test_c6_a_ledger_without_room_pauses_and_goes_on_by_itself(
    layout: Layout, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightschool.ledger.files import Files
    from nightschool.ledger.machine import Machine

    full = threading.Event()
    for kind, name in ((Files, "arrive"), (Machine, "set")):
        real = getattr(kind, name)

        def refusing(*args: object, _real: Callable[..., object] = real) -> object:
            if full.is_set():
                raise errors.StorageError("The disk is full.", 28)
            return _real(*args)

        monkeypatch.setattr(kind, name, refusing)
    machine = background()
    wait_until(word_is(layout, "idle"))
    full.set()
    drop(layout, "a.jsonl")
    wait_until(lambda: "Waiting for the disk: The disk is full." in log_text(layout))
    full.clear()
    wait_until(lambda: states(layout) == {"learned": 1})
    assert machine.stop() == 0
    assert "The disk takes data again." in log_text(layout)


def test_a_missing_ledger_is_never_made_anew(layout: Layout, settings: Settings) -> None:
    layout.ledger.unlink()
    with pytest.raises(errors.WorkspaceError):
        run(layout, settings)
    assert not layout.ledger.exists()


def test_a_terminal_that_has_gone_does_not_end_the_run(layout: Layout, settings: Settings) -> None:
    drop(layout, "a.jsonl")

    def broken(line: str) -> None:
        raise BrokenPipeError

    assert run(layout, settings, echo=broken) == 0
    assert states(layout) == {"learned": 1}


def test_e13_names_are_shown_escaped_in_the_log(layout: Layout, settings: Settings) -> None:
    drop(layout, "a\n2026-01-01 00:00:00  forged.jsonl", "b\x1b[2J.jsonl")
    assert run(layout, settings) == 0
    assert "forged" not in [line[21:27] for line in log_text(layout).splitlines()]
    assert "\x1b" not in log_text(layout)
    assert r"a\n2026" in log_text(layout)


def test_the_supervisor_rotates_the_log(layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "ROTATE_SECONDS", 0.0)
    small = settings.model_copy(update={"log": settings.log.model_copy(update={"max_megabytes": 1e-5})})
    drop(layout, "a.jsonl")
    lines: list[str] = []
    assert run(layout, small, echo=lines.append) == 0
    assert (layout.root / "training_output.log.1").exists()
    assert any("nightschool has stopped" in line for line in lines)


def test_supervisor_and_its_imports_are_free_of_heavy_libraries() -> None:
    code = (
        "import sys, nightschool.supervisor.run\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'pyarrow', 'accelerate', 'numpy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_killed_add_left_is_cleared_a_day_later(layout: Layout, settings: Settings) -> None:
    old, fresh = layout.tmp / "add-old", layout.tmp / "add-fresh"
    for folder in (old, fresh):
        folder.mkdir()
        (folder / "data").write_text("x")
    os.utime(old, (1.0, 1.0))
    assert run(layout, settings) == 0
    assert not old.exists()
    assert (fresh / "data").exists()
