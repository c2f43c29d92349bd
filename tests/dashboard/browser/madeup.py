"""A run that was never trained, behind the page's own shapes: weeks of steps, files with odd names, accidents.

The browser's tests look at the page over this, since a real run of weeks cannot be had; that the real endpoints give
the same shapes is tested beside them, and `test_real.py` opens the page over a real workspace.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Call, Endpoint, NotThere

NAMES = (
    "support-chats-2026-09.jsonl", "pydoc-topics.txt", "<script>window.stolen=1</script>.jsonl", "contracts.parquet",
    "mails-2026-10-01.jsonl", "mails-2026-10-02.jsonl", "mails-2026-10-03.jsonl", "a.txt", "b.txt", "c.txt",
    "support-chats-2026-10.jsonl", "interviews with the people of the harbour, second part.jsonl", "wiki-de.parquet",
    "corrections.jsonl", "support-chats-2026-11.jsonl",
)  # fmt: skip
LENGTHS = (6200, 2400, 3100, 7400, 900, 850, 1100, 60, 45, 80, 5600, 4300, 8200, 700, 6400)
TOKENS = 2048 * 8
SECONDS = 7.6
AT = datetime(2026, 11, 27, 22, 46, tzinfo=UTC)


@dataclass
class Run:
    """What the machine has done up to `done`, of the files in NAMES; tests change it while pages look."""

    done: int = 0
    bad: frozenset[int] = frozenset()
    state: str = "training"
    reason: str = "learning support-chats-2026-11.jsonl"
    empty: bool = False
    asked: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    smooth: list[float] = field(default_factory=list)

    def grow(self, to: int) -> None:
        """Train up to that step. The same steps are the same numbers in each run."""
        for step in range(len(self.losses) + 1, to + 1):
            file, into = _file_of(step)
            ease = 0.16 * math.sin(file * 2.1) + 0.12 * math.exp(-into / 500)
            level = 1.62 + 1.5 * math.exp(-step / 5200) + 1.2 * math.exp(-step / 300) + ease
            noise = random.Random(step)
            self.losses.append(max(0.05, level + noise.gauss(0, 0.11)))
            before = self.smooth[-1] if self.smooth else self.losses[-1]
            self.smooth.append(before + (self.losses[-1] - before) * 0.03)
            spike = 3 if noise.random() > 0.9995 else 0
            self.norms.append(0.42 + 0.5 * math.exp(-step / 3000) + abs(noise.gauss(0, 0.12)) + spike)
        self.done = to

    def copy(self) -> Run:
        """Another one, that may be changed."""
        lists = {name: list(getattr(self, name)) for name in ("asked", "losses", "norms", "smooth")}
        return replace(self, **lists)


def whole() -> Run:
    """Six weeks of it."""
    run = Run()
    run.bad = frozenset({9_411, 9_412, 30_200})
    run.grow(sum(LENGTHS) - 1870)
    return run


def nothing() -> Run:
    """A workspace in which nothing was dropped yet."""
    return Run(state="idle", reason="drop a data file in inbox/", empty=True)


def now(run: Run) -> shapes.Now:
    """What the machine does."""
    file, into = _file_of(max(1, run.done))
    steps = LENGTHS[file]
    busy = run.state == "training"
    path, saved = "current_model/checkpoint-45000", (AT - timedelta(minutes=41)).isoformat()
    checkpoint = {"step": run.done // 1250 * 1250, "path": path, "written_at": saved}
    night = "2026-11-27T02:00:11+00:00"
    snapshot = {"name": "2026-11-27", "step": run.done - 3300, "path": "snapshots/2026-11-27", "taken_at": night}
    status = {
        "state": run.state, "step": run.done, "lineage": "8c1f" * 16,
        "current_file": None if run.empty else NAMES[file], "queued": 0 if run.empty else 3,
        "learned": 0 if run.empty else file, "rejected": 0, "loss": _loss(run, run.done),
        "learning_rate": 1e-4 if run.done else None, "tokens_per_second": 2153.4 if busy else None,
        "last_checkpoint": None if run.empty else checkpoint, "last_snapshot": None if run.empty else snapshot,
        "reason": run.reason, "since": (AT - timedelta(minutes=42)).isoformat(), "pid": 4242, "paused": False,
        "duplicates": 0, "set_aside": 0, "workspace": "/home/ada/my-model", "steps_queued": None if run.empty else 5210,
        "seconds_left": None if run.empty else 5210 * SECONDS + (steps - into) * SECONDS, "prepared_bytes": 5_000_000,
        "catching_up": None, "settings_problem": None, "metrics": None,
    }  # fmt: skip
    return shapes.Now(
        at=AT.isoformat(), utc_offset=3600, version="0.4.0", status=status, file_step=0 if run.empty else into,
        file_steps=0 if run.empty else steps, file_seconds=(steps - into) * SECONDS if busy else None, generation=2,
        event=0 if run.empty else 96, empty=run.empty,
    )  # fmt: skip


def curve(run: Run, first: int, last: int, points: int) -> shapes.Curve:
    """The curve from `first` to `last` in at most `points`."""
    first, last = max(1, first), min(last, run.done)
    span = 1
    while (last - first) // span + 2 > points > 1 and (span > 1 or last - first + 1 > points):
        span *= 2
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for start in range(first // span * span, last + 1, span):
        steps = range(max(1, start), min(start + span, run.done + 1))
        good = [run.losses[n - 1] for n in steps if n not in run.bad]
        norms = [run.norms[n - 1] for n in steps]
        mean = math.fsum(good) / len(good) if good else None
        end = steps[-1]
        point = {
            "step": end, "tokens": end * TOKENS, "hours": end * SECONDS / 3600, "loss": mean,
            "loss_min": min(good, default=None), "loss_max": max(good, default=None), "smooth": run.smooth[end - 1],
            "bad": len(steps) - len(good), "learning_rate": 1e-4 * min(1, end / 400),
            "grad_norm": sum(norms) / len(norms), "grad_norm_max": max(norms),
            "tokens_per_second": 2150 + 40 * math.sin(end / 900) - 600 * (end % 9000 < span),
        }  # fmt: skip
        for name in COLUMNS:
            columns[name].append(point[name])
    return shapes.Curve(first=first, last=last, span=span, generation=2, steps_done=run.done, **columns)


def marks(run: Run) -> shapes.Marks:
    """Files and what happened between."""
    files, start = [], 1
    for number, (name, steps) in enumerate(zip(NAMES, LENGTHS, strict=True)):
        if start <= run.done:
            files.append(
                shapes.FileMark(first=start, last=min(start + steps - 1, run.done), name=name, ids=[number + 1])
            )
        start += steps
    found = [
        _mark("resumed", 5_000, "Training went on from checkpoint 5,000 after the power had failed."),
        _mark("snapshot", 8_750, "Snapshot 2026-10-20"), _mark("snapshot", 16_250, "Snapshot 2026-10-27"),
        _mark("cut", 18_980, "Rolled back from step 21,500 to 18,980; bad-mails.jsonl was shelved."),
        _mark("numerics", 22_500, "From here on another torch: weights agree to rounding."),
        _mark("snapshot", 27_500, "Snapshot 2026-11-10"),
        _mark("resumed", 31_250, "Training went on from checkpoint 31,250."),
        _mark("snapshot", 42_300, "Snapshot 2026-11-27"),
    ]  # fmt: skip
    return shapes.Marks(files=files, files_left_out=0, marks=[m for m in found if m.step <= run.done], marks_left_out=0)


def events(run: Run) -> list[shapes.Event]:
    """What happened lately."""
    if run.empty:
        return []
    told = [
        (2460, "file-learned", "Learned corrections.jsonl."),
        (2455, "holdout", "Held-out loss of corrections.jsonl: 2.31 before, 1.87 after."),
        (2440, "began", "Began support-chats-2026-11.jsonl."),
        (1210, "snapshot", "Took snapshot 2026-11-27."),
        (640, "accident", "The trainer ended by itself: out of memory. It is started again."),
        (638, "resumed", "Training went on from checkpoint 43,750."),
        (300, "file-archived", "Took in <b>harbour</b>.jsonl, 18 MB."),
        (299, "file-ready", "Prepared <b>harbour</b>.jsonl: 8,120 rows."),
        (41, "saved", "Saved checkpoint 45,000."),
    ]
    return [
        shapes.Event(id=88 + n, at=(AT - timedelta(minutes=m)).isoformat(), kind=kind, text=text, fields={})
        for n, (m, kind, text) in enumerate(told)
    ]


COLUMNS = (
    "step", "tokens", "hours", "loss", "loss_min", "loss_max", "smooth", "bad", "learning_rate", "grad_norm",
    "grad_norm_max", "tokens_per_second",
)  # fmt: skip


class EventsQuery(Struct, kw_only=True):
    """Events after this number."""

    after: int = 0
    limit: int = 200


class MarksQuery(Struct, kw_only=True):
    """Marks of these steps."""

    first: int = 0
    last: int | None = None


def endpoints(run: Callable[[], Run]) -> tuple[Endpoint, ...]:
    """Answers for the overview. Paths and shapes are the real ones."""

    async def answer_now(call: Call) -> shapes.Now:
        return now(run())

    async def answer_curve(call: Call) -> shapes.Curve:
        run().asked.append(call.request.url.query)
        last = run().done if call.query.last is None else call.query.last
        return curve(run(), call.query.first, last, call.query.points)

    async def answer_marks(call: Call) -> shapes.Marks:
        return marks(run())

    async def answer_events(call: Call) -> shapes.Events:
        return shapes.Events(events=[e for e in events(run()) if e.id > call.query.after], next=None)

    async def answer_queue(call: Call) -> shapes.Queue:
        names = [] if run().empty else ["<b>harbour</b>.jsonl", "mails-2026-11-28.jsonl", "wiki-fr.parquet"]
        lengths = (1200, 2410, 1600)
        waiting = [
            shapes.Waiting(
                id=40 + n, name=name, state="ready", priority="normal", bytes=18_000_000, rows=8120, steps=lengths[n],
                seconds=lengths[n] * SECONDS, estimated=n == 2,
            )
            for n, name in enumerate(names)
        ]  # fmt: skip
        seconds = sum(one.seconds or 0 for one in waiting)
        shown = waiting[: call.query.limit]
        return shapes.Queue(files=shown, waiting=len(waiting), steps=5210, seconds=seconds, estimated=True)

    async def answer_files(call: Call) -> shapes.Files:
        learned = [("corrections.jsonl", 2.31, 1.87), ("wiki-de.parquet", 2.62, 2.06), (NAMES[11], None, None)]
        files = [
            shapes.File(
                id=14 - n, name=name, state="learned", reason=None, bytes=1_900_000, rows=2210, rows_bad=0,
                tokens=900_000, label_tokens=500_000, priority="normal", duplicate_of=None,
                arrived_at="2026-11-25T10:00:00+00:00", learned_at=(AT - timedelta(hours=41 * (n + 1))).isoformat(),
                holdout_rows=40, holdout_before=before, holdout_after=after,
            )
            for n, (name, before, after) in enumerate(learned)
            if not run().empty
        ]  # fmt: skip
        return shapes.Files(files=files, next=None, counts={"learned": len(files)})

    async def answer_health(call: Call) -> shapes.Health:
        good = shapes.Finding(name="disk", verdict="good", text="412 GB of room.", advice=None)
        watch = shapes.Finding(
            name="second place", verdict="watch", text="The second place was last reached 3 days ago.",
            advice="Look whether /mnt/backup is mounted.",
        )  # fmt: skip
        room = shapes.Amount(used=588_000_000_000, total=1_000_000_000_000)
        return shapes.Health(
            findings=[good] if run().empty else [good, watch], disk=room, gpu=room, memory=room,
            trainer_bytes=9_000_000_000, restarts=1, hours="at any time", notify="nobody", last_trouble=[], settings=[],
        )  # fmt: skip

    async def answer_job(call: Call) -> shapes.Job:
        raise NotThere("There is no such job.")

    return (
        Endpoint("GET", "/api/now", "", answer_now, shapes.Now),
        Endpoint("GET", "/api/curve", "", answer_curve, shapes.Curve, query=shapes.CurveQuery),
        Endpoint("GET", "/api/marks", "", answer_marks, shapes.Marks, query=MarksQuery),
        Endpoint("GET", "/api/events", "", answer_events, shapes.Events, query=EventsQuery),
        Endpoint("GET", "/api/queue", "", answer_queue, shapes.Queue, query=shapes.QueueQuery),
        Endpoint("GET", "/api/files", "", answer_files, shapes.Files, query=shapes.FilesQuery),
        Endpoint("GET", "/api/health", "", answer_health, shapes.Health),
        Endpoint("GET", "/api/jobs/{id}", "", answer_job, shapes.Job),
    )


def _file_of(step: int) -> tuple[int, int]:
    for number, steps in enumerate(LENGTHS):
        if step <= steps:
            return number, step
        step -= steps
    return len(LENGTHS) - 1, LENGTHS[-1]


def _loss(run: Run, step: int) -> float | None:
    return run.losses[step - 1] if step and step not in run.bad else None


def _mark(kind: Any, step: int, text: str) -> shapes.Mark:
    return shapes.Mark(
        kind=kind, step=step, at=(AT - timedelta(seconds=SECONDS * (45_000 - step))).isoformat(), text=text
    )
