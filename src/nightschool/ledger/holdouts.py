"""What a file's rows that are never trained on say of it: their loss before its first step and after its last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter

from nightschool.ledger.database import Database, encode, page_size

SCHEMA = (
    """CREATE TABLE holdouts (
        position INTEGER NOT NULL, file_id INTEGER NOT NULL, rows INTEGER NOT NULL, label_tokens INTEGER NOT NULL,
        loss_before REAL, loss_after REAL, PRIMARY KEY (position, file_id)) WITHOUT ROWID""",
    "CREATE INDEX holdouts_file ON holdouts (file_id)",
)

_COLUMNS = "position, file_id, rows, label_tokens, loss_before, loss_after"


@dataclass(frozen=True, slots=True)
class HoldoutRow:
    """Mean loss in nats over the label tokens of `rows` rows of a file, measured around the entry at `position`.

    A loss is None where it was not measured, or was not finite.
    """

    position: int
    file_id: int
    rows: int
    label_tokens: int
    loss_before: float | None
    loss_after: float | None


class Holdouts:
    """The table `holdouts`. Only the trainer writes to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, rows: Sequence[HoldoutRow]) -> None:
        """Write what was measured, over what an earlier life of the trainer may have measured at the same place."""
        self._database.write_many(
            f"INSERT OR REPLACE INTO holdouts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", (astuple(row) for row in rows)
        )

    def at(self, position: int) -> list[HoldoutRow]:
        """What was measured around an entry."""
        found = self._database.rows(f"SELECT {_COLUMNS} FROM holdouts WHERE position = ?", (position,))
        return [HoldoutRow(*row) for row in found]

    def of_files(self, first: int, last: int) -> dict[int, HoldoutRow]:
        """By file id, the newest measurement of each file with an id from `first` to `last`."""
        found = self._database.rows(f"SELECT {_COLUMNS} FROM holdouts WHERE file_id BETWEEN ? AND ?", (first, last))
        return {row.file_id: row for row in sorted((HoldoutRow(*row) for row in found), key=attrgetter("position"))}

    def of(self, ids: Sequence[int]) -> dict[int, HoldoutRow]:
        """By file id, the newest measurement of each of these files, of those that have one; at most a page of them."""
        page_size(len(ids) or 1)
        found = self._database.rows(
            f"SELECT {_COLUMNS} FROM holdouts WHERE file_id IN (SELECT value FROM json_each(?))", (encode(list(ids)),)
        )
        return {row.file_id: row for row in sorted((HoldoutRow(*row) for row in found), key=attrgetter("position"))}

    def delete_from(self, position: int) -> None:
        """Remove what was measured at `position` and behind it: a cut has taken the entries out."""
        self._database.write("DELETE FROM holdouts WHERE position >= ?", (position,))
