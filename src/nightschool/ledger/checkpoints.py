"""What was saved, and what became of it. The checkpoint folders themselves are the truth; these rows follow them."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal, get_args

from nightschool.ledger.database import PAGE, Database, page_size

State = Literal["published", "retired", "damaged", "undone"]

SCHEMA = (
    """CREATE TABLE checkpoints (
        step INTEGER NOT NULL, generation INTEGER NOT NULL, lineage TEXT NOT NULL, path TEXT NOT NULL,
        bytes_adapter INTEGER NOT NULL, bytes_optimizer INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT,
        written_at TEXT NOT NULL, seconds REAL NOT NULL, stalled_seconds REAL NOT NULL,
        PRIMARY KEY (step, generation))""",
    "CREATE INDEX checkpoints_state ON checkpoints (state, generation, step)",
    "CREATE INDEX checkpoints_order ON checkpoints (generation, step)",
)

_COLUMNS = (
    "step, generation, lineage, path, bytes_adapter, bytes_optimizer, state, reason, written_at, seconds, "
    "stalled_seconds"
)


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One saved state.

    `path` is relative to the workspace. `seconds` is how long the save took, `stalled_seconds` how long training
    stood still for it. `written_at` is UTC ISO 8601.
    """

    step: int
    generation: int
    lineage: str
    path: str
    bytes_adapter: int
    bytes_optimizer: int
    state: State
    reason: str | None
    written_at: str
    seconds: float
    stalled_seconds: float


class Checkpoints:
    """The table `checkpoints`, one row per step and generation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def publish(
        self,
        step: int,
        generation: int,
        lineage: str,
        path: str,
        bytes_adapter: int,
        bytes_optimizer: int,
        seconds: float = 0.0,
        stalled_seconds: float = 0.0,
    ) -> None:
        """Record a checkpoint that is whole and in place. Recording it again, as a repair does, replaces the row."""
        row = CheckpointRow(
            step,
            generation,
            lineage,
            path,
            bytes_adapter,
            bytes_optimizer,
            "published",
            None,
            self._database.now(),
            seconds,
            stalled_seconds,
        )
        self._database.write(
            f"INSERT OR REPLACE INTO checkpoints ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(row)
        )

    def retire(
        self,
        step: int,
        reason: str,
        *,
        state: State = "retired",
        path: str | None = None,
        generation: int | None = None,
    ) -> int:
        """Take the published checkpoint of `step` out of use and say why; the number of rows that were changed.

        `state` tells what became of it, `path` where it is now if it was moved. Only one folder can have the name of
        a step, so `generation` is only needed where rows of several generations still say `published`.
        """
        if state not in get_args(State) or state == "published":
            raise ValueError(f"a checkpoint cannot be retired to {state!r}")
        return self._database.write(
            "UPDATE checkpoints SET state = ?, reason = ?, path = coalesce(?, path) "
            "WHERE step = ? AND state = 'published' AND generation = coalesce(?, generation)",
            (state, reason, path, step, generation),
        ).rowcount

    def listing(self, state: State | None = None, limit: int = PAGE) -> list[CheckpointRow]:
        """The newest `limit` checkpoints, of one state or of all, oldest of them first."""
        where = "" if state is None else "WHERE state = ?"
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM checkpoints {where} ORDER BY generation DESC, step DESC LIMIT ?",
            (page_size(limit),) if state is None else (state, page_size(limit)),
        )
        return [CheckpointRow(*row) for row in reversed(rows)]

    def newest_bytes(self) -> int | None:
        """Size of the newest published checkpoint: the next will be as large. None before the first."""
        row = self.newest()
        return row.bytes_adapter + row.bytes_optimizer if row else None

    def newest(self) -> CheckpointRow | None:
        """The published checkpoint with the highest step of the highest generation, or None."""
        found = self.listing("published", limit=1)
        return found[0] if found else None
