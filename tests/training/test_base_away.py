"""A base model that is gone while a run goes on is waited for, as a disk is; what has never begun is a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool import basemodel
from nightschool.errors import ModelError, StorageError
from nightschool.intake import worker
from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.workspace import Layout
from tests.training import rig

PARTS = (None, "config.json", "model.safetensors", "tokenizer.json")


def make(root: Path) -> tuple[Layout, Path]:
    base = rig.make_base(root / "base")
    layout = rig.workspace(root / "run", base)
    rig.add(layout, "a", rig.sequences(12, 1))
    return layout, base


@pytest.mark.parametrize("part", PARTS)
def test_c10_a_base_model_that_is_away_is_waited_for(tmp_path: Path, part: str | None) -> None:
    layout, base = make(tmp_path)
    other, _ = make(tmp_path / "other")
    rig.run(other)
    rig.run(layout, on_step=rig.stop_at(2))
    path, away = base / part if part else base, tmp_path / "away"
    path.rename(away)
    with pytest.raises(StorageError, match="was there when this run began; this is tried again by itself"):
        rig.run(layout)
    assert path.exists() is False, "nothing is put in its place"
    away.rename(path)
    rig.run(layout)
    assert rig.final(layout) == rig.final(other)


@pytest.mark.parametrize("part", PARTS[:2])
def test_control_before_anything_was_trained_it_is_a_mistake(tmp_path: Path, part: str | None) -> None:
    layout, base = make(tmp_path)
    (base / part if part else base).rename(tmp_path / "away")
    with pytest.raises(ModelError):
        rig.run(layout)


def test_intake_waits_for_it_too_and_rejects_no_file(tmp_path: Path) -> None:
    layout, base = make(tmp_path)
    rig.run(layout, on_step=rig.stop_at(2))
    (layout.inbox / "b.jsonl").write_text('{"text": "words to learn"}\n')
    base.rename(tmp_path / "away")
    with Ledger.open(layout.ledger) as ledger:
        from nightschool.ledger import Arrival

        ledger.files.arrive([Arrival("b.jsonl", layout.inbox / "b.jsonl")])
        at_work = worker.Worker(layout, ledger, load_settings(layout.settings_file))
        assert at_work.step() is not None, "the file is archived all the same"
        with pytest.raises(StorageError, match="tried again by itself"):
            at_work.step()
        assert ledger.files.counts()["rejected"] == 0
        (tmp_path / "away").rename(base)
        while at_work.step() is not None:
            pass
        assert ledger.files.counts()["ready"] + ledger.files.counts()["training"] == 2


def test_only_what_is_away_is_waited_for() -> None:
    with pytest.raises(ModelError), basemodel.waited_for(begun=True):
        raise ModelError("it is another model")
