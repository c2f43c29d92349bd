"""What was dropped, and how far each file has come: the queue and the history of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nightschool.ledger.arrivals import ENTER_PAGE, TAKEN_OVER, Arrival, Arrivals
from nightschool.ledger.database import PAGE, encode, page_size
from nightschool.ledger.filerows import (
    HIGH,
    LOW,
    MOVED,
    NORMAL,
    NOW,
    REST,
    SCHEMA,
    STATES,
    TAKEN_OUT,
    WAITING_STATES,
    FileRow,
    State,
)  # fmt: skip
from nightschool.ledger.moves import Moves

__all__ = [
    "ENTER_PAGE", "HIGH", "LOW", "MOVED", "NORMAL", "NOW", "REST", "SCHEMA", "STATES", "TAKEN_OUT", "TAKEN_OVER",
    "WAITING_STATES", "Arrival", "FileRow", "Files", "State",
]  # fmt: skip

_ABOVE_ALL = 2**63 - 1
_QUEUE_ORDER = "ORDER BY priority, batch, sort_key, id"
# The condition is the index's word for word, or SQLite could not use it. Left to itself it takes another and sorts.
_WAITING = f"INDEXED BY files_queue WHERE state IN {WAITING_STATES}"
_STAGE = "INDEXED BY files_stage WHERE state ="


class Files(Arrivals, Moves):
    """The table `files`.

    The methods that move a file on raise ValueError where it is not in a state that leads there, and KeyError where
    there is no such file; asked for the state that a file is in already, they change nothing but what they were
    given.
    """

    def duplicates_of(self, id: int) -> list[FileRow]:
        """The files that were passed over because they have the bytes of this one, in the order they arrived."""
        return self._select("WHERE state = 'duplicate' AND duplicate_of = ? ORDER BY id", (id,))

    def find_learnable_duplicate(self, sha256: str, excluding: int) -> int | None:
        """The id of the first other file with these bytes that is not out (duplicate, rejected, set aside), or None.

        One whose bytes are archived goes before one that was purged.
        """
        where = "sha256 = ? AND id != ? AND state NOT IN ('rejected', 'duplicate', 'set_aside')"
        for more in ("AND NOT (state = 'forgotten' AND archive IS NULL)", ""):
            found = self._database.row(
                f"SELECT id FROM files WHERE {where} {more} ORDER BY id LIMIT 1", (sha256, excluding)
            )
            if found:
                return found[0]
        return None

    def prepared_from(self, prepared: str) -> list[int]:
        """The ids of the files whose tokens lie in this prepared folder: the same bytes may have come twice."""
        return [id for (id,) in self._database.rows("SELECT id FROM files WHERE prepared = ?", (prepared,))]

    def prepared_to(self, data_digest: str) -> list[int]:
        """The ids of the files that were last prepared to data with this digest."""
        return [id for (id,) in self._database.rows("SELECT id FROM files WHERE data_digest = ?", (data_digest,))]

    def called(self, name: str) -> list[FileRow]:
        """The files of this name, in the order they arrived; at most a page of them."""
        return self._select(f"WHERE name = ? ORDER BY id LIMIT {PAGE}", (name,))

    def next_to_train(self) -> FileRow | None:
        """The first file of the queue, ready or not: nothing behind it may go before it."""
        return self._first(_WAITING)

    def next_to_take(self) -> FileRow | None:
        """The first file whose bytes are not archived yet."""
        return self._first(f"{_STAGE} 'arrived'")

    def next_to_prepare(self) -> FileRow | None:
        """The first archived file that has no tokens yet."""
        return self._first(f"{_STAGE} 'archived'")

    def queue(self, after: FileRow | None = None, limit: int = PAGE) -> list[FileRow]:
        """Waiting files in the order they will be trained, from behind `after` on; at most `limit` of them."""
        if after is None:
            where, values = _WAITING, ()
        else:
            where = f"{_WAITING} AND (priority, batch, sort_key, id) > (?, ?, ?, ?)"
            values = (after.priority, after.batch, after.sort_key, after.id)
        return self._select(f"{where} {_QUEUE_ORDER} LIMIT ?", (*values, page_size(limit)))

    def counts(self) -> dict[str, int]:
        """How many files there are in each state; states without a file are there with 0."""
        counts: dict[str, int] = dict.fromkeys(STATES, 0)
        counts.update(self._database.rows("SELECT state, count(*) FROM files GROUP BY state"))
        return counts

    def listing(self, state: State | None = None, after_id: int = 0, limit: int = PAGE) -> list[FileRow]:
        """Files in the order they arrived, of one state or of all: the first `limit` behind `after_id`."""
        where, values = ("id > ?", ()) if state is None else ("state = ? AND id > ?", (state,))
        return self._select(f"WHERE {where} ORDER BY id LIMIT ?", (*values, after_id, page_size(limit)))

    def newest(self, state: State | None = None, before: int | None = None, limit: int = PAGE) -> list[FileRow]:
        """Files of one state or of all, the last that came first: `limit` of those with a number below `before`."""
        where, values = ("id < ?", ()) if state is None else ("state = ? AND id < ?", (state,))
        below = _ABOVE_ALL if before is None else before
        return self._select(f"WHERE {where} ORDER BY id DESC LIMIT ?", (*values, below, page_size(limit)))

    def names(self, state: State | None = None, before: int | None = None, limit: int = PAGE) -> list[tuple[int, str]]:
        """(number, name) of what `newest` would give: enough to look for a name among many."""
        where, values = ("id < ?", ()) if state is None else ("state = ? AND id < ?", (state,))
        below = _ABOVE_ALL if before is None else before
        return self._database.rows(
            f"SELECT id, name FROM files WHERE {where} ORDER BY id DESC LIMIT ?", (*values, below, page_size(limit))
        )  # type: ignore[return-value]  # as the columns say

    def several(self, ids: Sequence[int]) -> list[FileRow]:
        """The files with these ids, those there are, in this order; at most a page of them."""
        page_size(len(ids) or 1)
        found = self._select("WHERE id IN (SELECT value FROM json_each(?))", (encode(list(ids)),))
        by_id = {row.id: row for row in found}
        return [by_id[id] for id in ids if id in by_id]

    def each(self, state: State | None = None) -> Iterator[FileRow]:
        """Every file, of one state or of all, in the order they arrived. Read in pages; no lock is held in between."""
        after = 0
        while page := self.listing(state, after):
            yield from page
            after = page[-1].id

    def _first(self, where: str) -> FileRow | None:
        found = self._select(f"{where} {_QUEUE_ORDER} LIMIT 1", ())
        return found[0] if found else None
