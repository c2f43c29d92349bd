"""Ledgers with long curves, made quickly."""

from __future__ import annotations

from collections.abc import Iterable

from nightschool.ledger import Ledger, StepRow, buckets


def fill(ledger: Ledger, rows: Iterable[StepRow]) -> None:
    """Write rows in one transaction, and roll them up once."""
    database = ledger._database
    with ledger.transaction():
        database.write_many(
            "INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (one.step, one.entry, one.loss, one.learning_rate, one.grad_norm, one.tokens, one.label_tokens,
                 one.seconds, one.flags)
                for one in rows
            ),
        )  # fmt: skip
        buckets.make_all(database)


def row(step: int, loss: float = 2.0, tokens: int = 100, seconds: float = 0.25, norm: float = 0.5) -> StepRow:
    """A step."""
    return StepRow(step, 0, loss, 1e-4, norm, tokens, 80, seconds)


def fill_with(ledger: Ledger, steps: int, spike: int, tokens: int = 100) -> None:
    """Write steps with a loss of 2, but for one of 99, and roll them up, in SQL: a million in a few seconds.

    All sums are of numbers that floats hold exactly, so the buckets are what `buckets.make_all` makes; a test compares.
    """
    database = ledger._database
    with ledger.transaction():
        database.write(
            "WITH RECURSIVE n(step) AS (SELECT 1 UNION ALL SELECT step + 1 FROM n WHERE step < ?) INSERT INTO steps "
            "SELECT step, 0, iif(step = ?, 99.0, 2.0), 0.0001, 0.5, ?, 80, 0.25, '' FROM n",
            (steps, spike, tokens),
        )
        for level in buckets.SPANS:
            database.write(
                "INSERT INTO step_buckets SELECT ?, step / ?, count(*), 0, min(loss), max(loss), sum(loss), min(step), "
                "max(step), sum(tokens), sum(250000), count(*), 0.5, sum(grad_norm), 0.0001 FROM steps GROUP BY 2",
                (level, level),
            )
