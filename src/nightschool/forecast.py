"""How many steps what waits will take, and how long: from what was prepared, what was learned, and the measured speed.

What is prepared is known. What is not is estimated from its bytes, by what files of the same ending gave per byte, or
all files where there were none of that ending. Time is tokens over tokens per second of the latest steps.
Imports next to nothing, and looks at a bounded number of rows for any length of the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from nightschool.ledger import FileRow, Ledger
from nightschool.ledger.files import TAKEN_OUT, WAITING_STATES
from nightschool.queueing import PRIORITIES
from nightschool.workspace import Layout

RECENT = 256
"""Steps that the speed is taken from."""
SAMPLES = 200
"""Files of each state that the yield of a byte is taken from."""
ENDINGS = 3
"""Endings that are told apart, the most frequent ones."""
PACKED = (".gz", ".zst")
CALLED = {number: word for word, number in PRIORITIES.items()}
LEAVING = "leaving"
"""Shown as the state of a file that was taken out of the queue and whose bytes are not archived yet."""


@dataclass(frozen=True)
class Yield:
    """What a byte of a data file becomes, on average."""

    tokens: float
    sequences: float


@dataclass(frozen=True)
class Rates:
    """What is known to estimate with.

    Attributes:
        batch, epochs, gather: training.train_batch_size, training.epochs and inbox.gather_rows; the batch is None until
            the machine has run for the first time.
        speed: tokens per second; None before the first step.
        step_seconds: duration of a step; None before the first.
        by_ending: yields by the ending of the name; "" is for all files.
    """

    batch: int | None
    epochs: int
    gather: int
    speed: float | None
    step_seconds: float | None
    by_ending: Mapping[str, Yield]

    def yield_of(self, name: str) -> Yield | None:
        """What a byte of a file of this name is taken to give; None while nothing was prepared."""
        return self.by_ending.get(ending_of(name)) or self.by_ending.get("")


@dataclass(frozen=True)
class Work:
    """Steps, and seconds on this machine; None where nothing is known. `estimated` where it is not counted."""

    steps: int | None
    seconds: float | None
    estimated: bool


@dataclass(frozen=True)
class Queued:
    """A file that waits, is in training, was `interrupted` for it, or is to be trained once more after a cut (`again`).

    `rows` is None until it is prepared, `steps` are those still to be done.
    """

    id: int
    name: str
    state: str
    priority: str
    bytes: int | None
    rows: int | None
    steps: int | None
    seconds: float | None
    estimated: bool


@dataclass(frozen=True)
class Queue:
    """The first files of the queue, and what all of it comes to, the rest of the file in training included."""

    files: list[Queued]
    waiting: int
    steps: int | None
    seconds: float | None
    estimated: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def ending_of(name: str) -> str:
    """`.jsonl`, or `.jsonl.gz` where it is compressed; in lower case."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes[-2:]]
    return "".join(suffixes if suffixes[-1:] and suffixes[-1] in PACKED else suffixes[-1:])


def read_rates(ledger: Ledger, told: Mapping[str, Any]) -> Rates:
    """What is known now. `told` are the values of the table `machine`."""
    intake, trainer = told.get("intake") or {}, told.get("trainer") or {}
    last = ledger.steps.last()
    recent = [
        row
        for row in (ledger.steps.range(last.step - RECENT + 1, last.step) if last else [])
        if math.isfinite(row.seconds) and row.seconds > 0
    ]
    seconds = sum(row.seconds for row in recent)
    speed = sum(row.tokens for row in recent) / seconds if seconds else trainer.get("tokens_per_second")
    return Rates(
        batch=intake.get("train_batch_size"),
        epochs=int(intake.get("epochs") or 1),
        gather=int(intake.get("gather_rows") or 0),
        speed=speed or None,
        step_seconds=seconds / len(recent) if recent else None,
        by_ending=_yields(ledger.amounts.samples(SAMPLES)),
    )


def _yields(samples: Iterable[tuple[str, int, int, int]]) -> dict[str, Yield]:
    sums: dict[str, list[int]] = {}
    for name, size, tokens, sequences in samples:
        for ending in {"", ending_of(name)}:
            into = sums.setdefault(ending, [0, 0, 0, 0])
            into[:] = [into[0] + 1, into[1] + size, into[2] + tokens, into[3] + sequences]
    most = sorted(sums, key=lambda ending: (ending != "", -sums[ending][0], ending))[: ENDINGS + 1]
    return {ending: Yield(sums[ending][2] / sums[ending][1], sums[ending][3] / sums[ending][1]) for ending in most}


def work_of(row: FileRow, rates: Rates) -> Work:
    """What a waiting file takes by itself."""
    epochs = int(row.options.get("epochs") or rates.epochs)
    if row.state == "ready" and row.sequences is not None:
        return _work(row.sequences, row.tokens or 0, epochs, rates, estimated=False)
    found = rates.yield_of(row.name)
    if found is None or row.bytes is None:
        return Work(None, None, True)
    return _work(max(1, math.ceil(row.bytes * found.sequences)), row.bytes * found.tokens, epochs, rates, True)


def _work(sequences: int, tokens: float, epochs: int, rates: Rates, estimated: bool) -> Work:
    steps = epochs * -(-sequences // rates.batch) if rates.batch else None
    return Work(steps, epochs * tokens / rates.speed if rates.speed else None, estimated)


def _work_waiting(ledger: Ledger, row: FileRow, rates: Rates) -> Work:
    """What a waiting file takes, or the rest of one that was begun."""
    if row.state != "skipped":
        return work_of(row, rates)
    last = ledger.entries.of_file(row.id)[-1]
    if row.id != last.file_ids[0]:
        # Small files that are trained as one have their steps together: they are told with the first.
        return Work(None, None, False)
    left = last.steps_total - last.stop
    return Work(left, left * rates.step_seconds if rates.step_seconds is not None else None, False)


def work_waiting(ledger: Ledger, rates: Rates) -> Work:
    """What all waiting files take, gathered as they will be. Nothing waits: no steps, no time."""
    rests = [_work_waiting(ledger, row, rates) for row in ledger.files.each("skipped")]
    rest = together(*(one for one in rests if one.steps is not None))
    return together(rest, _work_unbegun(ledger, rates))


def _work_unbegun(ledger: Ledger, rates: Rates) -> Work:
    steps, tokens, small, known, estimated = 0, 0.0, 0.0, rates.batch is not None, False
    batch = rates.batch or 1
    for ready in ledger.amounts.ready_for(batch, rates.gather):
        epochs = int(ready.epochs or rates.epochs)
        tokens += epochs * ready.tokens
        small += epochs * ready.sequences
        steps += epochs * ready.steps
    for part in ledger.amounts.to_prepare([ending for ending in rates.by_ending if ending]):
        estimated = True
        found = rates.by_ending.get(part.ending) or rates.by_ending.get("")
        if found is None:
            known = False
            break
        epochs = part.epochs or rates.epochs
        tokens += epochs * part.bytes * found.tokens
        # Each file ends with a step that is not full, half of one on average, unless it is gathered with the next.
        gaps = 0 if rates.gather else part.files * batch / 2
        small += epochs * (part.bytes * found.sequences + gaps)
    if not known and (estimated or steps or small):
        return Work(None, None, True)
    return Work(steps + math.ceil(small / batch), _seconds(tokens, rates), estimated)


def _seconds(tokens: float, rates: Rates) -> float | None:
    if not tokens:
        return 0.0
    return tokens / rates.speed if rates.speed else None


def steps_done(ledger: Ledger) -> int:
    """Optimizer steps done: those recorded, or those with which a run came here, of which few may have been logged."""
    last, root = ledger.steps.last(), ledger.machine.get("root") or {}
    return max(last.step if last else 0, (root.get("adopted") or {}).get("step", 0))


def work_begun(ledger: Ledger, rates: Rates, told: Mapping[str, Any]) -> Work:
    """What is left of the file in training."""
    left = max(0, ledger.entries.steps() - steps_done(ledger))
    if not left:
        return Work(0, 0.0, False)
    trainer = told.get("trainer") or {}
    seconds = trainer.get("seconds_left") if trainer.get("phase") == "training" else None
    if seconds is None and rates.step_seconds is not None:
        seconds = left * rates.step_seconds
    return Work(left, seconds, False)


def together(*parts: Work) -> Work:
    """The sum; None where a part is not known."""
    steps = None if any(part.steps is None for part in parts) else sum(part.steps or 0 for part in parts)
    seconds = None if any(part.seconds is None for part in parts) else sum(part.seconds or 0.0 for part in parts)
    return Work(steps, seconds, any(part.estimated for part in parts))


def read_queue(layout: Layout, limit: int) -> Queue:
    """The queue of a workspace: what is in training, then up to `limit` waiting files in their order.

    Raises:
        WorkspaceError, StorageError: the ledger is not there or cannot be read.
    """
    with Ledger.open(layout.ledger) as ledger:
        return queue_of(ledger, limit)


def queue_of(
    ledger: Ledger,
    limit: int,
    waiting_of: Callable[[Ledger, Rates], Work] = work_waiting,
    most_begun: int | None = None,
) -> Queue:
    """The same from a ledger that is open.

    Args:
        ledger: of the workspace.
        limit: waiting files, at most.
        waiting_of: gives what all waiting files take.
        most_begun: parts of the history that are still to be trained, the first ones, at most; by default all.
    """
    told = ledger.machine.all()
    rates = read_rates(ledger, told)
    counts = ledger.files.counts()
    begun = work_begun(ledger, rates, told)
    files = _begun(ledger, rates, begun, most_begun)
    files += first_waiting(ledger, rates, limit)
    total = together(begun, waiting_of(ledger, rates))
    count = sum(counts[state] for state in WAITING_STATES)
    return Queue(files, count, total.steps, total.seconds, total.estimated)


def _begun(ledger: Ledger, rates: Rates, begun: Work, limit: int | None) -> list[Queued]:
    """What is in training, and behind it what is trained again after a cut, in the order of the curriculum."""
    found: list[Queued] = []
    # One more than is told, to see whether it is the only one.
    unfinished = ledger.entries.unfinished(steps_done(ledger), None if limit is None else limit + 1)
    for entry, left in unfinished[:limit]:
        seconds = left * rates.step_seconds if rates.step_seconds is not None else None
        work = begun if len(unfinished) == 1 else Work(left, seconds, False)
        for file in entry.file_ids:
            row = _queued(ledger.files.get(file), work)
            if entry is not unfinished[0][0]:
                row = replace(row, state="again" if entry.start == 0 else "interrupted")
            found.append(row)
            # Small files that are trained as one have their steps together: they are told with the first.
            work = Work(None, None, False)
    return found


def first_waiting(ledger: Ledger, rates: Rates, limit: int) -> list[Queued]:
    """The first `limit` files that wait, in their order."""
    return [_queued(row, _work_waiting(ledger, row, rates)) for row in _first(ledger, limit)]


def _first(ledger: Ledger, limit: int) -> list[FileRow]:
    found: list[FileRow] = []
    while len(found) < limit:
        page = ledger.files.queue(found[-1] if found else None, min(500, limit - len(found)))
        if not page:
            break
        found += page
    return found


def _queued(row: FileRow, work: Work) -> Queued:
    state = LEAVING if row.state == "arrived" and row.options.get(TAKEN_OUT) else row.state
    return Queued(
        row.id, row.name, state, CALLED[row.priority], row.bytes, row.rows_good, work.steps, work.seconds,
        work.estimated,
    )  # fmt: skip
