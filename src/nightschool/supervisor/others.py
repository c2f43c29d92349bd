"""Programs that come first (`machine.yield_to`): whether one of them runs, and when it is gone long enough."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nightschool.words import escape

COMM = 15
"""Characters of a program's name that the kernel keeps."""
HOLD_SECONDS = 10.0
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Seen:
    """A program that runs: its name as it was asked for, and its process."""

    name: str
    pid: int


def running(names: Sequence[str], proc: Path = Path("/proc"), own: int | None = None) -> Seen | None:
    """The first process that has one of the names, by what the kernel, its file or its first argument calls it.

    Left out are processes that have ended, this one and those it started. What vanishes or cannot be read meanwhile
    is nothing that runs.

    Args:
        names: names of programs, without their folders.
        proc: where the kernel tells of processes.
        own: the process that asks.
    """
    if not names:
        return None
    own = os.getpid() if own is None else own
    parents: dict[int, int] = {}
    found: list[Seen] = []
    with suppress(OSError):
        for entry in os.scandir(proc):
            if not entry.name.isdigit():
                continue
            with suppress(OSError, ValueError, IndexError):
                raw = Path(entry.path, "stat").read_bytes().decode(errors="replace")
                head, _, tail = raw.rpartition(")")
                state, parent = tail.split()[:2]
                pid, comm = int(entry.name), head.partition("(")[2]
                parents[pid] = int(parent)
                if state in "ZX":
                    continue
                name = _named(names, comm, Path(entry.path))
                if name is not None:
                    found.append(Seen(name, pid))
    return next((one for one in sorted(found, key=lambda s: s.pid) if not _ours(one.pid, own, parents)), None)


def _named(names: Sequence[str], comm: str, folder: Path) -> str | None:
    called = {comm}
    with suppress(OSError):
        first = (folder / "cmdline").read_bytes().partition(b"\0")[0]
        called.add(os.path.basename(os.fsdecode(first)))  # noqa: PTH119 (a path from elsewhere, also with odd bytes)
    with suppress(OSError):
        called.add((folder / "exe").readlink().name.removesuffix(" (deleted)"))
    return next((name for name in names if name in called or (len(name) > COMM and name[:COMM] == comm)), None)


def _ours(pid: int, own: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents) + 1):
        if pid == own:
            return True
        if pid not in parents:
            return False
        pid = parents[pid]
    return False


class Yielding:
    """Whether training gives way, from one look to the next; goes on only when all have been gone for a while.

    Args:
        names: machine.yield_to; may be replaced.
        clock: monotonic seconds.
        running: finds the first of such programs.
    """

    def __init__(
        self,
        names: Sequence[str],
        clock: Callable[[], float],
        running: Callable[[Sequence[str]], Seen | None] = running,
    ) -> None:
        self.names = names
        self._clock = clock
        self._running = running
        self._last: Seen | None = None
        self._at = 0.0
        self._look_at = -math.inf
        self._rest: tuple[str, str] | None = None

    def rest(self) -> tuple[str, str] | None:
        """The word and the reason while training gives way, or None. Looks at the processes every two seconds."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            why = self._why(self._running(self.names), now)
            self._rest = None if why is None else ("paused", escape(why))
        return self._rest

    def _why(self, seen: Seen | None, now: float) -> str | None:
        if seen is not None:
            self._last, self._at = seen, now
            return f"{seen.name} runs (process {seen.pid}; machine.yield_to)"
        if self._last is None:
            return None
        if now - self._at >= HOLD_SECONDS:
            self._last = None
            return None
        return f"{self._last.name} has just ended; training goes on in a moment"
