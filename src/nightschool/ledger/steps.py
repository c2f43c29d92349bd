"""One row per optimizer step: the loss curve over every file, without holes up to the newest checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nightschool.ledger import buckets
from nightschool.ledger.buckets import BucketRow, Figures
from nightschool.ledger.database import PAGE, Database, page_size

LOST = "lost_steps"
"""The machine row with ranges of steps whose rows were lost with an older ledger: [[first, last], ...]."""

SCHEMA = (
    """CREATE TABLE steps (
        step INTEGER PRIMARY KEY, entry INTEGER NOT NULL, loss REAL, learning_rate REAL, grad_norm REAL,
        tokens INTEGER NOT NULL, label_tokens INTEGER NOT NULL, seconds REAL, flags TEXT NOT NULL)""",
)

REVISION = (
    "CREATE TABLE steps_revision (revision INTEGER NOT NULL)",
    "INSERT INTO steps_revision VALUES (0)",
)
"""What format 4 added: whoever keeps what was read of the steps can see whether it still holds."""

_COLUMNS = "step, entry, loss, learning_rate, grad_norm, tokens, label_tokens, seconds, flags"


@dataclass(frozen=True, slots=True)
class StepRow:
    """What one optimizer step did.

    `entry` is the position of its entry, `loss` the mean over the step's label tokens, `seconds` its duration,
    `flags` words parted by spaces. NaN is kept as NaN, and so are infinities.
    """

    step: int
    entry: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    label_tokens: int
    seconds: float
    flags: str = ""


class Steps:
    """The table `steps`, and the rolled-up buckets that long curves are drawn from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, rows: Sequence[StepRow]) -> None:
        """Write step rows, and the buckets over them, in one transaction. A row of the same step is replaced."""
        if not rows:
            return
        if any(row.step < 0 for row in rows):
            raise ValueError("step numbers start at 0")
        with self._database.transaction():
            if min(row.step for row in rows) <= self._newest():
                self._revise()
            self._database.write_many(
                f"INSERT OR REPLACE INTO steps ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_to_sql, rows)
            )
            buckets.refresh(self._database, {row.step for row in rows})

    def delete_after(self, step: int) -> int:
        """Remove every row after `step`, for a cut or a repair, and return how many there were."""
        with self._database.transaction():
            removed = self._database.write("DELETE FROM steps WHERE step > ?", (step,)).rowcount
            if removed:
                self._revise()
            buckets.drop_after(self._database, step)
        return removed

    def revision(self) -> int:
        """A number that goes up whenever rows are removed or replaced, or come in between.

        Steps that are added behind the last one leave it.
        """
        return int(self._database.value("SELECT revision FROM steps_revision"))

    def last(self) -> StepRow | None:
        """The row with the highest step number, or None before the first step."""
        found = self._database.row(f"SELECT {_COLUMNS} FROM steps ORDER BY step DESC LIMIT 1")
        return _from_sql(found) if found else None

    def range(self, first: int, last: int, limit: int = PAGE) -> list[StepRow]:
        """The rows of steps `first` to `last`, both included, in order; at most `limit` of them."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM steps WHERE step BETWEEN ? AND ? ORDER BY step LIMIT ?",
            (first, last, page_size(limit)),
        )
        return [_from_sql(row) for row in rows]

    def figures(self, first: int, last: int, limit: int = PAGE) -> list[Figures]:
        """What buckets are made from, of the steps `first` to `last`, in order; at most `limit` of them."""
        return buckets.figures(self._database, first, last, page_size(limit))

    def losses(self, after: int = -1, page: int = PAGE) -> Iterator[list[StepRow]]:
        """Every row after step `after`, in order, in pages of up to `page` rows. Between two pages no lock is held."""
        while True:
            rows = self._database.rows(
                f"SELECT {_COLUMNS} FROM steps WHERE step > ? ORDER BY step LIMIT ?", (after, page_size(page))
            )
            if rows:
                yield [_from_sql(row) for row in rows]
            if len(rows) < page:
                return
            after = rows[-1][0]

    def buckets(self, span: int, first: int = 0, limit: int = PAGE) -> list[BucketRow]:
        """Up to `limit` buckets of `span` (64 or 4096) steps in order, from the one that holds step `first` on."""
        return buckets.read(self._database, span, first // span, page_size(limit))

    def tokens(self, after: int, last: int, portion: int = 10_000) -> int:
        """The tokens of the steps behind `after` up to `last`. Summed up in portions: no lock is held for long."""
        sql = "SELECT coalesce(sum(tokens), 0) FROM steps WHERE step BETWEEN ? AND ?"
        firsts = range(after + 1, last + 1, portion)
        return sum(int(self._database.value(sql, (first, min(first + portion - 1, last)))) for first in firsts)

    def time(self, first: int, last: int) -> tuple[int, float]:
        """Tokens and seconds of the steps `first` to `last`, both included: a few ten thousand at once."""
        sql = "SELECT coalesce(sum(tokens), 0), total(seconds) FROM steps WHERE step BETWEEN ? AND ?"
        tokens, seconds = self._database.rows(sql, (first, last))[0]
        return int(tokens), float(seconds)

    def count(self) -> int:
        """How many rows there are. Read from the buckets: counting a million rows would hold the lock for too long."""
        return buckets.count(self._database)

    def _newest(self) -> int:
        return int(self._database.value("SELECT coalesce(max(step), -1) FROM steps"))

    def _revise(self) -> None:
        self._database.write("UPDATE steps_revision SET revision = revision + 1")


def _to_sql(row: StepRow) -> tuple[object, ...]:
    # SQLite stores NaN as NULL by itself; `_from_sql` turns it back.
    return (
        row.step,
        row.entry,
        row.loss,
        row.learning_rate,
        row.grad_norm,
        row.tokens,
        row.label_tokens,
        row.seconds,
        row.flags,
    )


def _from_sql(row: tuple) -> StepRow:
    step, entry, loss, rate, norm, tokens, label_tokens, seconds, flags = row
    return StepRow(step, entry, _real(loss), _real(rate), _real(norm), tokens, label_tokens, _real(seconds), flags)


def _real(value: float | None) -> float:
    return math.nan if value is None else value
