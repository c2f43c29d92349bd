"""One lease per GPU for the whole computer, so that workspaces which train on one GPU take turns.

The lease is a lock of the kernel, held by the trainer process for as long as it lives: no crash leaves it behind. A
workspace that waits shows it by a lock of its own beside the lease, which ends with its supervisor in the same way. The
files are for all users of the computer; they are empty while nobody holds them, and say who does otherwise.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool import durable, gpus
from nightschool.errors import BusyError, StorageError
from nightschool.words import duration, escape

if TYPE_CHECKING:
    from nightschool.settings import Settings

FOLDER = "NIGHTSCHOOL_LEASES"
"""The variable that names another folder for the leases."""
LEAST_SECONDS = 60.0
"""Loading a large model takes about so long, so nobody is asked to do it for less than so much training."""
AFTER_YOU_SECONDS = 60.0

_IN_MEMORY = Path("/dev/shm/nightschool")
_ON_DISK = Path("/tmp/nightschool-leases")
_FOR_ALL = 0o1777


@dataclass(frozen=True)
class Holder:
    """Who has the lease, or waits for it. `workspace` is None where that is not known (yet)."""

    pid: int
    workspace: str | None

    def __str__(self) -> str:
        """For people: the folder and the process."""
        who = "a process in another container" if self.pid == durable.ELSEWHERE else f"process {self.pid}"
        return who if self.workspace is None else f"the workspace {escape(self.workspace)} ({who})"


def name_of(settings: Settings) -> str | None:
    """The lease that training under these settings needs; None on a CPU, without a GPU, and with gpu_lease = "off".

    With "auto" it is the UUID of the GPU. nvidia-smi is asked once in the life of a process.
    """
    lease = settings.machine.gpu_lease
    if lease != "auto":
        return None if lease == "off" else lease
    number = gpus.number(settings.model.device)
    return None if number is None else card(number, os.environ.get("CUDA_VISIBLE_DEVICES"), _cards())


@cache
def _cards() -> tuple[tuple[int, str], ...]:
    lines = [[part.strip() for part in line.split(",")] for line in gpus.query("gpu", "index,uuid")]
    return tuple((int(line[0]), line[1]) for line in lines if len(line) == 2 and line[0].isdecimal())


def card(number: int, visible: str | None, cards: Sequence[tuple[int, str]]) -> str | None:
    """Name of the GPU that a process calls `cuda:number`; None if it has no such GPU.

    Args:
        number: counted among the GPUs that the process may use.
        visible: CUDA_VISIBLE_DEVICES: numbers, or beginnings of UUIDs. As for CUDA, what comes after a mistake is not
            there.
        cards: numbers and UUIDs of all GPUs, as nvidia-smi tells them.
    """
    usable = [uuid for _, uuid in cards]
    if visible is not None:
        usable = []
        for asked in (part.strip() for part in visible.split(",")):
            found = [u for n, u in cards if (str(n) == asked if asked.isdecimal() else asked and u.startswith(asked))]
            if cards and asked.startswith("MIG-"):
                found = [asked]  # a part of a GPU has a memory of its own
            if len(found) != 1:
                break
            usable += found
    return re.sub(r"[^A-Za-z0-9._-]", "_", usable[number]) if number < len(usable) else None


def folder() -> Path:
    """Where the leases are: one place for services and for what is started by hand.

    Not below /tmp where there is another one: a service has a /tmp of its own.
    """
    asked = os.environ.get(FOLDER)
    return Path(asked) if asked else _IN_MEMORY if os.access(_IN_MEMORY.parent, os.W_OK) else _ON_DISK


class Lease:
    """The lease `name`, for the trainer of `workspace`."""

    def __init__(self, name: str, workspace: Path) -> None:
        self.name = name
        self._lock = durable.Lock(_path(name), "a trainer", {"workspace": str(workspace.resolve())})

    def acquire(self) -> None:
        """Take it, at once or not at all; it ends with this process.

        Raises:
            BusyError: names who has it.
            StorageError: the folder for leases cannot be used.
        """
        _make(self._lock.path)
        try:
            self._lock.acquire()
        except BusyError as error:
            who = holder(self.name)
            raise BusyError(
                f"The GPU is in use by {who or 'another workspace'}; the lease is {escape(self.name)}. Training here "
                "waits until that one lets it go: after the file that it is at, or when it has nothing to do.",
                who.pid if who else error.pid,
            ) from None

    def still_held(self) -> bool:
        """Whether it is this process's, without a break since it was taken."""
        return self._lock.still_held()

    def release(self) -> None:
        """Give it back. Nothing happens if it is not held."""
        self._lock.release()


class Waiting:
    """The sign that `workspace` waits for the lease `name`. Who put theirs up first comes first."""

    def __init__(self, name: str, workspace: Path) -> None:
        self._path = _path(name, f"wait-{secrets.token_hex(8)}")
        self._workspace = str(workspace.resolve())
        self._lock: durable.Lock | None = None

    def acquire(self) -> None:
        """Put the sign up, or up again if somebody has removed it.

        Raises:
            StorageError: the folder for leases cannot be used.
        """
        if self._lock is not None and self._lock.still_held():
            return
        if self._lock is None:
            # The kernel's clock since the start of the computer: the same for all, and nobody sets it.
            about = {"workspace": self._workspace, "asked": time.monotonic_ns()}
            self._lock = durable.Lock(self._path, "a workspace that waits", about)
        self._lock.release()
        _make(self._path)
        with suppress(BusyError):  # somebody looks just now whether it is left over
            self._lock.acquire()

    def release(self) -> None:
        """Take the sign away. Nothing happens if it is not up."""
        if self._lock is None:
            return
        with suppress(OSError):
            if self._lock.still_held():
                self._path.unlink()
        self._lock.release()
        self._lock = None


def holder(name: str) -> Holder | None:
    """Who has the lease, or None. Does not touch it."""
    held = durable.held(_path(name))
    return None if held is None else Holder(held.pid, _workspace(held))


def queue(name: str) -> list[Holder]:
    """Who waits for the lease, in the order in which they began to. Signs that crashes have left are removed."""
    sign = re.compile(re.escape(name) + r"\.wait-[0-9a-f]{16}")
    found: list[tuple[int, str, Holder]] = []
    try:
        names = [entry for entry in os.listdir(folder()) if sign.fullmatch(entry)]  # noqa: PTH208
    except OSError:
        return []
    for entry in names:
        path = folder() / entry
        try:
            held = durable.held(path)
        except StorageError:
            continue
        if held is None:
            _remove(path)
            continue
        workspace, asked = _workspace(held), held.note.get("asked")
        # One without them is being put up, or looked at by somebody who wants to remove it.
        if workspace is not None and isinstance(asked, int):
            found.append((asked, entry, Holder(held.pid, workspace)))
    return [who for _, _, who in sorted(found, key=lambda one: one[:2])]


def somebody_waits(name: str, but: Path) -> str | None:
    """Folder of the workspace, other than `but`, that has waited longest for the lease; None if there is none."""
    own = str(but.resolve())
    return next((who.workspace for who in queue(name) if who.workspace != own), None)


def gives_way(waits: bool, at_file_end: bool, idle: bool, held_seconds: float) -> str | None:
    """Why the one who has the lease must let it go now, a clause; None if it may keep it. Pure.

    Args:
        waits: whether another workspace waits for it.
        at_file_end: whether training on a file has ended just now.
        idle: whether it has nothing to train on.
        held_seconds: how long it has trained in this turn.
    """
    if not waits:
        return None
    if idle:
        return "there is nothing to train on here"
    if at_file_end and held_seconds >= LEAST_SECONDS:
        return f"a file has ended here, after {duration(held_seconds)} of training"
    return None


def after_you(since_released: float, other_had_it: bool) -> bool:
    """Whether a workspace must let another one go first, although the lease is free. Pure.

    Args:
        since_released: seconds for which it has been free.
        other_had_it: whether all who waited longer have had it by now, or wait no more.
    """
    return not other_had_it and since_released < AFTER_YOU_SECONDS


def _path(name: str, what: str = "lock") -> Path:
    return folder() / f"{name}.{what}"


def _workspace(held: durable.Held) -> str | None:
    found = held.note.get("workspace")
    return found if isinstance(found, str) and found else None


def _remove(path: Path) -> None:
    """Take away a sign that nobody holds. It is held meanwhile, so that it is not put up again under our hands."""
    lock = durable.Lock(path, "a workspace that looks")
    with suppress(OSError, BusyError, StorageError):
        # In a folder for everybody one can remove only one's own.
        if os.geteuid() in (0, path.lstat().st_uid):
            lock.acquire()
            try:
                path.unlink()
            finally:
                lock.release()


def _make(path: Path) -> None:
    """Make the file, and the folder around it, so that every user can lock it, whatever the umask."""
    try:
        _make_folder(path.parent)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise StorageError(f"{path} is no plain file. Remove it: the lease for a GPU belongs there.") from None
            return
        try:
            os.fchmod(fd, 0o666)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(
            f"The lease for the GPU cannot be made in {path.parent}: {error.strerror}. Give all who train a folder "
            f'that all can write to, in the variable {FOLDER}, or set machine.gpu_lease = "off".',
            error.errno,
        ) from error


def _make_folder(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{path} is no folder. Remove it: the leases for GPUs belong there.")
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != _FOR_ALL:
        path.chmod(_FOR_ALL)
