"""A run that goes on after `restore` comes to the bits of one that was never disturbed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from nightschool import Workspace
from nightschool.ledger import Ledger
from nightschool.restoring import restore
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig


def _add(layout: Layout, name: str, seed: int) -> None:
    """A file whose bytes are in the archive, as after a real intake."""
    number = rig.add(layout, name, rig.sequences(30, seed))
    path = layout.archive / name
    path.write_text(f"rows of {name}\n")
    with Ledger.open(layout.ledger) as ledger:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        ledger._database.write("UPDATE files SET sha256 = ? WHERE id = ?", (digest, number))


def test_after_a_restore_it_trains_on_to_the_same_bits(tmp_path: Path) -> None:
    base = rig.make_base(tmp_path / "base", dropout=0.1)
    undisturbed, old = (
        rig.workspace(tmp_path / name, base, model={"name": str(base)}) for name in ("undisturbed", "old")
    )
    for layout in (undisturbed, old):
        for seed, name in enumerate(("a", "b", "c")):
            _add(layout, name, seed)
    rig.run(undisturbed)
    # In the middle of the second file: eight steps of each, checkpoints every five, and steps beyond the last one.

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 13:
            trainer.recorder.flush()
        rig.kill_saved_at(13)(trainer)

    with pytest.raises(rig.Killed):
        rig.run(old, on_step=on_step)
    taken = Workspace(old).snapshot("before-the-fire")
    assert taken.step == 10
    base.rename(tmp_path / "moved")
    done = restore(taken.folder, tmp_path / "new", str(tmp_path / "moved"))
    assert (done.lost, done.step) == ([], 10)
    # Intake would make these again from the archive; here they were written by hand.
    for folder in old.prepared.iterdir():
        shutil.copytree(folder, done.layout.prepared / folder.name)
    shutil.rmtree(old.root)
    rig.run(done.layout)
    assert rig.outcome(done.layout) == rig.outcome(undisturbed)
    assert rig.events(done.layout, "resumed") == [
        "Resumed from checkpoint-10. Steps 11 to 12 had been done after it, and are done again."
    ]
    assert set(rig.states(done.layout).values()) == {"learned"}
