"""Programs to which the GPU is left while they run: `machine.yield_to`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nightschool.words import escape
from nightschool.yielding import matching

LOOK_SECONDS = 2.0
HOLD_OFF_SECONDS = 10.0
"""A game that starts its launcher, ends it and starts itself must not have the model loaded in between."""

_KERNEL_THREADS = 2


@dataclass(frozen=True)
class _Process:
    pid: int
    comm: str
    state: str
    parent: int
    group: int
    session: int


@dataclass(frozen=True)
class _Seen:
    name: str
    pid: int
    at: float


class Others:
    """Looks for such programs, not more often than every 2 s, and lets 10 s pass after the last one has ended.

    Args:
        clock: monotonic seconds.
        proc: where the system tells of its processes.
    """

    def __init__(self, clock: Callable[[], float], proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = proc
        self._names: tuple[str, ...] = ()
        self._next = 0.0
        self._seen: _Seen | None = None
        self._runs = False

    def look(self, names: Sequence[str], own: Collection[int] = ()) -> str | None:
        """Why training must rest, a clause without a full stop; None if it need not.

        Args:
            names: machine.yield_to.
            own: process ids of our own children. They, this process and whatever any of them started do not count.
        """
        now = self._clock()
        if tuple(names) != self._names:  # somebody has changed the settings
            self._names, self._next, self._seen = tuple(names), now, None
        if not self._names:
            return None
        if now >= self._next:
            self._next = now + LOOK_SECONDS
            found = self._find({os.getpid(), *own})
            self._runs = found is not None
            if found is not None:
                self._seen = _Seen(found[0], found[1], now)
        if self._seen is None or (not self._runs and now >= self._seen.at + HOLD_OFF_SECONDS):
            self._seen = None
            return None
        name = escape(self._seen.name)
        return f"{name} runs (process {self._seen.pid})" if self._runs else f"{name} ran until a moment ago"

    def _find(self, own: set[int]) -> tuple[str, int] | None:
        processes = {one.pid: one for one in self._processes()}
        for one in processes.values():
            if one.state in "ZX" or _KERNEL_THREADS in (one.pid, one.parent):
                continue
            folder = self._proc / str(one.pid)
            name = matching(self._names, one.comm, _link(folder / "exe"), _first_argument(folder / "cmdline"))
            if name is not None and not _belongs(one, processes, own):
                return name, one.pid
        return None

    def _processes(self) -> Iterator[_Process]:
        """All there are; one that ends meanwhile, or whose entry makes no sense, is left out."""
        try:
            found = sorted(int(name) for name in os.listdir(self._proc) if name.isdecimal())  # noqa: PTH208
        except OSError:
            return
        for pid in found:
            with suppress(OSError, ValueError, IndexError):
                # The name may hold spaces and brackets; the last bracket ends it.
                head, _, tail = os.fsdecode((self._proc / str(pid) / "stat").read_bytes()).rpartition(")")
                state, parent, group, session = tail.split()[:4]
                yield _Process(pid, head.split("(", 1)[1], state, int(parent), int(group), int(session))


def _belongs(one: _Process, processes: dict[int, _Process], own: set[int]) -> bool:
    """Whether it is one of ours: by itself, by its group or session, or by any of its ancestors."""
    passed: set[int] = set()
    at: _Process | None = one
    while at is not None and at.pid not in passed:
        # A child that was left by its parent still has the group that it was started in.
        if own & {at.pid, at.group, at.session}:
            return True
        passed.add(at.pid)
        at = processes.get(at.parent)
    return False


def _link(path: Path) -> str:
    """Where a link points to; "" for kernel threads, other users' processes and those that have ended."""
    with suppress(OSError):
        return os.readlink(path)  # noqa: PTH115 (a string: a Path would lose what the kernel adds)
    return ""


def _first_argument(path: Path) -> str:
    with suppress(OSError):
        return os.fsdecode(path.read_bytes().split(b"\0", 1)[0])
    return ""
