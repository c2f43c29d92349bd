"""The systemd unit of one workspace, as text. Pure: what it depends on is passed in.

Every line that could surprise somebody says why it is there, in the unit itself: that is where it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightschool.errors import WorkspaceError
from nightschool.supervisor import policies
from nightschool.supervisor.machine import TRAINER_GRACE

Scope = Literal["user", "system"]

STOP_SECONDS = int(TRAINER_GRACE) + 120
"""The trainer gets its grace to save in, then come the intake worker, a snapshot at work and the log's last lines."""
WATCHDOG_SECONDS = 300
START_SECONDS = 900
RESTART_SECONDS = 60
BY_HAND = (2, policies.INTERRUPTED)
"""A command line that is not understood, and a second Ctrl-C: not cured by starting again either."""
NAME_LENGTH = 60
SCRATCH = (Path("/tmp"), Path("/var/tmp"))
OF_ROOT = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL CAP_SYS_PTRACE"
"""What a service of root keeps: to read what others drop, and to see whether they still write to it."""


@dataclass(frozen=True)
class Place:
    """What a unit depends on.

    Attributes:
        root: the workspace, absolute.
        scope: `user`: of the one who installs it; `system`: of the machine, started at boot.
        python: the interpreter that nightschool is installed in.
        user: who a system unit runs as, a name or a number; None for a user unit.
        writable: further folders that are written to and must be there.
        elsewhere: folders that are written to when they are there, such as another disk.
        hub_cache: where models of the Hugging Face Hub lie on this machine.
    """

    root: Path
    scope: Scope
    python: Path
    user: str | None = None
    writable: tuple[Path, ...] = ()
    elsewhere: tuple[Path, ...] = ()
    hub_cache: Path | None = None


def name_of(root: Path) -> str:
    """The unit's name: what the folder is called, for people, and a hash of its whole path, so that two never meet."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", root.name)[:NAME_LENGTH] or "workspace"
    return f"nightschool-{readable}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}.service"


def permanent_codes() -> list[int]:
    """Exit codes after which starting again cannot help: the user has to do something first."""
    return sorted({*policies.PERMANENT, policies.FILE, *BY_HAND})


def render(place: Place) -> str:
    """The unit's text.

    Raises:
        WorkspaceError: a path has a character that cannot stand in a unit.
    """
    root = place.root
    lines = [
        "# Made by `nightschool service install`, which writes it again as it should be; `nightschool service",
        "# uninstall` removes it. Own additions belong in a drop-in: `systemctl edit` keeps them apart.",
        "",
        "[Unit]",
        # At its end, so that no name can end the line in a backslash.
        f"Description=nightschool: {_literal(root.name)} keeps learning",
        *_because("It is tried again for as long as it takes: a disk that is full tonight has room next week."),
        "StartLimitIntervalSec=0",
        *(_system_order(place) if place.scope == "system" else ()),
        "",
        "[Service]",
        *_because("Ready once it holds the workspace and has looked at it; then it says what it does (Status:)."),
        "Type=notify",
        *_because("Only the supervisor speaks for the service; what it starts does not."),
        "NotifyAccess=main",
        *((f"User={place.user}",) if place.user is not None else ()),
        f"ExecStart={_path(place.python)} -P -m nightschool -C {_argument(root)} run",
        *_gpu_nodes(place.scope),
        *_because("A first start may have to finish what a power cut left half done."),
        f"TimeoutStartSec={START_SECONDS}",
        *_because("The supervisor reports after each round of its loop; one that hangs is ended and started again."),
        f"WatchdogSec={WATCHDOG_SECONDS}",
        *_because(
            f"A stop lets the trainer save first, for which it has {TRAINER_GRACE:.0f} seconds. While a save goes on, "
            "more time is asked for."
        ),
        f"TimeoutStopSec={STOP_SECONDS}",
        *_because("Only the supervisor is told to stop: it stops its children in order. What is left then is killed."),
        "KillMode=mixed",
        "Restart=on-failure",
        f"RestartSec={RESTART_SECONDS}",
        *_because("After these exit codes somebody has to put something right first: see `nightschool status`."),
        f"RestartPreventExitStatus={' '.join(map(str, permanent_codes()))}",
        *_because("A trainer that ran out of memory is the supervisor's business, and no reason to stop everything."),
        "OOMPolicy=continue",
        *_because("What was fetched is on this machine; nothing is fetched while training."),
        "Environment=HF_HUB_OFFLINE=1",
        *((f"Environment={_word(f'HF_HUB_CACHE={place.hub_cache}')}",) if place.hub_cache is not None else ()),
        "",
        *_hardening(place),
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if place.scope == 'system' else 'default.target'}",
    ]
    return "\n".join(lines) + "\n"


def _system_order(place: Place) -> list[str]:
    return [
        *_because("The dates of snapshots need the right time; CUDA needs the driver to be up."),
        "After=network.target time-sync.target nvidia-persistenced.service",
        *_because("A workspace whose disk is not mounted is not an empty one."),
        f"RequiresMountsFor={_path(place.root)}",
    ]


def _gpu_nodes(scope: Scope) -> list[str]:
    if scope == "user":
        return []
    return [
        *_because(
            "CUDA makes /dev/nvidia-uvm with a set-uid helper, which NoNewPrivileges= below forbids. So it is made "
            "beforehand, outside of all that; a machine without that GPU goes on without it."
        ),
        "ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c=0",
    ]


def _hardening(place: Place) -> list[str]:
    both = [
        *_because("No program that it starts gets more rights than it has: data and models come from elsewhere."),
        "NoNewPrivileges=yes",
        "RestrictSUIDSGID=yes",
        "RestrictRealtime=yes",
        "RestrictNamespaces=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        *_because("Netlink is how several GPUs find their network; the others are for notifications and the page."),
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    ]
    left_out = _because(
        "Left out on purpose. MemoryDenyWriteExecute= breaks just-in-time kernels (Triton, CUDA). PrivateDevices=, "
        "DevicePolicy= and ProtectClock= (which brings a list of devices along) hide the GPU. PrivateNetwork= stops "
        "notifications. ProtectProc= hides the programs that are to have the GPU first."
    )
    if place.scope == "user":
        return [
            *both,
            "",
            *left_out,
            "",
            *_because(
                "ProtectSystem=, ProtectHome=, ReadWritePaths= and PrivateTmp= are not here: for a user they need "
                "PrivateUsers=, which many systems forbid, and then the service would not start at all. A system "
                "unit has them."
            ),
            "",
            *_because(
                "NoNewPrivileges= also stops the set-uid helper that makes /dev/nvidia-uvm: if the GPU is missed "
                "after a boot, put the line nvidia-uvm into a file below /etc/modules-load.d."
            ),
        ]
    paths = [_path(place.root), *(_path(path) for path in place.writable)]
    paths += [_path(path, "-") for path in place.elsewhere]
    private = not any(path.is_relative_to(tmp) for path in (place.root, *place.writable) for tmp in SCRATCH)
    return [
        *both,
        "",
        *left_out,
        "",
        *_because(
            "Everything is read-only but the workspace, the second place of its snapshots, and a cache for kernels. "
            "The base model is only read."
        ),
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        f"ReadWritePaths={' '.join(paths)}",
        "CacheDirectory=nightschool",
        "Environment=TRITON_CACHE_DIR=%C/nightschool/triton CUDA_CACHE_PATH=%C/nightschool/cuda",
        "Environment=TORCHINDUCTOR_CACHE_DIR=%C/nightschool/inductor HF_MODULES_CACHE=%C/nightschool/modules",
        *(
            ["PrivateTmp=yes"]
            if private
            else _because("PrivateTmp= is not here: the workspace lies in a folder that it would hide.")
        ),
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        f"CapabilityBoundingSet={OF_ROOT if place.user in ('root', '0') else ''}",
    ]


def _because(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")


def _checked(text: str) -> str:
    """`text`, in which nothing can end a line or is no text at all."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WorkspaceError(
            f"{text!r} has a byte that is no UTF-8, which cannot stand in a unit of systemd. Rename the folder."
        ) from None
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise WorkspaceError(
            f"{text!r} has a line break or another control character, which cannot stand in a unit of systemd. "
            "Rename the folder."
        )
    return text


def _literal(text: str) -> str:
    """A text in which systemd replaces nothing."""
    return _checked(text).replace("%", "%%")


def _word(text: str) -> str:
    """One word of a list, whatever it holds."""
    return '"' + _literal(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(path: Path, prefix: str = "") -> str:
    assert path.is_absolute(), path
    return _word(f"{prefix}{path}")


def _argument(path: Path) -> str:
    """One argument of a command, in which systemd would also replace variables."""
    return _path(path).replace("$", "$$")
