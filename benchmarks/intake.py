"""How quick intake is, how much memory it takes, and how much it slows training down.

    python -m benchmarks.intake [--quick] [--rows N] [--threads N]

Speed and memory: a file of chats is dropped into the inbox of a workspace where intake runs as its own process, as it
always does: archive, hash, rows, tokens, masks, packing, the prepared folder. On the same file `benchmarks.mapping`
does what people write by hand, `datasets.load_dataset("json")` and `map(tokenize, batched=True, num_proc=2)`, once with
the masks of what the assistant wrote, which must come out as intake's do, and once without any. All have libraries and
tokenizer loaded before the clock starts, and the same nice value. They take turns, at two sizes of file.

Memory is what all processes of a side hold together at the worst moment (RSS: what two of them share counts twice).

Training beside intake: the real trainer takes steps, in turns with intake at work on the next file and with intake
stopped by a signal.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import chats, common
from nightschool.demo import corpus
from nightschool.intake import packing
from nightschool.intake.prepared import HOLDOUT, PreparedReader, read_meta
from nightschool.intake.tokenise import Encoded, load_tokenizer
from nightschool.ledger import Arrival, Ledger
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout

SIDES = ("intake", "with masks", "without masks")
GOAL, GOAL_MEMORY, GOAL_BESIDE = 0.9, 1.5e9, 0.9


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        rows: of each file.
        rounds: turns of each side on each of them.
        beside_rounds: turns of the trainer with and without intake.
        beside_rows: of the file that is prepared meanwhile; it must not come to its end.
        steps: of the trainer in one turn.
        vocabulary: of the tokenizer, in tokens, at most.
        characters: of source code that the chats are cut from, beside documentation.
        hidden, layers, length: size of the model, and tokens per sequence.
    """

    rows: tuple[int, ...] = (100_000, 1_000_000)
    rounds: tuple[int, ...] = (5, 1)
    beside_rounds: int = 12
    beside_rows: int = 400_000
    steps: int = 8
    vocabulary: int = 16_384
    characters: int = 4_000_000
    hidden: int = 256
    layers: int = 4
    length: int = 256
    threads: int = 1


FULL = Plan()
QUICK = replace(FULL, rows=(2_000, 20_000), rounds=(1, 1), beside_rounds=3, beside_rows=60_000)


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run both contests; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    base = chats.make_base(folder / "base", plan.vocabulary, plan.characters, plan.hidden, plan.layers)
    speed = [_contest(plan, base, folder, at) for at in range(len(plan.rows))]
    return {
        "benchmark": "intake",
        "where": common.machine(),
        "speed": speed,
        "beside": _beside(plan, base, folder / "beside"),
    }


# --- speed and memory


@dataclass(frozen=True)
class _Turn:
    """What one side took for a file, and what it made of it.

    Attributes:
        seconds: by the clock.
        memory: bytes, at most.
        processor: seconds of all its processes.
    """

    seconds: float
    memory: int
    rows: int
    tokens: int
    label_tokens: int
    processor: float


class _Memory:
    """The most memory that a process and its children held together, looked at ten times a second."""

    def __init__(self, process: int) -> None:
        self.most = 0
        self._process = psutil.Process(process)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            total = 0
            for one in (self._process, *self._process.children(recursive=True)):
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.most = max(self.most, total)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def _contest(plan: Plan, base: Path, folder: Path, at: int) -> dict[str, Any]:
    path = chats.write(folder / f"chats-{at}.jsonl", plan.rows[at], plan.characters)
    rounds: common.Rounds[dict[str, _Turn]] = common.Rounds(plan.rounds[at])
    for hand_in in rounds:
        found: dict[str, _Turn] = {}
        for name in SIDES if rounds.done % 2 else SIDES[::-1]:
            with common.scratch(folder) as place:
                found[name] = _intake(base, path, place) if name == SIDES[0] else _mapped(base, path, place, name)
        check_equal(found)
        hand_in(found)
    size, tokens = path.stat().st_size, rounds.kept[0][SIDES[0]].tokens
    path.unlink()
    return {
        "rows": plan.rows[at],
        "bytes": size,
        "tokens": tokens,
        "counted": rounds.described(),
        "rows_per_second": {
            name: common.spread([found[name].rows / found[name].seconds for found in rounds.kept]) for name in SIDES
        },
        "memory": {name: common.spread([float(found[name].memory) for found in rounds.kept]) for name in SIDES},
        "ratios": {
            name: common.spread([found[name].seconds / found[SIDES[0]].seconds for found in rounds.kept])
            for name in SIDES[1:]
        },
        "processor_ratios": {
            name: common.spread([found[name].processor / found[SIDES[0]].processor for found in rounds.kept])
            for name in SIDES[1:]
        },
    }


def check_equal(found: dict[str, _Turn]) -> None:
    """Raise unless every side made the same tokens, and the same masks where it made any."""
    made = {name: (turn.rows, turn.tokens, turn.label_tokens) for name, turn in found.items()}
    whole = {counts for name, counts in made.items() if name != "without masks"}
    if len(whole) > 1 or len({counts[:2] for counts in made.values()}) > 1:
        raise RuntimeError(f"the sides made other tokens of the same file, and cannot be compared: {made}")


@contextmanager
def _working(layout: Layout) -> Iterator[int]:
    """Intake as a process of its own; its process id."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "nightschool.intake", "--workspace", str(layout.root), "--lifeline", str(ours)]
    process = subprocess.Popen(command, pass_fds=[ours], cwd=common.REPOSITORY)
    try:
        yield process.pid
    finally:
        # One that was stopped hears of its end once it goes on.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        process.wait()
        os.close(ours)
        os.close(theirs)


def _drop(layout: Layout, ledger: Ledger, path: Path) -> int:
    """Put a file into the inbox, as a copy that takes no time, and report it; its number."""
    dropped = layout.inbox / path.name
    os.link(path, dropped)
    (number,) = ledger.files.arrive([Arrival(path.name, str(dropped))])
    return number


def _wait(ledger: Ledger, number: int, *states: str) -> None:
    while (row := ledger.files.get(number)).state not in states:
        if row.state == "rejected":
            raise RuntimeError(f"{row.name} was rejected: {row.reason}")
        time.sleep(0.02)


def _intake(base: Path, path: Path, folder: Path) -> _Turn:
    layout = common.workspace(folder / "workspace", base, 1, data={"max_length": 4096})
    first = folder / "first.jsonl"
    with path.open("rb") as file:
        first.write_bytes(b"".join(itertools.islice(file, 100)))
    with Ledger.open(layout.ledger) as ledger, _working(layout) as process:
        # With the first file it loads its libraries, the tokenizer and the template.
        _wait(ledger, _drop(layout, ledger, first), "ready")
        with _Memory(process) as memory:
            began, used = time.perf_counter(), _processor(process)
            number = _drop(layout, ledger, path)
            _wait(ledger, number, "ready")
            seconds, used = time.perf_counter() - began, _processor(process) - used
        prepared = layout.prepared / (ledger.files.get(number).prepared or "")
    counts = read_meta(prepared)["counts"]
    tokens, labels = counts["tokens"], counts["label_tokens"]
    if counts["rows_held_out"]:
        with PreparedReader(prepared, name=HOLDOUT) as held:
            for ids, train, _, _ in map(held.sequence, range(len(held))):
                tokens, labels = tokens + len(ids), labels + int(train.sum())
    return _Turn(seconds, memory.most, counts["rows_good"], tokens, labels, used)


def _processor(process: int) -> float:
    return sum(psutil.Process(process).cpu_times()[:2])


def _mapped(base: Path, path: Path, folder: Path, name: str) -> _Turn:
    command = [sys.executable, "-m", "benchmarks.mapping", "--tokenizer", str(base), "--file", str(path)]
    command += ["--cache", str(folder / "cache"), *(["--masks"] if name == "with masks" else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=common.REPOSITORY
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        _expect(process.stdout.readline(), "ready")
        with _Memory(process.pid) as memory:
            began = time.perf_counter()
            process.stdin.write("\n")
            process.stdin.flush()
            _expect(process.stdout.readline(), "done")
            seconds = time.perf_counter() - began
        return _Turn(seconds, memory.most, **json.loads(process.stdout.readline()))


def _expect(line: str, word: str) -> None:
    if line.strip() != word:
        raise RuntimeError(f"benchmarks.mapping ended, or said {line!r} instead of {word!r}")


# --- training beside intake


def _beside(plan: Plan, base: Path, folder: Path) -> dict[str, Any]:
    layout = common.workspace(folder / "workspace", base, plan.threads, training={"train_batch_size": 1})
    ids = load_tokenizer(base)("\n".join(corpus.passages()[:60]), add_special_tokens=False)["input_ids"]
    rows = [
        Encoded(number + 1, "text", np.array(ids[start : start + plan.length], np.int32), np.ones(plan.length, np.int8))
        for number, start in enumerate(range(0, len(ids) - plan.length, plan.length))
    ]
    sequences = packing.sequences(rows, plan.length, packing=False)
    needed = (6 * plan.beside_rounds + 4) * (plan.steps + 1)
    common.add_file(layout, "text", sequences, epochs=1 + needed // len(sequences))
    path = chats.write(folder / "next.jsonl", plan.beside_rows, plan.characters)
    contest = _Beside(plan, layout, path)
    common.run_trainer(layout, contest.turns)
    path.unlink()
    kept = contest.rounds.kept
    return {
        "counted": contest.rounds.described(),
        "steps_per_second": {name: common.spread([one[name] for one in kept]) for name in ("alone", "beside")},
        "ratio": common.spread([one["beside"] / one["alone"] for one in kept]),
        "intake_cores": common.spread([one["cores"] for one in kept]),
    }


class _Beside:
    """The trainer's turns with intake at work, and with intake stopped."""

    def __init__(self, plan: Plan, layout: Layout, path: Path) -> None:
        self._plan, self._layout, self._path = plan, layout, path
        self._process: psutil.Process | None = None
        self.rounds: common.Rounds[dict[str, float]] = common.Rounds(plan.beside_rounds, self._used)

    def _used(self) -> float:
        return self._process.cpu_times().user if self._process else 0.0

    def turns(self, trainer: Trainer) -> Generator[None]:
        """The plan of the trainer: see `common.Turns`."""
        for _ in range(self._plan.steps):
            yield
        # Only now: a file that is being trained is none that intake would prepare again.
        with _working(self._layout) as number:
            self._process = psutil.Process(number)
            file = _drop(self._layout, trainer.ledger, self._path)
            _wait(trainer.ledger, file, "archived")
            while not any(self._layout.prepared.glob(".tmp-*/data.arrow")):
                time.sleep(0.05)
            for hand_in in self.rounds:
                found: dict[str, float] = {}
                for name in ("alone", "beside") if self.rounds.done % 2 else ("beside", "alone"):
                    # While it is stopped nothing waits for it: in the middle of a file it holds no lock on the ledger.
                    self._process.send_signal(signal.SIGCONT if name == "beside" else signal.SIGSTOP)
                    yield
                    began, used = time.perf_counter(), self._used()
                    for _ in range(self._plan.steps):
                        yield
                    seconds = time.perf_counter() - began
                    found[name] = self._plan.steps / seconds
                    if name == "beside":
                        found["cores"] = (self._used() - used) / seconds
                if trainer.ledger.files.get(file).state != "archived":
                    raise RuntimeError("intake came to the end of its file: give it more rows (Plan.beside_rows)")
                hand_in(found)
        self._process = None


# --- the report


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    rows = []
    for size in result["speed"]:
        for name in SIDES:
            ratios = [size[kind] for kind in ("ratios", "processor_ratios")]
            shown = [common.shown(ratio[name], 2) if name in ratio else "" for ratio in ratios]
            side = name if name == SIDES[0] else f"datasets, {name}"
            speed = common.shown(size["rows_per_second"][name], 0)
            rows.append([f"{size['rows']:,}", side, speed, *shown, common.shown(size["memory"][name], 2, 1e-9)])
    counted = "\n".join(f"{size['rows']:,} rows: {common.told(size['counted'])}" for size in result["speed"])
    beside = result["beside"]
    speeds = beside["steps_per_second"]
    mean = result["speed"][0]["tokens"] / result["speed"][0]["rows"]
    head = ["rows", "side", "rows/s", "intake / this", "same, processor time", "memory, GB"]
    return "\n\n".join((
        common.heading(result["where"]),
        f"Chats of {mean:.0f} tokens; median (quartiles). Goals: at least {GOAL} of datasets' rows/s; under "
        f"{GOAL_MEMORY / 1e9} GB, however many rows.",
        common.table(head, rows),
        counted,
        f"Training beside intake, steps/s: {common.shown(speeds['beside'], 2)}; alone: "
        f"{common.shown(speeds['alone'], 2)}; ratio {common.shown(beside['ratio'])}. Goal: at least {GOAL_BESIDE}. "
        f"Intake used {common.shown(beside['intake_cores'], 2)} cores meanwhile.\n{common.told(beside['counted'])}",
    ))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write out/benchmarks/intake.json."""
    parser = common.parser("intake", "Rows per second and memory of intake, and what it costs training.")
    parser.add_argument("--rows", type=int, help="rows of the larger file; the other has a tenth")
    options = parser.parse_args(arguments)
    plan = replace(QUICK if options.quick else FULL, threads=options.threads)
    if options.rows:
        plan = replace(plan, rows=(max(1, options.rows // 10), options.rows))
    common.quiet_libraries()
    with common.scratch(options.out) as folder:
        result = measure(plan, folder)
    print(show(result))
    print(f"\nWritten to {common.write(options.out, 'intake', result)}.")


if __name__ == "__main__":
    main()
