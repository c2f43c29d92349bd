"""What the trainer leaves in the events."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool.ledger import Ledger
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
