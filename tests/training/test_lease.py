"""The trainer process and the lease for its GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nightschool import leases, logs
from nightschool.errors import BusyError
from nightschool.leases import Lease
from nightschool.training import memory, trainer
from nightschool.workspace import Layout
from tests.training import rig


class Told:
    """Stands for the trainer, which loads the model when it is made: who had the lease then, and at the end."""

    def __init__(self, *_: Any) -> None:
        self.seen.append(leases.holder("big-one"))

    seen: list[leases.Holder | None] = []  # noqa: RUF012 (of the class: `train` makes the only one)
    kept: list[int] = []  # noqa: RUF012
    """How many there were whenever what there is was to be kept."""

    def run(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    monkeypatch.setattr(trainer, "Trainer", Told)
    monkeypatch.setattr(trainer.Stop, "listen", lambda *_: None)
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    monkeypatch.setattr(memory, "keep_what_is", lambda: Told.kept.append(len(Told.seen)))
    monkeypatch.setattr(Told, "kept", [])
    monkeypatch.setattr(Told, "seen", [])
    return rig.workspace(tmp_path / "ws", tmp_path / "no-model", machine={"gpu_lease": "big-one"})


def test_the_lease_is_taken_before_anything_is_loaded_and_kept_to_the_end(layout: Layout) -> None:
    trainer.train(layout, None)
    mine = leases.Holder(os.getpid(), str(layout.root))
    assert Told.seen == [mine]
    assert Told.kept == [1], "what the process keeps is there when the trainer is made"
    assert leases.holder("big-one") == mine, "the end of the process gives it back, for only then is the memory free"


def test_without_the_lease_nothing_is_loaded(layout: Layout, tmp_path: Path) -> None:
    other = Lease("big-one", tmp_path / "other")
    other.acquire()
    with pytest.raises(BusyError, match=f"in use by the workspace {tmp_path / 'other'}"):
        trainer.train(layout, None)
    assert Told.seen == []
    other.release()


@pytest.mark.parametrize("lease", ["off", "auto"])
def test_control_with_the_lease_off_or_on_a_cpu_nobody_is_asked(layout: Layout, tmp_path: Path, lease: str) -> None:
    other = Lease("big-one", tmp_path / "other")
    other.acquire()
    layout.settings_file.write_text(layout.settings_file.read_text().replace('"big-one"', f'"{lease}"'))
    trainer.train(layout, None)
    assert [str(who) for who in Told.seen] == [f"the workspace {tmp_path / 'other'} (process {os.getpid()})"]
    other.release()
