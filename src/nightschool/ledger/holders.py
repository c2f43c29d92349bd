"""Who has a ledger just now: SQLite's locks are the kernel's, which tells whose they are.

Nothing here needs the ledger itself, nor a descriptor of it. A process that has ended has no locks.
"""

from __future__ import annotations

import os
from pathlib import Path

from nightschool.words import escape

LOCKS = Path("/proc/locks")
OURSELVES = Path("/proc/self")
_FIRST, _LAST = 0x40000000, 0x40000000 + 511
"""The bytes that SQLite locks, far behind any content."""
_SHOWN = 80
"""So much of a command line is shown."""


def holders(ledger: Path, locks: Path = LOCKS) -> list[int]:
    """The processes, but for this one, that have a lock on a SQLite file, in the kernel's order.

    Empty where the kernel does not tell, or tells it to others: a container may be shown the /proc of the system around
    it, where its processes have other numbers, and its numbers are those of others.
    Files are told by their number alone: some file systems (btrfs) give the kernel's list another device than `stat`.
    """
    try:
        if os.readlink(OURSELVES) != str(os.getpid()):  # noqa: PTH115 (a text, no path)
            return []
        number = str(ledger.stat().st_ino)
        lines = locks.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[int, None] = {}
    for line in lines:
        # 17: POSIX  ADVISORY  WRITE 877 fe:00:2228455 1073741824 1073741825
        words = line.split()
        if len(words) == 8 and words[1] == "POSIX" and words[5].rpartition(":")[2] == number:
            _, _, _, _, pid, _, first, last = words
            if pid.isdigit() and first.isdigit() and last.isdigit() and _FIRST <= int(first) <= int(last) <= _LAST:
                found[int(pid)] = None
    return [pid for pid in found if pid not in (0, os.getpid())]


def named(pids: list[int]) -> str:
    """Processes, for people: `process 877 (sqlite3 ledger.db)`; an empty text for none."""
    return " and ".join(map(_named, pids))


def _named(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").replace("\0", " ")
    except OSError:
        words = ""
    shown = words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
    return f"process {pid} ({escape(shown)})" if shown else f"process {pid}"
