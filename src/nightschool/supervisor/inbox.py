"""The inbox: looks when something changed or is due, and enters what has settled into the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nightschool.intake import watch
from nightschool.ledger import Arrival, Ledger
from nightschool.words import escape, in_bytes

NAMED = 10
BUSY_SHARE = 10
WATCHED = 64
"""Folders whose modification times are looked at all the time."""


class Inbox:
    """Watches one inbox by looking at it.

    A change of a folder's own modification time (a file appeared, vanished or was renamed) makes it look at once, which
    costs a few `stat` calls per tick and works on every file system; notifications of the kernel get lost on network
    mounts. While files are settling it looks more often, and never so often that looking is all it does.

    Args:
        inbox: the folder.
        ledger: where arrivals are entered.
        settle_seconds, rescan_seconds: the [inbox] settings; may be set anew at any time.
        say: takes one line for the log.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        inbox: Path,
        ledger: Ledger,
        settle_seconds: float,
        rescan_seconds: float,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.inbox = inbox
        self.waiting = 0
        self._ledger = ledger
        self.settle_seconds = settle_seconds
        self.rescan_seconds = rescan_seconds
        self._say = say
        self._clock = clock
        self._watched: watch.Watched | None = None
        self._entered: dict[str, int] = {}
        self._told_open: set[Path] = set()
        root = inbox.absolute()
        self._folders = tuple(map(str, (root, root / "high", root / "low")))
        self._stamped: tuple[int, ...] = ()
        self._looked_at = 0.0
        self._ripe_at: float | None = None
        self._took = 0.0

    def due(self) -> bool:
        """Whether it is time to look."""
        since = self._clock() - self._looked_at
        if self._watched is None:
            return True
        if since < BUSY_SHARE * self._took:
            return False
        if self._ripe_at is not None and self._clock() >= self._ripe_at:
            return True
        often = min(self.rescan_seconds, max(0.1, self.settle_seconds / 4)) if self.waiting else self.rescan_seconds
        return since >= often or self._stamped != self._stamps()

    def look(self) -> None:
        """Scan, and enter settled files as one arrival.

        Raises:
            WorkspaceError: the inbox is not there.
            StorageError: the ledger cannot be written; nothing is forgotten, the next look reports the files again.
        """
        began = self._clock()
        # Before the scan: what changes during it makes the next tick look again.
        stamped = self._stamps()
        snapshot = watch.scan(self.inbox)
        verdict = watch.settled(self._before(snapshot), snapshot, began, self.settle_seconds)
        # In the ledger such a file would hold up all that are behind it in the queue.
        held = {item.path for item in verdict.ready if _held_open(item.path)}
        verdict = watch.postponed(verdict, held)
        self._looked_at, self._took = self._clock(), self._clock() - began
        self.waiting = verdict.waiting + len(verdict.ready)
        if verdict.ready:
            arrivals = [Arrival(r.name, r.path, r.priority, bytes=r.size) for r in verdict.ready]
            self._entered |= self._ledger.files.enter(arrivals)
        self.waiting = verdict.waiting
        self._watched = verdict.state
        # When the next of them will have rested: it is not to wait for a look by the clock as well.
        rests = [seen.since + self.settle_seconds for seen in verdict.state.seen.values() if not seen.reported]
        self._ripe_at = min((at for at in rests if at > began), default=None)
        self._remember(snapshot, stamped)
        self._tell(verdict)
        self._tell_open(held)

    def _remember(self, snapshot: watch.Snapshot, stamped: tuple[int, ...]) -> None:
        """Which folders to watch from now on: with many, some are only found changed by the next full look."""
        before = self._folders
        self._folders = tuple(sorted(snapshot.folders)[:WATCHED])
        # What happened in a folder before it was in the list is found by one more look.
        self._stamped = stamped if self._folders == before else ()

    def _before(self, now: watch.Snapshot) -> watch.Watched | None:
        """What the last look saw, less what intake gave back since: that is to be reported once more."""
        self._entered = {path: id for path, id in self._entered.items() if path in now.files}
        if self._watched is None or not self._entered:
            return self._watched
        unknown = self._ledger.files.unknown(self._entered.values())
        seen = dict(self._watched.seen)
        for path in [path for path, id in self._entered.items() if id in unknown]:
            del self._entered[path]
            seen[path] = seen[path]._replace(reported=False)
        return replace(self._watched, seen=seen)

    def _tell_open(self, held: set[Path]) -> None:
        for path in sorted(held - self._told_open)[:NAMED]:
            self._say(f"{escape(path.name)} waits in the inbox: a program has it open for writing.")
        self._told_open = held

    def _stamps(self) -> tuple[int, ...]:
        stamps = []
        for folder in self._folders:
            try:
                stamps.append(os.stat(folder).st_mtime_ns)  # noqa: PTH116 (many times a second)
            except OSError:
                stamps.append(-1)
        return tuple(stamps)

    def _tell(self, verdict: watch.Verdict) -> None:
        for ready in verdict.ready[:NAMED]:
            self._say(f"New in the inbox: {self._shown(ready.path)} ({in_bytes(ready.size)}).")
        if len(verdict.ready) > NAMED:
            self._say(f"New in the inbox: {len(verdict.ready) - NAMED:,} more files.")
        for refused in verdict.refused[:NAMED]:
            self._say(f"Not taken from the inbox: {self._shown(refused.path)}: {refused.reason}.")
        if len(verdict.refused) > NAMED:
            self._say(f"Not taken from the inbox: {len(verdict.refused) - NAMED:,} more, for such reasons.")

    def _shown(self, path: Path) -> str:
        inbox = self.inbox.absolute()
        return escape(path.relative_to(inbox) if path != inbox and path.is_relative_to(inbox) else path)


def _held_open(path: Path) -> bool:
    """Whether a program writes to the file, or to the settings beside it."""
    return watch.held_open(path) or watch.held_open(path.with_name(path.name + watch.SIDECAR))
