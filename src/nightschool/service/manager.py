"""Putting a workspace's unit in place, looking at it, and taking it away: what talks to systemctl."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nightschool import durable
from nightschool.errors import BusyError, NightschoolError, WorkspaceError
from nightschool.service import unit
from nightschool.service.unit import STOP_SECONDS, Place, Scope
from nightschool.settings import Settings
from nightschool.workspace import Layout

BOOTED = Path("/run/systemd/system")
"""There when systemd is what the machine was started with."""
SYSTEM_UNITS = Path("/etc/systemd/system")
PATIENCE = 60.0
SHOWN = ("LoadState", "ActiveState", "SubState", "UnitFileState", "StatusText", "MainPID", "NRestarts", "Result")


class ServiceError(NightschoolError):
    """systemd would not do it."""


class NoSystemd(ServiceError):
    """systemd is not there, or not for this user."""


@dataclass(frozen=True)
class Unit:
    """A unit and where it belongs."""

    name: str
    scope: Scope
    path: Path
    text: str


@dataclass(frozen=True)
class Seen:
    """What `service status` finds.

    Attributes:
        name, scope, path: the unit; `path` is where it lies or would lie.
        installed: the unit is there.
        current: it says what `service install` would write today; None where it is not installed.
        enabled: it is started at boot, or when its user's manager starts; None where systemd cannot be asked.
        active: systemd's word: active, inactive, failed, activating, ...; None as above.
        linger: for a user unit: it runs while its user is not logged in; None for others and where it cannot be told.
        why_not: why systemd cannot be asked.
        details: what `systemctl show` says.
    """

    name: str
    scope: Scope
    path: Path
    installed: bool
    current: bool | None
    enabled: bool | None = None
    active: str | None = None
    linger: bool | None = None
    why_not: str | None = None
    details: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {**asdict(self), "path": str(self.path)}


def default_scope() -> Scope:
    """Of the machine for root, of the user for everybody else."""
    return "system" if os.geteuid() == 0 else "user"


def folder_of(scope: Scope) -> Path:
    """Where units of that scope are put."""
    if scope == "system":
        return SYSTEM_UNITS
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "systemd/user"


def plan(layout: Layout, settings: Settings, scope: Scope) -> Unit:
    """The unit as it should be.

    Raises:
        WorkspaceError: a path cannot stand in a unit.
    """
    root = layout.root.resolve()
    parts = (layout.inbox, layout.archive, layout.rejected, layout.current_model, layout.snapshots, layout.undone)
    copies = settings.snapshots.copy_to
    place = Place(
        root=root,
        scope=scope,
        # Not resolved: the link in a virtual environment is what makes Python find what is installed there.
        python=Path(sys.executable),
        user=_owner(root) if scope == "system" else None,
        # Parts of a workspace may lie on another disk.
        writable=tuple(path.resolve() for path in parts if not path.resolve().is_relative_to(root)),
        # systemd passes over a path with `..` in it.
        elsewhere=(Path(copies).resolve(),) if copies else (),
        hub_cache=_hub_cache(settings),
    )
    name = unit.name_of(root)
    return Unit(name, scope, folder_of(scope) / name, unit.render(place))


def _owner(root: Path) -> str:
    uid = root.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _hub_cache(settings: Settings) -> Path | None:
    """Where the base model lies, if it is one of the Hub: the service's environment is not the shell's."""
    if Path(settings.model.name).expanduser().is_dir():
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).absolute()


def why_not(scope: Scope) -> str | None:
    """Why systemd cannot be used, or None."""
    if not BOOTED.is_dir() or shutil.which("systemctl") is None:
        hint = " In WSL2 it is turned on with `[boot] systemd=true` in /etc/wsl.conf." if _in_wsl() else ""
        return f"This machine was not started with systemd, so it keeps no services of it.{hint}"
    if scope == "user":
        done = _systemctl(scope, "show-environment")
        if done.returncode:
            return (
                f"Your own systemd cannot be reached ({_said(done)}). Log in as yourself rather than through su or "
                "sudo, or install a system service as root."
            )
    return None


def _in_wsl() -> bool:
    return "microsoft" in os.uname().release.lower()


def install(wanted: Unit, *, now: bool, holder: int | None = None) -> list[str]:
    """Write the unit, have systemd read it, start it at boot and, with `now`, at once; returns what was done.

    Args:
        wanted: the unit.
        now: start it at once as well.
        holder: the process that works on the workspace already.

    Raises:
        NoSystemd: nothing was written.
        BusyError: it cannot be started now, because somebody runs the machine by hand; nothing was written.
        ServiceError: systemd refuses.
        WorkspaceError: these rights do not suffice.
        StorageError: the unit cannot be written.
    """
    refused = why_not(wanted.scope)
    if refused:
        raise NoSystemd(refused)
    _may(wanted.scope)
    if now and holder is not None and look(wanted).active not in ("active", "activating"):
        raise BusyError(
            f"The machine runs already, as process {holder}, and not as this service. Nothing was written. Stop it "
            "with `nightschool stop` and say this again, or leave --now out.",
            holder,
        )
    was = wanted.path.exists()
    durable.make_dirs(wanted.path.parent)
    durable.write_file(wanted.path, wanted.text)
    done = [f"{'Wrote anew, for its next start,' if was else 'Wrote'} {wanted.path}."]
    _must(wanted.scope, "daemon-reload")
    _must(wanted.scope, "enable", wanted.name)
    done.append(f"It is started {'at boot' if wanted.scope == 'system' else 'with your own systemd'}.")
    if now:
        # Not `restart`: a machine at work is not disturbed by a unit that is written anew.
        _must(wanted.scope, "start", wanted.name, patience=unit.START_SECONDS)
        done.append("It runs.")
    return done


def look(wanted: Unit) -> Seen:
    """What there is of a unit. Reads only."""
    installed = wanted.path.is_file()
    current = wanted.path.read_text(encoding="utf-8", errors="replace") == wanted.text if installed else None
    seen = Seen(wanted.name, wanted.scope, wanted.path, installed, current)
    refused = why_not(wanted.scope)
    if refused:
        return replace(seen, why_not=refused)
    done = _systemctl(wanted.scope, "show", wanted.name, f"--property={','.join(SHOWN)}")
    if done.returncode:
        return replace(seen, why_not=_said(done))
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return replace(
        seen,
        enabled=told.get("UnitFileState") in ("enabled", "enabled-runtime"),
        active=told.get("ActiveState"),
        linger=lingers() if wanted.scope == "user" else None,
        details=told,
    )


def lingers() -> bool | None:
    """Whether this user's services run while nobody is logged in; None if it cannot be told."""
    if shutil.which("loginctl") is None:
        return None
    done = _run("loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value")
    answer = done.stdout.strip()
    # A user who is not logged in and does not linger is not known to it.
    return {"yes": True, "no": False}.get(answer, False if done.returncode else None)


def installed(layout: Layout, settings: Settings) -> list[Unit]:
    """The units of this workspace that are there, of either scope."""
    return [found for scope in ("user", "system") if (found := plan(layout, settings, scope)).path.exists()]


def uninstall(found: Unit) -> list[str]:
    """Stop, disable and remove a unit; returns what was done.

    Raises:
        ServiceError: systemd would not stop it; the unit stays.
        WorkspaceError: these rights do not suffice.
        StorageError: the unit cannot be removed.
    """
    _may(found.scope)
    done: list[str] = []
    refused = why_not(found.scope)
    if refused is None:
        _must(found.scope, "disable", "--now", found.name, patience=STOP_SECONDS + PATIENCE)
        done.append("Stopped it, and took it out of what is started by itself.")
    durable.remove_file(found.path)
    done.append(f"Removed {found.path}.")
    if refused is None:
        _must(found.scope, "daemon-reload")
        # Of a unit that had failed, systemd would go on listing the name.
        _systemctl(found.scope, "reset-failed", found.name)
    return done


def _may(scope: Scope) -> None:
    if scope == "system" and os.geteuid() != 0:
        raise WorkspaceError(
            f"A service of the whole machine is root's business: sudo {sys.executable} -m nightschool service ... "
            "--system, or leave --system out for a service of your own."
        )


def _must(scope: Scope, *arguments: str, patience: float = PATIENCE) -> None:
    done = _systemctl(scope, *arguments, patience=patience)
    if done.returncode:
        raise ServiceError(f"`systemctl {' '.join(arguments)}` failed: {_said(done)}.")


def _systemctl(scope: Scope, *arguments: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return _run(
        "systemctl", *(("--user",) if scope == "user" else ()), "--no-ask-password", *arguments, patience=patience
    )


def _run(*command: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {patience:.0f} seconds")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error.strerror))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    text = " ".join((done.stderr or done.stdout).split())
    return text.rstrip(".") or f"exit code {done.returncode}"
