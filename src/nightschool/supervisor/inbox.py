"""The inbox: looks when something changed or is due, and enters what has settled into the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nightschool.intake import watch
from nightschool.ledger import Arrival, Ledger
from nightschool.words import escape, in_bytes

NAMED = 10
BUSY_SHARE = 10


class Inbox:
    """Watches one inbox by looking at it.

    A change of a folder's own modification time (a file appeared, vanished or was renamed) makes it look at once, which
    costs three `stat` calls per tick and works on every file system; notifications of the kernel get lost on network
    mounts. While files are settling it looks more often, and never so often that looking is all it does.

    Args:
        inbox: the folder.
        ledger: where arrivals are entered.
        settle_seconds, rescan_seconds: the [inbox] settings.
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
        self._settle = settle_seconds
        self._rescan = rescan_seconds
        self._say = say
        self._clock = clock
        self._watched: watch.Watched | None = None
        self._entered: dict[str, int] = {}
        self._told_open: set[Path] = set()
        self._folders: tuple[int, ...] = ()
        self._looked_at = 0.0
        self._took = 0.0

    def due(self) -> bool:
        """Whether it is time to look."""
        since = self._clock() - self._looked_at
        if self._watched is None:
            return True
        if since < BUSY_SHARE * self._took:
            return False
        often = min(self._rescan, max(0.1, self._settle / 4)) if self.waiting else self._rescan
        return since >= often or self._folders != self._stamps()

    def look(self) -> None:
        """Scan, and enter settled files as one arrival.

        Raises:
            WorkspaceError: the inbox is not there.
            StorageError: the ledger cannot be written; nothing is forgotten, the next look reports the files again.
        """
        began = self._clock()
        # Before the scan: what changes during it makes the next tick look again.
        folders = self._stamps()
        snapshot = watch.scan(self.inbox)
        verdict = watch.settled(self._before(snapshot), snapshot, began, self._settle)
        # In the ledger such a file would hold up all that are behind it in the queue.
        held = {item.path for item in verdict.ready if watch.held_open(item.path)}
        verdict = watch.postponed(verdict, held)
        self._looked_at, self._took = self._clock(), self._clock() - began
        self.waiting = verdict.waiting + len(verdict.ready)
        if verdict.ready:
            with self._ledger.transaction():
                self._ledger.files.arrive([Arrival(r.path.name, r.path, r.priority) for r in verdict.ready])
                sources = self._ledger.files.sources()
            self._entered |= {path: sources[path] for item in verdict.ready if (path := str(item.path)) in sources}
        self.waiting = verdict.waiting
        self._watched, self._folders = verdict.state, folders
        self._tell(verdict)
        self._tell_open(held)

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
        return watch.Watched(seen, self._watched.refused)

    def _tell_open(self, held: set[Path]) -> None:
        for path in sorted(held - self._told_open)[:NAMED]:
            self._say(f"{path.name} waits in the inbox: a program has it open for writing.")
        self._told_open = held

    def _stamps(self) -> tuple[int, ...]:
        stamps = []
        for folder in (self.inbox, self.inbox / "high", self.inbox / "low"):
            try:
                stamps.append(folder.stat().st_mtime_ns)
            except OSError:
                stamps.append(-1)
        return tuple(stamps)

    def _tell(self, verdict: watch.Verdict) -> None:
        for ready in verdict.ready[:NAMED]:
            size = verdict.state.seen[str(ready.path)].stamp.size
            self._say(f"New in the inbox: {ready.path.relative_to(self.inbox.absolute())} ({in_bytes(size)}).")
        if len(verdict.ready) > NAMED:
            self._say(f"New in the inbox: {len(verdict.ready) - NAMED:,} more files.")
        for refused in verdict.refused[:NAMED]:
            self._say(f"Not taken from the inbox: {escape(refused.path.name)}: {refused.reason}.")
        if len(verdict.refused) > NAMED:
            self._say(f"Not taken from the inbox: {len(verdict.refused) - NAMED:,} more, for such reasons.")
