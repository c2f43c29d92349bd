"""The unit's text: what systemd itself makes of it, and what must never get into it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from nightschool import errors
from nightschool.service import unit
from nightschool.service.unit import Place, name_of, render
from nightschool.supervisor import policies
from nightschool.supervisor.machine import TRAINER_GRACE

ODD = Path("/srv/my models/100% \"real\" \\e '$HOME' – ü;#")


def place(scope: unit.Scope, root: Path = Path("/srv/ws"), **more: object) -> Place:
    return Place(root, scope, Path(sys.executable), "root" if scope == "system" else None, **more)  # type: ignore[arg-type]


def value(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def systemd_says(path: Path, scope: unit.Scope, tmp_path: Path) -> str:
    """What `systemd-analyze verify` says of a unit; with its own debugging, all it has read."""
    (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        ["systemd-analyze", *(["--user"] if scope == "user" else []), "verify", str(path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug", "XDG_RUNTIME_DIR": str(tmp_path / "run")},
    )  # fmt: skip
    return f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def problems(said: str, name: str) -> list[str]:
    """The lines in which systemd complains about this unit."""
    words = ("Unknown key", "Unknown section", "ailed to parse", "nvalid", "gnoring", "not absolute", "not executable")
    return [line for line in said.splitlines() if name in line and any(word in line for word in words)]


@pytest.fixture
def analyze() -> None:
    if shutil.which("systemd-analyze") is None:
        warnings.warn("NOT CHECKED: systemd-analyze is not installed, so no unit was shown to systemd.", stacklevel=1)
        pytest.skip("NOT CHECKED by systemd itself: systemd-analyze is not installed (apt-get install systemd)")


@pytest.mark.usefixtures("analyze")
@pytest.mark.parametrize("scope", ["user", "system"])
@pytest.mark.parametrize("root", [Path("/srv/ws"), ODD])
def test_systemd_reads_the_unit_as_it_was_meant(scope: unit.Scope, root: Path, tmp_path: Path) -> None:
    text = render(place(scope, root, writable=(root / "in box",), elsewhere=(Path("/mnt/a %h"),), hub_cache=root))
    path = tmp_path / name_of(root)
    path.write_text(text)
    said = systemd_says(path, scope, tmp_path)
    assert said.startswith("exit code 0\n"), said[-3000:]
    assert problems(said, path.name) == []
    assert f"\tDescription: nightschool: {root.name} keeps learning" in said
    assert f"Environment: HF_HUB_CACHE={root}\n" in said
    command = next(line for line in said.splitlines() if "nightschool -C" in line)
    shown = re.sub(r"\\([\"\\$`])", r"\1", command).replace("$$", "$")
    assert str(root) in shown
    if scope == "system":
        assert f"ReadWritePaths: {root} {root}/in box -/mnt/a %h\n" in said
        assert f"RequiresMountsFor: {root} (" in said


@pytest.mark.usefixtures("analyze")
@pytest.mark.parametrize(
    ("old", "new"),
    [("WatchdogSec=", "WatchDogSecs="), ("KillMode=mixed", "KillMode=mixt"), ('"/srv/a b" run', '"/srv/a b run')],
)
def test_control_systemd_finds_a_unit_that_is_wrong(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "nightschool-x.service"
    text = render(place("system", Path("/srv/a b")))
    assert old in text
    path.write_text(text.replace(old, new))
    said = systemd_says(path, "system", tmp_path)
    assert problems(said, path.name) or not said.startswith("exit code 0\n")


@pytest.mark.usefixtures("analyze")
def test_control_a_percent_sign_that_is_not_written_twice_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "nightschool-x.service"
    path.write_text(render(place("system", ODD)).replace("100%%", "100%"))
    assert f"Environment: HF_HUB_CACHE={ODD}\n" not in systemd_says(path, "system", tmp_path)


@pytest.mark.parametrize("scope", ["user", "system"])
@pytest.mark.parametrize("bad", ["a\nExecStart=/bin/evil", "a\tb", "a\x7f", os.fsdecode(b"a\xff")])
@pytest.mark.parametrize("where", ["root", "writable", "elsewhere", "hub_cache"])
def test_a_path_that_cannot_stand_in_a_unit_is_refused(scope: unit.Scope, bad: str, where: str) -> None:
    path = Path("/srv") / bad
    if where == "root":
        found = place(scope, path)
    else:
        given: dict[str, object] = {where: path if where == "hub_cache" else (path,)}
        found = place(scope, Path("/srv/ws"), **given)
    if scope == "user" and where in ("writable", "elsewhere"):
        assert bad not in render(found)
        return
    with pytest.raises(errors.WorkspaceError, match="cannot stand in a unit"):
        render(found)


def test_two_workspaces_never_share_a_name_and_any_folder_has_one() -> None:
    names = [name_of(Path(p)) for p in ("/a/model", "/b/model", "/a/model ", "/a/mödel\n", "/", f"/{'x' * 255}")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9:_.-]{1,250}\.service", name) for name in names)
    assert names[0].startswith("nightschool-model-")


@pytest.mark.parametrize("scope", ["user", "system"])
def test_a_stop_waits_for_a_save_and_starting_again_only_where_it_helps(scope: unit.Scope) -> None:
    text = render(place(scope))
    assert int(value(text, "TimeoutStopSec")[0]) > TRAINER_GRACE
    assert value(text, "KillMode") == ["mixed"]
    assert value(text, "Type") == ["notify"]
    assert value(text, "NotifyAccess") == ["main"]
    assert value(text, "Restart") == ["on-failure"]
    never = {int(code) for code in value(text, "RestartPreventExitStatus")[0].split()}
    assert set(policies.PERMANENT) <= never
    # Another process that lets go, a disk that has room again, a crash: these pass.
    assert not never & {errors.BusyError.exit_code, errors.StorageError.exit_code, 1}


@pytest.mark.parametrize("scope", ["user", "system"])
def test_nothing_that_hides_the_gpu_or_breaks_kernels_is_set(scope: unit.Scope) -> None:
    keys = set(re.findall(r"^(\w+)=", render(place(scope)), re.MULTILINE))
    assert not keys & {
        "MemoryDenyWriteExecute", "PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "PrivateNetwork",
        "ProtectProc", "SystemCallFilter",
    }  # fmt: skip
    assert "NoNewPrivileges" in keys


def test_a_user_unit_asks_for_nothing_that_needs_a_namespace() -> None:
    """Those need PrivateUsers= in a user's manager, and where that is forbidden the service would not start."""
    needing = {
        "ProtectSystem", "ProtectHome", "ReadWritePaths", "PrivateTmp", "ProtectKernelTunables", "ProtectHostname",
        "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "CapabilityBoundingSet", "User",
    }  # fmt: skip
    keys = {scope: set(re.findall(r"^(\w+)=", render(place(scope)), re.MULTILINE)) for scope in ("user", "system")}
    assert not keys["user"] & needing
    assert keys["system"] >= needing


@pytest.mark.parametrize("root", ["/tmp/ws", "/var/tmp/x/ws"])
def test_a_workspace_in_tmp_is_not_hidden_from_its_own_service(root: str) -> None:
    assert value(render(place("system", Path(root))), "PrivateTmp") == []
    assert value(render(place("system")), "PrivateTmp") == ["yes"]
