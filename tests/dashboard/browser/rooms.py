"""A machine that was never run, behind the page's own shapes, for the views Queue, Files, Checkpoints and Health.

It answers each act as the real one does, remembers what was asked, and takes on what was changed. Names, reasons and
log lines hold markup: a page that obeyed them would be caught.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from nightschool.dashboard import shapes

HOSTILE = "<img src=x onerror=window.stolen=1><script>window.stolen=1</script>.jsonl"
MOVABLE = {"arrived", "archived", "ready", "skipped"}
STEP_SECONDS = 4.8


def ago(**times: float) -> str:
    """So long ago, as the API tells times."""
    return (datetime.now(UTC) - timedelta(**times)).isoformat(timespec="seconds")


def waiting(id: int, name: str, state: str = "ready", **values: Any) -> shapes.Waiting:
    """A file of the queue."""
    known = {"priority": "normal", "bytes": 1_000_000, "rows": 1200, "steps": 300, "estimated": False, **values}
    known.setdefault("seconds", None if known["steps"] is None else known["steps"] * STEP_SECONDS)
    return shapes.Waiting(id=id, name=name, state=state, **known)


def file(id: int, name: str, state: str = "learned", **values: Any) -> shapes.File:
    """A file that was dropped."""
    known: dict[str, Any] = {
        "reason": None,
        "bytes": 1_900_000 + 7_000 * id,
        "rows": 2210 + id,
        "rows_bad": 0,
        "tokens": 912_000,
        "label_tokens": 503_000,
        "priority": "normal",
        "duplicate_of": None,
        "arrived_at": ago(hours=7 * (40 - id % 40)),
        "learned_at": ago(hours=7 * (40 - id % 40) - 3),
        "holdout_rows": 40,
        "holdout_before": 2.314,
        "holdout_after": 1.871,
        **values,
    }
    return shapes.File(id=id, name=name, state=state, **known)


@dataclass
class World:
    """What the machine holds; tests change it, and look at `asked`: method, path, body of each act."""

    queue: list[shapes.Waiting] = field(default_factory=list)
    files: list[shapes.File] = field(default_factory=list)
    checkpoints: list[shapes.Checkpoint] = field(default_factory=list)
    snapshots: list[shapes.Snapshot] = field(default_factory=list)
    findings: list[shapes.Finding] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    uploads: dict[str, shapes.Upload] = field(default_factory=dict)
    preview: shapes.Preview | None = None
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    jobs: dict[str, shapes.Job] = field(default_factory=dict)
    patient: bool = False
    """Whether a job goes on until it is given up, or a test ends it; otherwise it has ended at the next look."""
    silent: bool = False
    """Whether the stream tells nothing of jobs, so that only who asks knows."""
    paused: bool = False
    running: bool = True
    training: str | None = "support-chats-2026-11.jsonl"
    undo: bool = True
    digest: str = "d1"
    broken: str = ""
    slow: float = 0.0
    cut_off: int = 0
    refused: set[int] = field(default_factory=set)
    """Files of the queue with which nothing can be done, though they are shown: just now they began, say."""

    def did(self, path: str) -> list[Any]:
        """The bodies with which that was asked for."""
        return [body for _, asked, body in self.asked if asked == path]


def full() -> World:
    """A machine in the middle of its work."""
    world = World(preview=preview())
    world.queue = [
        waiting(15, "support-chats-2026-11.jsonl", "training", steps=181, rows=6400),
        waiting(31, "corrections.jsonl", "again", steps=88, rows=2210),
        waiting(40, "harbour interviews, part two.jsonl", priority="high"),
        waiting(41, HOSTILE, steps=2410, rows=19_280),
        waiting(42, "wiki-fr.parquet", "archived", rows=None, steps=1600, estimated=True),
        waiting(43, "mails-2026-11-28.jsonl", "skipped", steps=36),
        waiting(44, "notes.txt", "arrived", priority="low", rows=None, steps=None),
    ]
    names = ["support-chats", "pydoc-topics", "contracts", "mails", "interviews", "wiki-de", "letters", "manuals"]
    world.files = [file(n, f"{names[n % 8]}-2026-{9 + n % 3:02}.jsonl") for n in range(1, 121)]
    world.files[6:9] = [
        file(
            7,
            HOSTILE,
            "rejected",
            reason=f"no row of {HOSTILE} could be read: line 1 is no JSON",
            rows=0,
            rows_bad=12,
            tokens=None,
            label_tokens=None,
            learned_at=None,
            holdout_rows=None,
            holdout_before=None,
            holdout_after=None,
        ),
        file(
            8,
            "mails-copy.jsonl",
            "duplicate",
            reason="the same bytes as mails-2026-09.jsonl (file 3)",
            duplicate_of=3,
            rows=None,
            tokens=None,
            learned_at=None,
            holdout_rows=None,
            holdout_before=None,
            holdout_after=None,
        ),
        file(
            9,
            "old-forum.jsonl",
            "set_aside",
            reason="shelved after 120 of its 400 steps",
            holdout_after=None,
            learned_at=None,
        ),
    ]
    world.files.append(
        file(
            121, "support-chats-2026-11.jsonl", "training", learned_at=None, holdout_after=None, arrived_at=ago(hours=3)
        )
    )
    world.files.append(
        file(
            122,
            "mails-2026-11-28.jsonl",
            "ready",
            learned_at=None,
            holdout_rows=None,
            holdout_before=None,
            holdout_after=None,
            arrived_at=ago(minutes=30),
        )
    )
    world.checkpoints = [
        checkpoint(45_000, ago(minutes=41), own_bytes=0, shared_bytes=312_000_000, verified_at=ago(minutes=40)),
        checkpoint(43_750, ago(hours=3), stalled=0.8),
        checkpoint(
            42_500, ago(hours=5), state="damaged", reason="optimizer.pt has another hash than its manifest says"
        ),
        checkpoint(41_250, ago(hours=29), state="undone", reason="rollback to 2026-11-24", generation=1),
        checkpoint(40_000, ago(hours=31), state="retired", there=False, own_bytes=None, shared_bytes=None),
    ]
    world.snapshots = [
        snapshot("before-the-letters", 45_000, ago(minutes=40), kind="by hand", own_bytes=0, why="taken by hand"),
        snapshot("2026-11-27", 44_100, ago(hours=20), why="the last of its day", verified_at=ago(hours=19)),
        snapshot("2026-11-26", 41_900, ago(hours=44), problem="adapter_model.safetensors is 12 bytes short"),
        snapshot("2026-11-20", 33_000, ago(days=7), keep=False, why="newer ones of its week are kept"),
        snapshot("2026-10-31", 21_000, ago(days=27), why="the last of its month"),
    ]
    world.findings = [
        shapes.Finding(name="disk", verdict="good", text="412 GB of room.", advice=None),
        shapes.Finding(name="trainer", verdict="good", text="Trains since 22:04, one restart in a week.", advice=None),
        shapes.Finding(
            name="second place",
            verdict="watch",
            text="It was last reached 3 days ago.",
            advice="See whether /mnt/backup is mounted.",
        ),
        shapes.Finding(
            name="saved states",
            verdict="trouble",
            text="checkpoint-42500 is damaged.",
            advice="The others are whole. If it happens again, test the disk: `nightschool verify --deep` reads all.",
        ),
    ]
    world.lines = [
        f"2026-11-27 {n // 60 % 24:02}:{n % 60:02}:11  step {40_000 + n:,}  loss 1.{n % 90 + 10}  2,151 tokens/s"
        for n in range(480)
    ]
    world.lines[-3] = f"2026-11-27 22:04:11  error: {HOSTILE}: line 1 is no JSON"
    return world


def checkpoint(step: int, at: str, **values: Any) -> shapes.Checkpoint:
    """A checkpoint that is there."""
    known: dict[str, Any] = {
        "generation": 2,
        "state": "published",
        "reason": None,
        "there": True,
        "own_bytes": 312_000_000,
        "shared_bytes": 0,
        "seconds": 3.4,
        "stalled": 0.0,
        "verified_at": None,
        **values,
    }
    return shapes.Checkpoint(step=step, written_at=at, **known)


def snapshot(name: str, step: int, at: str, **values: Any) -> shapes.Snapshot:
    """A snapshot that is whole."""
    known: dict[str, Any] = {
        "kind": "nightly",
        "generation": 2,
        "file": "corrections.jsonl",
        "own_bytes": 296_000_000,
        "shared_bytes": 16_000_000,
        "problem": None,
        "keep": True,
        "why": "",
        "verified_at": None,
        **values,
    }
    return shapes.Snapshot(name=name, step=step, taken_at=at, **known)


def preview(**values: Any) -> shapes.Preview:
    """What would become of a file."""
    ask = "<|user|>\nWhere does the <b>ferry</b> leave from?\n<|assistant|>\n"
    known: dict[str, Any] = {
        "name": "letters.jsonl",
        "container": "JSON lines",
        "shape": "chat",
        "complete": False,
        "rows_good": 198,
        "rows_bad": 2,
        "rows_held_out": 4,
        "rows_truncated": 1,
        "rows_split": 0,
        "tokens": 81_230,
        "tokens_cut": 320,
        "label_tokens": 40_112,
        "sequences": 52,
        "steps": 7,
        "repairs": {"a byte order mark was taken off": 1},
        "lengths": [
            (16, 31, 4),
            (32, 63, 21),
            (64, 127, 75),
            (128, 255, 66),
            (256, 511, 24),
            (512, 1023, 7),
            (1024, 2047, 1),
        ],
        "bad_rows": [
            shapes.BadRow(
                line=17,
                reason="it is no JSON: a comma is missing",
                row='{"messages": [<script>window.stolen=1</script>',
            ),
            shapes.BadRow(line=90, reason="`messages` is empty", row='{"messages": []}'),
        ],
        "warnings": ["2 rows have the same text."],
        "problem": None,
        "examples": [
            [
                shapes.Part(
                    row=1,
                    tokens=31,
                    learned=12,
                    pieces=[
                        shapes.Piece(text=ask, learned=False),
                        shapes.Piece(text="From the old pier, every hour until ten.<|end|>", learned=True),
                    ],
                ),
                shapes.Part(
                    row=2,
                    tokens=420,
                    learned=380,
                    pieces=[
                        shapes.Piece(text="<|user|>\nTell me about the harbour.\n<|assistant|>\n", learned=False),
                        shapes.Piece(text="The harbour was built in three parts. " * 30, learned=True),
                    ],
                ),
            ]
        ],
        **values,
    }
    return shapes.Preview(**known)


def plain(body: Any) -> Any:
    """A body as the browser sent it, without what was not said."""
    return msgspec.to_builtins(body) if isinstance(body, Struct) else body
