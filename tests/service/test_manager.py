"""Install, status and uninstall, with a small program in systemctl's place that writes down what it is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.cli import main
from nightschool.service import manager
from nightschool.settings import load_settings
from nightschool.workspace import Layout
from tests.cli.conftest import Run
from tests.cli.conftest import cli as cli
from tests.cli.conftest import here as here
from tests.cli.conftest import layout as layout
from tests.cli.conftest import model as model

SYSTEMCTL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ -n "$REFUSES" ] && case "$*" in *$REFUSES*) echo "Failed: because I say so" >&2; exit 3;; esac
case "$*" in
  *" show "*) printf 'LoadState=loaded\\nActiveState=%s\\nSubState=running\\n' "${ACTIVE:-active}"
              printf 'UnitFileState=enabled\\nStatusText=training: a=b.jsonl\\nMainPID=77\\nNRestarts=2\\n' ;;
  show-user*) echo no ;;
esac
"""


class Machine:
    """A machine that was started with systemd, as far as this program can tell."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls_file = tmp_path / "calls"
        self.monkeypatch = monkeypatch
        programs = tmp_path / "bin"
        programs.mkdir()
        for name in ("systemctl", "loginctl"):
            (programs / name).write_text(SYSTEMCTL)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        monkeypatch.setenv("CALLS", str(self.calls_file))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(manager, "SYSTEM_UNITS", tmp_path / "system")
        self.booted(True)
        self.root(False)

    def booted(self, yes: bool) -> None:
        self.monkeypatch.setattr(manager, "BOOTED", Path("/" if yes else "/nowhere"))

    def root(self, yes: bool) -> None:
        self.monkeypatch.setattr(os, "geteuid", lambda: 0 if yes else 1000)

    def refuses(self, what: str) -> None:
        self.monkeypatch.setenv("REFUSES", what)

    def calls(self) -> list[str]:
        found = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line.replace(" --no-ask-password", "") for line in found]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def units(tmp_path: Path) -> list[Path]:
    return sorted(path for folder in ("config", "system") for path in (tmp_path / folder).rglob("*.service"))


def test_install_status_and_uninstall_of_ones_own(here: Run, machine: Machine, tmp_path: Path, layout: Layout) -> None:
    done = here("service", "install")
    assert done.code == 0, done.err
    (path,) = units(tmp_path)
    name = path.name
    assert path == tmp_path / "config/systemd/user" / name
    assert f'-C "{layout.root}" run' in path.read_text()
    assert machine.calls()[:3] == [
        "systemctl --user show-environment", "systemctl --user daemon-reload", f"systemctl --user enable {name}",
    ]  # fmt: skip
    assert f"systemctl --user start {name}" in done.out
    assert "loginctl enable-linger" in done.out

    seen = here("service", "status")
    assert seen.code == 0
    assert "active (running), started again 2 times" in seen.out
    assert "training: a=b.jsonl" in seen.out
    assert "current" not in seen.out
    assert here("service", "status", "--json").json[0]["details"]["MainPID"] == "77"

    machine.calls()
    assert "Nobody can be asked here" in here("service", "uninstall").err
    assert path.exists()
    shown = here("service", "uninstall", "--dry-run")
    assert f"Would stop, disable and remove: {path}" in shown.out
    assert path.exists()
    assert not [call for call in machine.calls() if "disable" in call]
    removed = here("service", "uninstall", "--yes")
    assert removed.code == 0
    assert f"Removed {path}." in removed.out
    assert units(tmp_path) == []
    assert f"systemctl --user disable --now {name}" in machine.calls()
    assert here("service", "status").code == 1
    assert "nothing to remove" in here("service", "uninstall", "--yes").out


def test_root_installs_one_of_the_machine_that_runs_as_the_workspaces_owner(
    here: Run, machine: Machine, tmp_path: Path, layout: Layout
) -> None:
    machine.root(True)
    assert here("service", "install", "--now").code == 0
    (path,) = units(tmp_path)
    assert path.parent == tmp_path / "system"
    assert f"\nUser={layout.root.owner()}\n" in path.read_text()
    assert f"systemctl start {path.name}" in machine.calls()
    machine.root(False)
    # It is found without being named, and is none of this user's business.
    assert "of the machine" in here("service", "status").out
    refused = here("service", "uninstall", "--yes")
    assert refused.code == 4
    assert "root's business" in refused.err
    assert path.exists()


def test_a_unit_that_is_no_longer_right_is_said_and_written_anew(
    here: Run, machine: Machine, tmp_path: Path, layout: Layout
) -> None:
    machine.root(True)
    assert here("service", "install").code == 0
    (path,) = units(tmp_path)
    text = layout.settings_file.read_text()
    other = tmp_path / "a folder/../second"
    layout.settings_file.write_text(
        "\n".join(f'copy_to = "{other}"' if "copy_to =" in line else line for line in text.splitlines())
    )
    assert "writes it anew" in here("service", "status").out
    assert "Wrote anew" in here("service", "install").out
    assert f'"-{tmp_path / "second"}"' in path.read_text(), "systemd passes over a path with `..` in it"
    assert "writes it anew" not in here("service", "status").out


def test_parts_on_another_disk_and_two_workspaces(cli: Run, here: Run, machine: Machine, tmp_path: Path, model: Path,
                                                  layout: Layout) -> None:  # fmt: skip
    machine.root(True)
    other = tmp_path / "disk/snapshots"
    other.mkdir(parents=True)
    layout.snapshots.rmdir()
    layout.snapshots.symlink_to(other)
    assert here("service", "install").code == 0
    assert cli("init", tmp_path / "two/ws", "--model", model).code == 0
    assert cli("-C", tmp_path / "two/ws", "service", "install").code == 0
    first, second = units(tmp_path)
    assert first.name.rpartition("-")[0] == second.name.rpartition("-")[0] == "nightschool-ws"
    assert any(f'"{other}"' in path.read_text() for path in (first, second))
    assert here("service", "uninstall", "--yes").code == 0
    (left,) = units(tmp_path)
    assert f'-C "{tmp_path / "two/ws"}" run' in left.read_text()


def test_where_there_is_no_systemd_it_says_so_and_prints_the_unit(here: Run, machine: Machine, tmp_path: Path) -> None:
    machine.booted(False)
    done = here("service", "install")
    assert done.code == 1
    assert "was not started with systemd" in done.err
    assert done.out.startswith("# Made by `nightschool service install`")
    assert "\nExecStart=" in done.out
    assert units(tmp_path) == []
    assert machine.calls() == []
    dry = here("service", "install", "--dry-run")
    assert dry.code == 0
    assert dry.out.endswith(done.out)
    assert "was not started with systemd" in here("service", "status").out


def test_b9_a_machine_that_is_run_by_hand_is_not_fought_over(
    here: Run, machine: Machine, tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        monkeypatch.setenv("ACTIVE", "inactive")
        done = here("service", "install", "--now")
        assert done.code == 5
        assert f"process {os.getpid()}" in done.err
        assert units(tmp_path) == []
        assert here("service", "install").code == 0, "without --now it is only made ready"
        monkeypatch.setenv("ACTIVE", "active")
        assert here("service", "install", "--now").code == 0, "the process is the service itself"


@pytest.mark.parametrize("what", ["daemon-reload", "enable", "show-environment"])
def test_what_systemd_refuses_is_said_in_its_own_words(here: Run, machine: Machine, what: str) -> None:
    machine.refuses(what)
    done = here("service", "install")
    assert done.code == 1
    assert "because I say so" in done.err


def test_a_service_that_cannot_be_stopped_keeps_its_unit(here: Run, machine: Machine, tmp_path: Path) -> None:
    assert here("service", "install").code == 0
    machine.refuses("disable")
    done = here("service", "uninstall", "--yes")
    assert done.code == 1
    assert "because I say so" in done.err
    assert len(units(tmp_path)) == 1


def test_options_that_do_not_belong_are_refused(here: Run, machine: Machine) -> None:
    assert here("service", "status", "--now").code == 2
    assert here("service", "install", "--yes").code == 2
    assert here("service", "restart").code == 2


def test_the_interpreter_is_the_one_of_the_environment_not_what_it_links_to(layout: Layout, machine: Machine) -> None:
    wanted = manager.plan(layout, load_settings(layout.settings_file), "user")
    assert f'ExecStart="{sys.executable}" -P -m nightschool' in wanted.text


def test_the_command_in_the_unit_is_one_that_this_program_understands(
    layout: Layout, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    wanted = manager.plan(layout, load_settings(layout.settings_file), "user")
    line = next(line for line in wanted.text.splitlines() if line.startswith("ExecStart="))
    python, *arguments = shlex.split(line.partition("=")[2])
    assert python == sys.executable
    assert arguments[:3] == ["-P", "-m", "nightschool"]
    ran: list[Path] = []
    monkeypatch.setattr("nightschool.supervisor.run.run", lambda layout, *_, **__: ran.append(layout.root) or 0)
    assert main(arguments[3:]) == 0
    assert ran == [layout.root]
