"""Rolled-up steps: a curve of a million steps is drawn from a few hundred rows.

The writer of the steps keeps them, in the same transaction. A bucket that is touched is computed anew from what it
covers, never corrected by a difference, so it always equals a recomputation, bit for bit: 64 steps make a small
bucket, 64 small buckets a large one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby

from nightschool.ledger.database import Database

SMALL, LARGE = 64, 4096
SPANS = (SMALL, LARGE)
LONGEST = 1_000_000
"""Seconds that a step counts with at most, so that no nonsense in one row spoils the sum over all."""
PORTION = 8192
"""Steps that are read at once where all buckets are made anew; whole large buckets."""

SCHEMA = (
    """CREATE TABLE step_buckets (
        level INTEGER NOT NULL, bucket INTEGER NOT NULL, count INTEGER NOT NULL, bad INTEGER NOT NULL,
        loss_min REAL, loss_max REAL, loss_sum REAL NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (level, bucket)) WITHOUT ROWID""",
)

WIDER = (
    "DROP TABLE step_buckets",
    """CREATE TABLE step_buckets (
        level INTEGER NOT NULL, bucket INTEGER NOT NULL, count INTEGER NOT NULL, bad INTEGER NOT NULL,
        loss_min REAL, loss_max REAL, loss_sum REAL NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        tokens INTEGER NOT NULL, micros INTEGER NOT NULL, norm_count INTEGER NOT NULL, norm_max REAL,
        norm_sum REAL NOT NULL, learning_rate REAL, PRIMARY KEY (level, bucket)) WITHOUT ROWID""",
)
"""What format 4 changed: all rows of the chart come from buckets. `make_all` fills them."""


@dataclass(frozen=True, slots=True)
class BucketRow:
    """The steps `bucket * level` up to, not including, `(bucket + 1) * level`.

    `count` steps had a finite loss, which `loss_min`, `loss_max` (None where there was none) and `loss_sum` are
    about; `bad` steps had NaN or an infinity. `first` and `last` are the lowest and the highest step number that is
    there. `tokens` are those of all steps, `micros` the time that they took, in whole microseconds: integers, so that
    any way of adding them up gives the same. `norm_count` steps had a finite gradient norm, which `norm_max` and
    `norm_sum` are about. `learning_rate` is that of step `last`, None where it is no number.
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
    tokens: int
    micros: int
    norm_count: int
    norm_max: float | None
    norm_sum: float
    learning_rate: float | None

    @property
    def loss_mean(self) -> float | None:
        """The mean of the finite losses, or None where there was none."""
        return self.loss_sum / self.count if self.count else None


_NAMES = tuple(field.name for field in fields(BucketRow))
_COLUMNS = ", ".join(_NAMES)

Figures = tuple[int, float | None, int, float | None, float | None, float | None]
"""Step, loss, tokens, seconds, gradient norm and learning rate of a step. NaN is None here, as SQLite has it."""


def refresh(database: Database, steps: Iterable[int]) -> None:
    """Compute every bucket that holds one of these step numbers anew. Runs in the caller's transaction."""
    small = {step // SMALL for step in steps}
    for bucket in sorted(small):
        rows = figures(database, bucket * SMALL, (bucket + 1) * SMALL - 1, SMALL)
        _put(database, SMALL, bucket, _from_steps(bucket, rows) if rows else None)
    for bucket in sorted({bucket * SMALL // LARGE for bucket in small}):
        per = LARGE // SMALL
        parts = [part for part in read(database, SMALL, bucket * per, per) if part.bucket < (bucket + 1) * per]
        _put(database, LARGE, bucket, _from_small(bucket, parts) if parts else None)


def make_all(database: Database) -> None:
    """Compute all buckets from the steps. Runs in the caller's transaction: about five seconds for a million steps."""
    database.write("DELETE FROM step_buckets")
    insert = f"INSERT INTO step_buckets ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"
    for rows in _portions(database):
        small = [_from_steps(bucket, list(inside)) for bucket, inside in groupby(rows, lambda row: row[0] // SMALL)]
        large = groupby(small, lambda part: part.bucket * SMALL // LARGE)
        made = [*small, *(_from_small(bucket, list(parts)) for bucket, parts in large)]
        database.write_many(insert, map(_to_sql, made))


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


def figures(database: Database, first: int, last: int, limit: int) -> list[Figures]:
    """Those of the steps `first` to `last`, both included, in order; at most `limit` of them."""
    return database.rows(  # pyright: ignore[reportReturnType]
        "SELECT step, loss, tokens, seconds, grad_norm, learning_rate FROM steps WHERE step BETWEEN ? AND ? "
        "ORDER BY step LIMIT ?",
        (first, last, limit),
    )


def count(database: Database) -> int:
    """The number of steps in all buckets."""
    return int(database.value("SELECT coalesce(sum(count + bad), 0) FROM step_buckets WHERE level = ?", (LARGE,)))


def micros_of(seconds: float | None) -> int:
    """A step's duration as buckets count it: whole microseconds; 0 for what is no duration."""
    if seconds is None or not math.isfinite(seconds):
        return 0
    return round(min(max(seconds, 0.0), LONGEST) * 1e6)


def _portions(database: Database) -> Iterator[list[Figures]]:
    """All steps in order, cut at the edges of large buckets; what is long missing is passed over."""
    first = database.value("SELECT min(step) FROM steps")
    while first is not None:
        first = first // LARGE * LARGE
        yield figures(database, first, first + PORTION - 1, PORTION)
        first = database.value("SELECT min(step) FROM steps WHERE step >= ?", (first + PORTION,))


def _from_steps(bucket: int, rows: Sequence[Figures]) -> BucketRow:
    losses = [row[1] for row in rows if row[1] is not None and math.isfinite(row[1])]
    norms = [row[4] for row in rows if row[4] is not None and math.isfinite(row[4])]
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
        tokens=sum(row[2] for row in rows),
        micros=sum(micros_of(row[3]) for row in rows),
        norm_count=len(norms),
        norm_max=max(norms, default=None),
        norm_sum=_sum(norms),
        learning_rate=rows[-1][5],
    )


def _from_small(bucket: int, parts: Sequence[BucketRow]) -> BucketRow:
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
        tokens=sum(part.tokens for part in parts),
        micros=sum(part.micros for part in parts),
        norm_count=sum(part.norm_count for part in parts),
        norm_max=max((part.norm_max for part in parts if part.norm_max is not None), default=None),
        norm_sum=_sum([part.norm_sum for part in parts]),
        learning_rate=parts[-1].learning_rate,
    )


def _put(database: Database, span: int, bucket: int, row: BucketRow | None) -> None:
    if row is None:
        database.write("DELETE FROM step_buckets WHERE level = ? AND bucket = ?", (span, bucket))
        return
    marks = ", ".join("?" * len(_NAMES))
    database.write(f"INSERT OR REPLACE INTO step_buckets ({_COLUMNS}) VALUES ({marks})", _to_sql(row))


def _to_sql(row: BucketRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in _NAMES)


def _sum(values: list[float]) -> float:
    """The exactly rounded sum; past the range of floats, the end of that range, so that it can be summed again."""
    try:
        return math.fsum(values)
    except OverflowError:
        from fractions import Fraction  # needed for nonsense only, so not worth the time it takes to import

        total = sum(map(Fraction, values))
        largest = Fraction(sys.float_info.max)
        return float(max(-largest, min(largest, total)))
