"""A file that kills the trainer again and again is set aside by a real machine: the run is as if it had never come."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.supervisor import policies
from nightschool.supervisor import run as supervisor
from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole

pytestmark = pytest.mark.slow
FILES = {
    "a": [f"words of file a, row {n}" for n in range(30)],
    "poison": [f"# row {n}" for n in range(60)],
    "c": [f"and others of file c, row {n}" for n in range(26)],
}


def make(root: Path, base: Path, *names: str) -> Layout:
    layout = whole.workspace(root, base)
    for name in names:
        number = list(FILES).index(name)
        tiny.write_jsonl(layout.inbox / f"{number}-{name}.jsonl", [{"text": row} for row in FILES[name]])
    return layout


@pytest.mark.usefixtures("forked")
def test_b7_a_file_that_kills_the_trainer_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.make_model(tmp_path / "base")
    layout, other = make(tmp_path / "ws", base, "a", "poison", "c"), make(tmp_path / "other", base, "a", "c")
    monkeypatch.setattr(policies, "FIRST_DELAY", 0.1)
    real = supervisor.default_commands(layout)
    poisoned = [sys.executable, "-P", str(Path(__file__).parent / "poisoned_trainer.py"), *real.trainer[4:]]
    commands = supervisor.Commands(poisoned, real.intake)
    assert supervisor.run(layout, load_settings(layout.settings_file), True, commands=commands, tick_seconds=0.02) == 0
    with Ledger.open(layout.ledger) as ledger:
        (row,) = ledger.files.listing("set_aside")
    assert row.name == "1-poison.jsonl"
    assert "SIGKILL" in str(row.reason)
    assert f"{policies.FILE_CRASHES} times in a row at the same place" in str(row.reason)
    assert whole.counts(layout) == {"learned": 2, "set_aside": 1}
    whole.run_undisturbed(other)
    assert whole.outcome(layout) == whole.outcome(other)
