"""C1: every disk that a power cut may leave in the middle of real saves: the last acknowledged checkpoint is there.

The trainer, the saver, torch and safetensors are the real ones; every change below `current_model/` is recorded, and
every legal state after a cut (see `tests/durable/crash.py`) is opened as a start would open it. The ledger has its own
tests of this kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.ledger import Ledger
from nightschool.record import entries_of, root_digest
from nightschool.training import checkpoint
from tests.durable.crash import (
    Mark,
    Recorder,
    Recording,
    WithoutFileSync,
    WithoutFolderSync,
    crash_states,
    holds_unless_broken,
    record,
)
from tests.durable.faults import files_below
from tests.machine import one_save
from tests.machine.one_save import PREVIOUS, Ready

SAVES = 3
LIMIT_PER_CUT = 120
"""Combinations looked at for one cut, so that all is done in seconds: the extremes and single deviations come first."""


def saves(ready: Ready, known: dict[int, dict[str, bytes]]) -> Callable[[Mark], None]:
    """Saves of three steps, on two files; each retires the oldest checkpoint. Marks each step once it is promised."""

    def action(mark: Mark) -> None:
        for number in range(SAVES):
            if number:
                ready.step()
            ready.save(promised=lambda: mark(str(ready.trainer.loop.done)))
            take_note(ready.layout.current_model, known)

    return action


def take_note(folder: Path, known: dict[int, dict[str, bytes]]) -> None:
    """Learn the bytes of the checkpoints that are there."""
    for path in folder.glob("checkpoint-*"):
        known[int(path.name.removeprefix("checkpoint-"))] = files_below(path)


def look_at_every_state(ready: Ready, recording: Recording, known: dict[int, dict[str, bytes]], scratch: Path) -> int:
    """Hold what was promised against every state; returns how many there were."""
    with Ledger.open(ready.layout.ledger) as ledger:
        entries = entries_of(ledger)
    root = root_digest(ready.trainer.root)
    adapters = {files["adapter_model.safetensors"] for files in known.values()}
    count = 0
    for count, state in enumerate(crash_states(recording, LIMIT_PER_CUT), 1):  # noqa: B007
        folder = state.materialise(scratch)
        promised = max([PREVIOUS, *(int(mark) for mark in state.marks if mark != "returned")])
        for swept in (False, True):
            if swept:
                durable.sweep(folder)
            choice = checkpoint.choose(folder, root, entries)
            assert choice.record is not None, state.story
            assert choice.folder is not None
            assert choice.record.step >= promised, f"step {promised} was acknowledged and is gone\n{state.story}"
            assert not choice.damaged, f"something half-done has the name of a checkpoint\n{state.story}"
            assert not choice.foreign, state.story
            assert len(choice.whole) >= one_save.LIMIT, f"retention came before the save\n{state.story}"
            for step in choice.whole:
                assert files_below(folder / f"checkpoint-{step}") == known[step], f"a mixture\n{state.story}"
        assert (folder / "adapter_model.safetensors").read_bytes() in adapters, state.story
        assert (folder / "adapter_config.json").read_bytes() == known[PREVIOUS]["adapter_config.json"], state.story
    return count


@pytest.mark.slow
@pytest.mark.parametrize("recorder", [Recorder, WithoutFolderSync, WithoutFileSync])
def test_c1_b4_power_cuts_in_saves_and_retention(tmp_path: Path, recorder: type[Recorder]) -> None:
    """The two others are the controls: without the syncs of folders, or of files, the same look must complain."""
    ready = one_save.prepare(tmp_path)
    root = ready.layout.current_model
    known: dict[int, dict[str, bytes]] = {}
    ready.reset()
    take_note(root, known)
    recording = record(root, saves(ready, known), recorder)
    assert set(known) == set(range(PREVIOUS - 1, PREVIOUS + SAVES + 1))

    def promises() -> None:
        assert look_at_every_state(ready, recording, known, tmp_path / "state") > 1000

    holds_unless_broken(promises, recorder)
