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
from nightschool.intake.preview import EXAMPLES, Part, Preview, preview
from nightschool.intake.tools import Tools
from nightschool.intake.worker import Worker

from .corpus import Case, by_hand
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

    def sync(self, fd: int) -> None:
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


def outcomes(intake: Intake, cases: list[Case]) -> dict[str, tuple[Outcome, Preview]]:
    """What became of files, all dropped before the first is taken, and what `preview` said."""
    numbers = {case.name: intake.place.drop(case.name, case.data, again=True, **_options(case)) for case in cases}
    intake.work()
    return {
        case.name: (intake.outcome(numbers[case.name]), intake.preview(case.name, case.data, **_options(case)))
        for case in cases
    }


def _options(case: Case) -> dict[str, Any]:
    return {"columns": case.columns} if case.columns else {}


def check(case: Case, outcome: Outcome, seen: Preview) -> None:
    """Everything that became of a file is what was written down, and `preview` said so before."""
    sequences = []
    for number, marked in case.rows:
        ids, train = by_hand(marked)
        sequences.append((ids, train, [len(ids)], [number - 1]))
    if case.problem is not None:
        sequences = []
    bad = [(row["line"], row["reason"]) for row in outcome.bad]
    assert bad == list(case.bad)
    assert outcome.kept == case.data
    assert (outcome.state, outcome.reason) == ("ready" if case.problem is None else "rejected", case.problem)
    assert outcome.sequences == sequences
    assert (seen.container, seen.problem) == (case.container, case.problem)
    assert [(row["line"], row["reason"]) for row in seen.bad_rows] == bad
    assert seen.bad_rows == outcome.bad
    if case.problem is not None:
        assert outcome.digest is None
        return
    counts = outcome.meta["counts"]
    good = len({number for number, _ in case.rows})
    wanted = {
        "rows_good": good, "rows_bad": len(bad), "tokens": sum(len(s[0]) for s in sequences),
        "label_tokens": sum(sum(s[1]) for s in sequences), "sequences": len(sequences), "rows_held_out": 0,
        "repairs": {}, "rows_truncated": 0, "rows_split": 0, "tokens_cut": 0, "unlearned_sequences": 0, **case.counts,
    }  # fmt: skip
    assert counts == wanted
    assert (outcome.meta["container"], outcome.meta["shape"]) == (case.container, case.shape)
    assert (outcome.rows_good, outcome.rows_bad) == (good, len(bad))
    said = {key: getattr(seen, key) for key in wanted if key != "unlearned_sequences"}
    assert said == {key: value for key, value in counts.items() if key != "unlearned_sequences"}
    assert (seen.shape, seen.complete) == (case.shape, True)
    shown = [(part.row, marked_again(part)) for sequence in seen.examples for part in sequence]
    assert shown == list(case.rows[:EXAMPLES])


def marked_again(part: Part) -> str:
    """A row as `preview` shows it, written as the corpus writes it."""
    return "".join(f"⟦{piece.text}⟧" if piece.learned else piece.text for piece in part.pieces)
