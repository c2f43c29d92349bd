"""Files through the real intake (dropped, archived, prepared) and through `preview`, and what came out of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from nightschool import durable
from nightschool.intake import worker
from nightschool.intake.prepared import PreparedReader, read_meta
from nightschool.intake.preview import Preview, preview
from nightschool.intake.tools import Tools
from nightschool.intake.worker import Worker

from .workspaces import TODAY, Workspace

Sequence = tuple[list[int], list[int], list[int], list[int]]
"""Tokens, mask, lengths of the parts, numbers of their rows."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file. `sequences` and `meta` are empty where it was set aside; `kept` are the bytes that are."""

    state: str
    reason: str | None
    kept: bytes
    bad: list[dict[str, Any]]
    sequences: list[Sequence]
    meta: Mapping[str, Any]
    digest: str | None
    rows_good: int | None
    rows_bad: int | None


class _NoWaiting(durable.Effects):
    """A disk that is never waited for: no machine dies in these tests."""

    def sync(self, descriptor: int) -> None:
        """Leave it to the kernel."""


@contextmanager
def quick() -> Iterator[None]:
    """Let many files be prepared one after the other, without waiting for the disk."""
    with mock.patch.object(worker, "AHEAD", 10_000), durable.use(_NoWaiting()):
        yield


class Intake:
    """A workspace and its tokenizer, through which files are put."""

    def __init__(self, root: Path, model: Path, **data: Any) -> None:
        self.place = Workspace(root, model, **data)
        self.tools = Tools(self.place.settings)
        self._worker: Worker | None = None

    def restart(self) -> None:
        """The worker's process ends, and another begins."""
        self._worker = None

    def work(self) -> None:
        """Let a worker do all there is to do."""
        if self._worker is None:
            self._worker = self.place.worker()
            self._worker._tools = self.tools
        while self._worker.step() is not None:
            pass

    def take(self, name: str, data: bytes, **options: Any) -> Outcome:
        """Drop a file, let it be taken and prepared, and say what became of it."""
        number = self.place.drop(name, data, again=True, **options)
        self.work()
        return self.outcome(number)

    def outcome(self, number: int) -> Outcome:
        """What became of a file."""
        root = self.place.layout.root
        row = self.place.get(number)
        archived = root / str(row.archive)
        bad = self.place.layout.rejected / f"{row.name}.bad-rows.jsonl"
        sequences, meta = [], {}
        if row.state == "ready":
            folder = self.place.layout.prepared / str(row.prepared)
            meta = read_meta(folder)
            assert not durable.check(folder)
            with PreparedReader(folder) as reader:
                assert reader.digest() == row.data_digest
                sequences = [tuple(part.tolist() for part in reader.sequence(i)) for i in range(len(reader))]
        lines = bad.read_text("utf-8").split("\n")[:-1] if bad.exists() else []
        return Outcome(
            row.state, row.reason, archived.read_bytes(), [json.loads(line) for line in lines], sequences, meta,
            row.data_digest, row.rows_good, row.rows_bad,
        )  # fmt: skip

    def preview(self, name: str, data: bytes, **options: Any) -> Preview:
        """What `preview` says of a file that lies somewhere else."""
        path = self.place.layout.root / "looked-at"
        path.write_bytes(data)
        return preview(path, name, self.tools, self.tools.recipe(TODAY, options), batch=2)
