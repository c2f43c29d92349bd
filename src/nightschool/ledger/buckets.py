"""Rolled-up steps: a curve of a million steps is drawn from a few hundred rows.

The writer of the steps keeps them, in the same transaction. A bucket that is touched is computed anew from what it
covers, never corrected by a difference, so it always equals a recomputation, bit for bit: 64 steps make a small
bucket, 64 small buckets a large one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from nightschool.ledger.database import Database

SMALL, LARGE = 64, 4096
SPANS = (SMALL, LARGE)

SCHEMA = (
    """CREATE TABLE step_buckets (
        level INTEGER NOT NULL, bucket INTEGER NOT NULL, count INTEGER NOT NULL, bad INTEGER NOT NULL,
        loss_min REAL, loss_max REAL, loss_sum REAL NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (level, bucket)) WITHOUT ROWID""",
)

_COLUMNS = "level, bucket, count, bad, loss_min, loss_max, loss_sum, first, last"


@dataclass(frozen=True, slots=True)
class BucketRow:
    """The steps `bucket * level` up to, not including, `(bucket + 1) * level`.

    `count` steps had a finite loss, which `loss_min`, `loss_max` (None where there was none) and `loss_sum` are
    about; `bad` steps had NaN or an infinity. `first` and `last` are the lowest and the highest step number that is
    there.
    """

    level: int
    bucket: int
    count: int
    bad: int
    loss_min: float | None
    loss_max: float | None
    loss_sum: float
    first: int
    last: int

    @property
    def loss_mean(self) -> float | None:
        """The mean of the finite losses, or None where there was none."""
        return self.loss_sum / self.count if self.count else None


def refresh(database: Database, steps: Iterable[int]) -> None:
    """Compute every bucket that holds one of these step numbers anew. Runs in the caller's transaction."""
    small = {step // SMALL for step in steps}
    for bucket in sorted(small):
        _put(database, SMALL, bucket, _from_steps(database, bucket))
    for bucket in sorted({bucket * SMALL // LARGE for bucket in small}):
        _put(database, LARGE, bucket, _from_small(database, bucket))


def drop_after(database: Database, step: int) -> None:
    """Follow the removal of every step after `step`. Runs in the caller's transaction."""
    for span in SPANS:
        database.write("DELETE FROM step_buckets WHERE level = ? AND bucket > ?", (span, step // span))
    refresh(database, [step])


def read(database: Database, span: int, first: int, limit: int) -> list[BucketRow]:
    """Up to `limit` buckets of one size from number `first` on. Raises ValueError for a size that is not kept."""
    if span not in SPANS:
        raise ValueError(f"steps are rolled up by {SPANS[0]} and {SPANS[1]}, not by {span}")
    rows = database.rows(
        f"SELECT {_COLUMNS} FROM step_buckets WHERE level = ? AND bucket >= ? ORDER BY bucket LIMIT ?",
        (span, first, limit),
    )
    return [BucketRow(*row) for row in rows]


def count(database: Database) -> int:
    """The number of steps in all buckets."""
    return int(database.value("SELECT coalesce(sum(count + bad), 0) FROM step_buckets WHERE level = ?", (LARGE,)))


def _from_steps(database: Database, bucket: int) -> BucketRow | None:
    rows = database.rows(
        "SELECT step, loss FROM steps WHERE step >= ? AND step < ? ORDER BY step",
        (bucket * SMALL, (bucket + 1) * SMALL),
    )
    if not rows:
        return None
    losses = [loss for _, loss in rows if loss is not None and math.isfinite(loss)]
    return BucketRow(
        level=SMALL,
        bucket=bucket,
        count=len(losses),
        bad=len(rows) - len(losses),
        loss_min=min(losses, default=None),
        loss_max=max(losses, default=None),
        loss_sum=_sum(losses),
        first=rows[0][0],
        last=rows[-1][0],
    )


def _from_small(database: Database, bucket: int) -> BucketRow | None:
    per = LARGE // SMALL
    parts = [part for part in read(database, SMALL, bucket * per, per) if part.bucket < (bucket + 1) * per]
    if not parts:
        return None
    return BucketRow(
        level=LARGE,
        bucket=bucket,
        count=sum(part.count for part in parts),
        bad=sum(part.bad for part in parts),
        loss_min=min((part.loss_min for part in parts if part.loss_min is not None), default=None),
        loss_max=max((part.loss_max for part in parts if part.loss_max is not None), default=None),
        loss_sum=_sum([part.loss_sum for part in parts]),
        first=parts[0].first,
        last=parts[-1].last,
    )


def _put(database: Database, span: int, bucket: int, row: BucketRow | None) -> None:
    if row is None:
        database.write("DELETE FROM step_buckets WHERE level = ? AND bucket = ?", (span, bucket))
        return
    database.write(
        f"INSERT OR REPLACE INTO step_buckets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.level,
            row.bucket,
            row.count,
            row.bad,
            row.loss_min,
            row.loss_max,
            row.loss_sum,
            row.first,
            row.last,
        ),
    )


def _sum(values: list[float]) -> float:
    """The exactly rounded sum; past the range of floats, the end of that range, so that it can be summed again."""
    try:
        return math.fsum(values)
    except OverflowError:
        from fractions import Fraction  # needed for nonsense only, so not worth the time it takes to import

        total = sum(map(Fraction, values))
        largest = Fraction(sys.float_info.max)
        return float(max(-largest, min(largest, total)))
