"""A machine in the middle of its work, as a view."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from nightschool.hardware import Hardware
from nightschool.status import Status
from nightschool.view.model import View, Waiting

AT = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)

STATUS = Status(
    state="training", step=12_345, lineage="ab" * 32, current_file="monday.jsonl", queued=30, learned=12, rejected=1,
    loss=1.5321, learning_rate=1e-4, tokens_per_second=4312.4,
    last_checkpoint={"step": 12_000, "path": "c", "written_at": "2026-11-24T22:26:00+00:00"},
    last_snapshot={"name": "2026-11-24", "step": 9000, "path": "s", "taken_at": "2026-11-24T03:00:00+00:00"},
    reason="monday.jsonl", since="2026-11-24T21:04:00+00:00", pid=1, paused=False, duplicates=0, set_aside=2,
    workspace="/w", steps_queued=4300, seconds_left=19_000.0, prepared_bytes=1, catching_up=None,
    metrics=None, page=None,
    settings_problem=None,
)  # fmt: skip

VIEW = View(
    at=AT, status=STATUS, file_step=431, file_steps=1200, file_seconds=7800.0,
    trend=tuple(2.0 - n / 24 for n in range(24)), trend_steps=1536,
    next=(Waiting("tuesday.jsonl", 1200, 5400.0, False), Waiting("notizen-für-später.md", 40, None, True),
          Waiting("again.jsonl", 10, 60.0, False, again=True)),
    hardware=Hardware(2_100_000_000, 17_900_000_000, 25_400_000_000, 312_000_000_000),
    lines=tuple(f"2026-11-24 22:{n:02}:11  Line {n} of the log." for n in range(30)),
)  # fmt: skip


def view(status: dict[str, Any] | None = None, **changes: Any) -> View:
    """The view with some values changed."""
    return replace(VIEW, status=replace(STATUS, **(status or {})), **changes)
