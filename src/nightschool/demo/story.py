"""The demo's story: make a base, drop three files, kill the machine in the middle, go on, compare the bits.

Everything goes through the same commands a user types, in processes of their own; this one imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nightschool.api import Workspace
from nightschool.demo import corpus
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

MARKER = ".nightschool-demo"
BASE_STEPS = 200
SHARES = {"1-monday.jsonl": 0.4, "2-tuesday.jsonl": 0.25, "3-wednesday.jsonl": 0.35}
KILLED_FILE = 1
SAVE_STEPS = 20
LOST_STEPS = 6
"""About so many steps behind a checkpoint it is killed."""
PASSAGES = 560
SETTINGS = {
    "training": {
        "train_batch_size": 8,
        "micro_batch_size": 8,
        "learning_rate": 5e-3,
        "warmup_steps": 10,
    },
    "lora": {"r": 32, "lora_alpha": 32, "lora_dropout": 0.05},
    "data": {"max_length": 256},
    "inbox": {"settle_seconds": 0.5, "rescan_seconds": 0.5, "gather_rows": 0},
    "checkpoints": {"save_steps": SAVE_STEPS},
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Story:
    """What happened. Losses are those of steps 1, 2, …; `killed_at` is the step that was in progress."""

    losses: list[float]
    boundaries: list[int]
    files: list[str]
    killed_at: int
    resumed_at: int
    equal: bool
    seconds: float
    workspace: Path
    differences: list[str] = field(default_factory=list)


def tell(folder: Path, say: Say) -> Story:
    """Run the whole demo in `folder`, which is made anew.

    Raises:
        NightschoolError: the folder holds something else, or a part of the demo failed.
    """
    began = time.monotonic()
    _make_folder(folder)
    say(f"1. Making a small base model from Python's own source code ({BASE_STEPS} steps, no download) …")
    base = folder / "base"
    _run([sys.executable, "-m", "nightschool.demo.base", str(base), "--steps", str(BASE_STEPS)])

    killed, undisturbed = (_make_workspace(folder / name, base) for name in ("my-model", "undisturbed"))
    drop = _write_files(folder / "files")
    say(f"2. Dropping {len(drop)} files of Python's documentation into {killed.inbox} …")
    for layout in (killed, undisturbed):
        for path in drop:
            shutil.copy(path, layout.inbox / path.name)
    say("3. Training. A second machine trains on the same files undisturbed, to compare with.")
    other = _start(undisturbed, "--no-dashboard")
    first = _start(killed)
    _wait_for_the_middle(killed, first, say)
    kill_session(first.pid)
    first.wait()
    killed_at = _step(killed) + 1
    say(f"4. kill -9 in step {killed_at}, in the middle of {list(SHARES)[KILLED_FILE]}: no warning, no clean-up.")
    second = _start(killed)
    for process, layout in ((second, killed), (other, undisturbed)):
        if process.wait() != 0:
            raise NightschoolError(f"The run in {layout.root} failed; see {layout.log_file} and {_output(layout)}.")
    resumed_at = _resumed_at(killed)
    lost = f"steps {resumed_at + 1} to {killed_at}"
    say(f"5. Started again: it went on from checkpoint-{resumed_at} and took {lost} once more.")
    losses, boundaries, files = _curve(killed)
    differences = compare(killed, undisturbed)
    return Story(
        losses, boundaries, files, killed_at, resumed_at, not differences, time.monotonic() - began, killed.root,
        differences,
    )  # fmt: skip


def compare(one: Layout, other: Layout) -> list[str]:
    """What differs between the newest checkpoints of two workspaces; empty when adapter and optimizer are equal bits.

    The adapter's file is compared byte for byte. The optimizer's file is a zip; its tensors are compared by the
    digests that were taken when it was written.
    """
    (step, here), (other_step, there) = one.checkpoints()[-1], other.checkpoints()[-1]
    if step != other_step:
        return [f"one is at step {step}, the other at step {other_step}"]
    differences = []
    weights = [hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).digest() for path in (here, there)]
    if weights[0] != weights[1]:
        differences.append("the adapters differ")
    records = [json.loads((path / "nightschool.json").read_text(encoding="utf-8")) for path in (here, there)]
    if records[0]["digests"]["optimizer"] != records[1]["digests"]["optimizer"]:
        differences.append("the optimizers' moments differ")
    if records[0]["lineage"] != records[1]["lineage"]:
        differences.append("the lineages differ")
    return differences


def _make_folder(folder: Path) -> None:
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARKER).exists():
            raise NightschoolError(f"{folder} is no earlier demo. Name another folder: nightschool demo DIR.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def _make_workspace(root: Path, base: Path) -> Layout:
    return Workspace.create(root, str(base.resolve()), **SETTINGS).layout


def _write_files(folder: Path) -> list[Path]:
    folder.mkdir()
    passages = corpus.passages()[:PASSAGES]
    paths, begin = [], 0.0
    for name, share in SHARES.items():
        end = begin + share
        corpus.write_rows(folder / name, passages[int(begin * len(passages)) : int(end * len(passages))])
        paths.append(folder / name)
        begin = end
    return paths


def _output(layout: Layout) -> Path:
    return layout.state / "run.out"


def kill_session(leader: int) -> int:
    """SIGKILL to every process of a session, the leader last; returns how many there were.

    The trainer goes first: if it saw its supervisor gone, it would save a checkpoint, and the kill would prove little.
    """
    members = []
    for path in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError):
            if os.getsid(int(path.name)) == leader:
                members.append(int(path.name))
    for pid in sorted(members, key=lambda member: member == leader):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(members)


def _start(layout: Layout, *options: str) -> subprocess.Popen[bytes]:
    """A machine in a session of its own, so that all of it can be found."""
    with _output(layout).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "nightschool", "-C", str(layout.root), "run", "--until-idle", *options],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def _step(layout: Layout) -> int:
    with Ledger.open(layout.ledger) as ledger:
        last = ledger.steps.last()
    return last.step if last else 0


def _wait_for_the_middle(layout: Layout, process: subprocess.Popen[bytes], say: Say) -> None:
    """Wait until the second file is under way and some steps are not in any checkpoint; say where the page is.

    The steps in the ledger are up to a second old, which is the whole file where a step takes a hundredth of that. A
    checkpoint in the file is seen at once, and from there on the time of some steps is waited for.
    """
    page = since = None
    with Ledger.open(layout.ledger) as ledger:
        while process.poll() is None:
            if page is None and (page := (ledger.machine.get("page") or {}).get("url")):
                say(f"   Watch it in a browser: {page}")
            entries, last, saved = ledger.entries.all(), ledger.steps.last(), layout.checkpoints()
            if last and saved and len(entries) > KILLED_FILE:
                begin = sum(entry.stop - entry.start for entry in entries[:KILLED_FILE])
                end = begin + entries[KILLED_FILE].stop - entries[KILLED_FILE].start
                if since is None and begin < saved[-1][0] < end - 2 * LOST_STEPS:
                    since = time.monotonic()
                if since is not None and time.monotonic() - since >= LOST_STEPS * last.seconds:
                    return
            time.sleep(0.02)
    raise NightschoolError(f"The run in {layout.root} ended early; see {layout.log_file} and {_output(layout)}.")


def _resumed_at(layout: Layout) -> int:
    with Ledger.open(layout.ledger) as ledger:
        resumed = ledger.events.of_kind("resumed")
    if not resumed:
        raise NightschoolError(f"The run in {layout.root} did not resume; see {layout.log_file}.")
    return int(resumed[-1].fields["step"])


def _curve(layout: Layout) -> tuple[list[float], list[int], list[str]]:
    with Ledger.open(layout.ledger) as ledger:
        losses = [row.loss for page in ledger.steps.losses() for row in page]
        ends, total = [], 0
        for entry in ledger.entries.all():
            total += entry.stop - entry.start
            ends.append(total)
        files = [ledger.called(entry.file_ids) for entry in ledger.entries.all()]
    return losses, ends[:-1], files


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NightschoolError(f"`{' '.join(command)}` failed:\n{done.stderr[-2000:]}")
