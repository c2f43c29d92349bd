"""Taking files in: new rows in the table of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightschool.errors import DataError
from nightschool.ledger.database import encode
from nightschool.ledger.filerows import HIGH, LOW, NORMAL, NOW, FileRows
from nightschool.ledger.order import natural_key

ENTER_PAGE = 2000
"""Files entered or asked for in one go: a hundred thousand at once would keep the trainer's commits waiting."""

TAKEN_OVER = "what the run began with; its data is not here"
"""The reason shown with what stands for an adopted state."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file to take in: its name for people, the absolute path its bytes are at, its priority and its own settings.

    The name may have folders in it, parted by slashes. `bytes` is the file's size so far as it is known.
    """

    name: str
    source: str | os.PathLike[str]
    priority: int = NORMAL
    options: Mapping[str, Any] = field(default_factory=dict)
    bytes: int | None = None


class Arrivals(FileRows):
    """The part of `Files` that takes files in."""

    def arrive(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Take in files that came together, as one batch in one transaction; the ids of the new ones, in their order.

        A path that waits as `arrived` already is skipped. Raises DataError for a name or path that is not Unicode,
        before anything is written.
        """
        if not arrivals:
            return []
        rows = _in_order(arrivals)
        with self._database.transaction():
            last = self._insert(rows)
            new = dict(self._database.rows("SELECT source, id FROM files WHERE id > ?", (last,)))
        sources = dict.fromkeys(os.fspath(arrival.source) for arrival in arrivals)
        return [new[source] for source in sources if source in new]

    def enter(self, arrivals: Sequence[Arrival], at_once: int = ENTER_PAGE) -> dict[str, int]:
        """Take in any number of files, in their order, `at_once` in a transaction; the id of each by its path.

        Paths that wait as `arrived` already keep their id. After an error some may be in: calling it again goes on.
        Raises DataError like `arrive`.
        """
        rows = _in_order(arrivals)
        ids: dict[str, int] = {}
        for first in range(0, len(rows), at_once):
            page = rows[first : first + at_once]
            with self._database.transaction():
                self._insert(page)
                found = self._database.rows(
                    "SELECT source, files.id FROM json_each(?) CROSS JOIN files INDEXED BY files_source "
                    "ON source = json_each.value WHERE state = 'arrived'",
                    (encode([row[1] for row in page]),),
                )
            ids.update(found)
        return ids

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert rows of `_in_order` as the next batch; the highest id before."""
        last = int(self._database.value("SELECT coalesce(max(id), 0) FROM files"))
        batch = self._last_batch()
        now = self._database.now()
        self._database.write_many(
            "INSERT INTO files (sort_key, source, name, priority, options, bytes, batch, arrived_at, state) "
            "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'arrived' "
            "WHERE NOT EXISTS (SELECT 1 FROM files WHERE source = ?2 AND state = 'arrived')",
            ((*row, batch + 1, now) for row in rows),
        )
        return last

    def taken_over(self, name: str, data_digest: str, sequences: int) -> int:
        """Enter what was learned elsewhere, before the run began here: learned, and without data. Returns its id."""
        batch = self._last_batch()
        now = self._database.now()
        written = self._database.write(
            "INSERT INTO files (name, priority, batch, sort_key, source, options, state, reason, shape, data_digest, "
            "sequences, arrived_at, learned_at) VALUES (?, ?, ?, ?, '', '{}', 'learned', ?, 'adopted', ?, ?, ?, ?)",
            (name, NORMAL, batch + 1, natural_key(name), TAKEN_OVER, data_digest, sequences, now, now),
        )
        assert written.lastrowid is not None  # an INSERT always has one
        return written.lastrowid

    def _last_batch(self) -> int:
        return int(self._database.value("SELECT coalesce(max(batch), 0) FROM files"))

    def withdraw(self, id: int) -> None:
        """Forget an arrived file of which nothing was taken. Its number is never given again."""
        with self._database.transaction():
            state = self.get(id).state
            if state != "arrived":
                raise ValueError(f"file {id} is {state}; it cannot be withdrawn")
            self._database.write("DELETE FROM files WHERE id = ?", (id,))

    def arrived_from(self, source: str | os.PathLike[str]) -> int | None:
        """The id of the arrived file whose bytes are at this path, or None."""
        found = self._database.row(
            "SELECT id FROM files INDEXED BY files_source WHERE state = 'arrived' AND source = ?", (os.fspath(source),)
        )
        return found[0] if found else None

    def unknown(self, ids: Iterable[int]) -> set[int]:
        """Those of `ids` that no file has. Asked in pages."""
        wanted, missing = list(ids), set[int]()
        for first in range(0, len(wanted), ENTER_PAGE):
            found = self._database.rows(
                "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM files)",
                (encode(wanted[first : first + ENTER_PAGE]),),
            )
            missing.update(id for (id,) in found)
        return missing


def _in_order(arrivals: Sequence[Arrival]) -> list[tuple[Any, ...]]:
    """The values of `_insert` in name order, so that ids do not depend on the order in which a folder was read.

    Made before any lock is taken: a hundred thousand files take a second.
    """
    for arrival in arrivals:
        _check(arrival)
    rows = [
        (natural_key(a.name), os.fspath(a.source), a.name, a.priority, encode(dict(a.options)), a.bytes)
        for a in arrivals
    ]
    rows.sort(key=lambda row: row[:4])
    return rows


def _check(arrival: Arrival) -> None:
    for text in (arrival.name, os.fspath(arrival.source)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode(errors="backslashreplace").decode()
            raise DataError(f"The name of {shown} is not valid UTF-8. Rename the file and drop it again.") from error
    if arrival.priority not in (NOW, HIGH, NORMAL, LOW):
        raise ValueError(f"a priority is {NOW}, {HIGH}, {NORMAL} or {LOW}, not {arrival.priority!r}")
