"""What the trainer leaves in the events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightschool import inforce
from nightschool.ledger import Ledger
from nightschool.training.trainer import Trainer
from tests.training import rig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


def test_each_checkpoint_and_each_file_is_told_once(base: Path, tmp_path: Path) -> None:
    layout = rig.workspace(tmp_path / "ws", base, checkpoints={"save_steps": 1})
    rig.add(layout, "a", rig.sequences(12, 1))
    rig.add(layout, "b", rig.sequences(16, 2))
    rig.run(layout)
    with Ledger.open(layout.ledger) as ledger:
        saved = [event.fields["step"] for event in ledger.events.of_kind("saved")]
        learned = ledger.events.of_kind("file-learned")
        steps = ledger.steps.last()
        names = [row.name for row in ledger.files.listing("learned")]
    assert steps is not None
    assert saved == sorted(set(saved))
    assert saved[-1] == steps.step
    assert [event.fields["name"] for event in learned] == names
    assert len(names) == 2
    assert all(event.fields["step"] in saved for event in learned)


@pytest.mark.parametrize("section", ["lora", "log"])
def test_the_first_file_is_not_begun_under_settings_that_are_fixed_and_no_longer_in_force(
    base: Path, tmp_path: Path, section: str
) -> None:
    """The supervisor has taken them, and asks the trainer to start again; it may be late by half a second.

    Begun all the same, the run would have another root than the settings say, and no start would accept it.
    """
    layout = rig.workspace(tmp_path / "ws", base)
    rig.add(layout, "a", rig.sequences(12, 1))
    inforce.accept(layout, layout.settings_file.read_bytes())
    changes: dict[str, Any] = {"lora": {"r": 4}} if section == "lora" else {"log": {"keep": 2}}

    def taken(_: Trainer) -> None:
        rig.configure(layout, base, **changes)
        inforce.accept(layout, layout.settings_file.read_bytes())

    rig.run(layout, on_start=taken)
    with Ledger.open(layout.ledger) as ledger:
        assert (ledger.entries.last() is None) == (section == "lora"), "control: others begin"
    rig.run(layout)
    assert rig.states(layout) == {"a": "learned"}
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get("root")["lora"]["r"] == (4 if section == "lora" else 16)


def test_a_run_that_has_begun_does_not_look(base: Path, tmp_path: Path) -> None:
    """There the supervisor refuses such a change; what lies about in the file is for the next start to tell."""
    layout = rig.workspace(tmp_path / "ws", base)
    rig.add(layout, "a", rig.sequences(12, 1))
    rig.run(layout)
    rig.add(layout, "b", rig.sequences(12, 2))

    def changed(_: Trainer) -> None:
        rig.configure(layout, base, lora={"r": 4})

    rig.run(layout, on_start=changed)
    assert rig.states(layout) == {"a": "learned", "b": "learned"}
