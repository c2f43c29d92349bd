"""One real save of a real trainer, ready to be made again and again: for tests that end it anywhere.

The trainer has loaded its model, resumed from a checkpoint and taken one more step, the last one of its first file.
What is left to do is the save: state copied, checkpoint written, sealed and published, step rows and the file's state
in the ledger, the root adapter, and retention of the oldest checkpoint. All of it happens on the saver's thread, so its
system calls come in one fixed order.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool import durable
from nightschool.ledger import Ledger, StepRow
from nightschool.settings import load_settings
from nightschool.training import resume, state
from nightschool.training.saver import Job, Saver
from nightschool.training.state import Digests
from nightschool.training.stopping import Stop
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig

PREVIOUS, NEW = 3, 4
LIMIT = 2
FILES = {"a": 13, "b": 9}
"""Name to number of sequences: file a has four steps of four sequences, the last one shorter; file b waits."""


def nothing() -> None:
    """Do nothing."""


class Rows:
    """Stands for the trainer's Recorder while it steps: keeps the rows, so that the save has them to write."""

    def __init__(self) -> None:
        self.kept: list[StepRow] = []

    def add(self, row: StepRow) -> None:
        self.kept.append(row)

    def tell(self) -> None:
        pass


@dataclass
class Ready:
    """A trainer one save before its next checkpoint, and what must be found after it was ended there.

    Attributes:
        layout: the workspace, on which the trainer works.
        pristine: a copy of the workspace as it was before the save.
        trainer: has no thread and no open ledger, so that a forked child can go on with it.
        digests: of the weights and moments at each step.
        root_files: bytes that `current_model/adapter_model.safetensors` may have.
    """

    layout: Layout
    pristine: Path
    trainer: Trainer
    rows: list[StepRow]
    digests: dict[int, Digests]
    root_files: set[bytes] = field(default_factory=set)

    def reset(self) -> None:
        """Put the workspace back as it was before the save."""
        shutil.rmtree(self.layout.root)
        shutil.copytree(self.pristine, self.layout.root, symlinks=True)

    def save(self, wait: Callable[[], object] = nothing, promised: Callable[[], object] = nothing) -> None:
        """Make the save, in this process.

        Args:
            wait: called when all is ready for it.
            promised: called when the ledger has it: from then on it must be there.
        """
        lock = durable.Lock(self.layout.trainer_lock, "the trainer")
        with lock, Ledger.open(self.layout.ledger) as ledger:
            real = ledger.checkpoints.publish

            def publish(**told: Any) -> None:
                real(**told)
                promised()

            ledger.checkpoints.publish = publish  # pyright: ignore[reportAttributeAccessIssue]
            self._save_with(lock, ledger, wait)

    def _save_with(self, lock: durable.Lock, ledger: Ledger, wait: Callable[[], object]) -> None:
        trainer = self.trainer

        def rows_durable() -> None:  # as the recorder's thread does it, but on the thread that asks
            with ledger.transaction():
                ledger.steps.record(self.rows)
                ledger.machine.set("trainer", trainer._status())

        whole = {step for step, _ in self.layout.checkpoints()}
        trainer.ledger = ledger
        trainer.saver = Saver(self.layout, ledger, lock, trainer.loop, rows_durable, whole)
        real = trainer.saver.save

        def save(job: Job, last: bool = False) -> float:
            wait()
            return real(job, last)

        trainer.saver.save = save
        trainer._save("a test")
        trainer.saver.wait()

    def step(self) -> None:
        """Take one more step. Nothing reaches the disk but the file's state."""
        rows = Rows()
        self.trainer.recorder = rows  # type: ignore[assignment]
        with Ledger.open(self.layout.ledger) as ledger:
            self.trainer.ledger = self.trainer.holdout._ledger = self.trainer.prepared._ledger = ledger
            if self.trainer.loop.next_place() is None:
                assert self.trainer._begin_next()
            self.trainer._step()
        self.rows = rows.kept

    def take_note(self) -> None:
        """Learn from undisturbed saves what the checkpoints hold."""
        for step, folder in self.layout.checkpoints():
            self.digests[step] = digests_of(folder)
            self.root_files |= {path.read_bytes() for path in folder.glob("adapter_model.safetensors")}


def prepare(root: Path, method: str = "lora") -> Ready:
    """Make the workspace and the trainer."""
    base = rig.make_base(root / "base")
    settings: dict[str, dict[str, Any]] = {"training": {"method": method}, "lora": {"r": 2}}
    options = {"save_steps": 1, "save_total_limit": LIMIT}
    layout = rig.workspace(root / "run", base, checkpoints=options, **settings)
    for seed, (name, count) in enumerate(FILES.items()):
        rig.add(layout, name, rig.sequences(count, seed))
    rig.run(layout, on_step=rig.stop_at(PREVIOUS))
    rig.configure(layout, base, checkpoints={**options, "save_steps": 1000}, **settings)

    lock = durable.Lock(layout.trainer_lock, "the trainer")
    with lock, Ledger.open(layout.ledger) as ledger:
        trainer = Trainer(layout, load_settings(layout.settings_file), ledger, lock, Stop())
        trainer.close()
    ready = Ready(layout, root / "pristine", trainer, [], {})
    ready.step()
    assert trainer.loop.done == NEW
    shutil.copytree(layout.root, ready.pristine, symlinks=True)
    ready.take_note()
    ready.save()
    ready.take_note()
    return ready


def fork(action: Callable[[Callable[[], object]], object]) -> tuple[int, socket.socket]:
    """Fork a process that does `action`, which gets a function to wait in: its pid, and a socket to let it go on."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            action(lambda: (there.send(b"r"), there.recv(1)))
            failed = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(failed)
    there.close()
    assert here.recv(1) == b"r", "the child ended before it was ready"
    return child, here


def digests_of(folder: Path) -> Digests:
    """Digests of a checkpoint's tensors, computed from its files."""
    import torch
    from safetensors.torch import load_file

    path = next(p for p in (folder / "adapter_model.safetensors", folder / "model.safetensors") if p.exists())
    return state.digests(load_file(path), torch.load(folder / "optimizer.pt", weights_only=True))


def look(ready: Ready) -> int:
    """Start as a trainer would, after it was ended anywhere in the save; asserts that all is well, returns the step."""
    layout = ready.layout
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.check() == []
        acknowledged = ledger.checkpoints.newest()
        start = resume.find_start(layout, ledger, ready.trainer.root)
        assert start.record is not None
        assert start.folder is not None
        whole = [one for one, _ in layout.checkpoints()]
        step = start.record.step
        assert step in (PREVIOUS, NEW)
        assert acknowledged is not None
        assert step >= acknowledged.step, "an acknowledged checkpoint is gone"
        assert start.folder.name == f"checkpoint-{step}"
        assert len(whole) >= LIMIT, "retention has taken a checkpoint before the new one was there"
        for one in whole:
            folder = layout.checkpoint(one)
            assert durable.check(folder) == []
            assert digests_of(folder) == ready.digests[one], f"{folder} is a mixture"
        rows = [row.step for page in ledger.steps.losses() for row in page]
        assert rows == list(range(1, step + 1)), "the curve has holes, or steps that are in no checkpoint"
        states = {row.name: row.state for row in ledger.files.each()}
        assert states == {"a": "learned" if step == NEW else "training", "b": "ready"}
        published = {row.step for row in ledger.checkpoints.listing(state="published")}
        assert published == set(whole)
    names = {path.name for path in layout.current_model.iterdir()}
    assert not [name for name in names if name.startswith(".")]
    assert {name for name in names if name.startswith("checkpoint-")} == {f"checkpoint-{one}" for one in whole}
    assert not list(layout.undone.iterdir()), "something half-done had the name of a checkpoint"
    if ready.root_files:
        found = (layout.current_model / "adapter_model.safetensors").read_bytes()
        assert found in ready.root_files, "the adapter in current_model/ is a mixture"
    else:
        assert str((layout.current_model / "latest").readlink()) in {f"checkpoint-{PREVIOUS}", f"checkpoint-{NEW}"}
    return step
