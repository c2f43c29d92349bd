"""Changing the order in which files wait. A few rows by index, however long the queue is; the rest stays as it is.

The queue goes by priority, then batch (the number of the arrival), then sort key. A file that is moved gets a batch of
its own, or a key between those of its new neighbours, so nothing else has to be written.
"""

from __future__ import annotations

from collections.abc import Sequence

from nightschool.ledger.database import Database
from nightschool.ledger.files import HIGH, LOW, NORMAL, NOW, WAITING_STATES, FileRow, Files

_WHERE = f"INDEXED BY files_queue WHERE state IN {WAITING_STATES}"
_BACKWARDS = "ORDER BY priority DESC, batch DESC, sort_key DESC, id DESC LIMIT 1"


class Line:
    """The order of what waits.

    Every method raises KeyError where there is no such file, and ValueError where it does not wait.
    """

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files

    def last(self, ids: Sequence[int]) -> None:
        """Put files, in this order, behind all that wait now with their priority. What arrives later is behind them."""
        with self._database.transaction():
            for id in ids:
                self._waiting(id)
                self._place(id, None, self._newest() + 1, None)

    def first(self, id: int) -> None:
        """Put a file before all others, at the head's priority if that is the more urgent one."""
        with self._database.transaction():
            row = self._waiting(id)
            head = self._files.next_to_train()
            assert head is not None  # this file waits
            if head.id != id:
                self._place(id, min(head.priority, row.priority), head.batch - 1, None)

    def before(self, id: int, other: int) -> None:
        """Put a file right before another, at that one's priority."""
        with self._database.transaction():
            self._waiting(id)
            there = self._waiting(other)
            if id == other:
                return
            place = (there.priority, there.batch, there.sort_key)
            ahead = self._database.row(
                f"SELECT priority, batch, sort_key FROM files {_WHERE} "
                f"AND (priority, batch, sort_key, id) < (?, ?, ?, ?) AND id <> ? {_BACKWARDS}",
                (*place, other, id),
            )
            low = ahead[2] if ahead is not None and ahead[:2] == place[:2] else ""
            high = there.sort_key
            if low == high:
                # Files of one name that came together have equal keys, and their numbers decide.
                following = self._database.row(
                    f"SELECT sort_key FROM files {_WHERE} AND (priority, batch) = (?, ?) AND sort_key > ? "
                    "ORDER BY priority, batch, sort_key, id LIMIT 1",
                    place,
                )
                high = between(low, following[0] if following else None)
                self._database.write(
                    f"UPDATE files SET sort_key = ? WHERE id IN (SELECT id FROM files {_WHERE} "
                    "AND priority = ? AND batch = ? AND sort_key = ? AND id >= ?)",
                    (high, *place, other),
                )
            self._place(id, there.priority, there.batch, between(low, high))

    def priority(self, id: int, priority: int) -> None:
        """Give a file another priority; among those that have it, it has the place its arrival gives it."""
        if priority not in (NOW, HIGH, NORMAL, LOW):
            raise ValueError(f"there is no priority {priority!r}")
        with self._database.transaction():
            row = self._waiting(id)
            self._place(id, priority, row.batch, None)

    def _waiting(self, id: int) -> FileRow:
        row = self._files.get(id)
        if row.state not in WAITING_STATES:
            raise ValueError(f"file {id} is {row.state}; it does not wait")
        return row

    def _newest(self) -> int:
        return int(self._database.value("SELECT coalesce(max(batch), 0) FROM files"))

    def _place(self, id: int, priority: int | None, batch: int, sort_key: str | None) -> None:
        self._database.write(
            "UPDATE files SET priority = coalesce(?, priority), batch = ?, sort_key = coalesce(?, sort_key) "
            "WHERE id = ?",
            (priority, batch, sort_key, id),
        )


def between(low: str, high: str | None) -> str:
    """A text that sorts between two others, the second left out if there is no end. It never ends in the lowest letter.

    Raises:
        ValueError: there is no room: they are not in order, or the second is the first with lowest letters behind it.
    """
    if high is None:
        return low + "\x02"
    if not low < high:
        raise ValueError(f"{low!r} is not before {high!r}")
    while True:
        found = low + "\x02"
        if found < high:
            return found
        if low + "\x01" >= high:
            raise ValueError(f"nothing sorts between {low!r} and {high!r}")
        # The second begins with the first, and goes on with one of the two lowest letters.
        low += "\x01"
