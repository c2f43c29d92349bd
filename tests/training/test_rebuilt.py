"""After the ledger was lost and made again, training goes on bit for bit."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from nightschool import basemodel
from nightschool.durable import seal
from nightschool.errors import WorkspaceError
from nightschool.intake.containers import kind_named
from nightschool.intake.prepare import folder_name
from nightschool.intake.prepared import PreparedWriter, write_meta
from nightschool.ledger import Arrival, Ledger
from nightschool.rebuilding.rebuild import rebuild
from nightschool.settings import load_settings
from nightschool.workspace import Layout
from tests.rebuilding import making
from tests.training import rig

SIZES = {"a.jsonl": 9, "b.jsonl": 14, "c.jsonl": 12}
"""Four sequences make a step: 3, 4 and 3 steps."""


def drop(layout: Layout, name: str, number: int) -> None:
    """A file as intake leaves it: bytes in the archive, tokens in a folder that its hash and the recipe's name."""
    settings = load_settings(layout.settings_file)
    tokenizer = basemodel.tokenizer_digest(basemodel.resolve(settings.model.name))
    recipe: dict[str, Any] = {"v": 1, "tokenizer": tokenizer, **settings.data_recipe()}
    place, sha256 = making.archived(layout, name, f"bytes of {name}")
    assert sha256 == hashlib.sha256(f"bytes of {name}".encode()).hexdigest()
    folder = layout.prepared / folder_name(sha256, recipe, kind_named(name))
    folder.mkdir()
    with PreparedWriter(folder) as writer:
        for one in rig.sequences(SIZES[name], number):
            writer.write(one)
    counts = {
        "rows_good": 1000, "rows_bad": 0, "tokens": writer.tokens, "label_tokens": writer.label_tokens,
        "sequences": writer.sequences,
    }  # fmt: skip
    meta = {"recipe": recipe, "sha256": sha256, "shape": "text", "data_digest": writer.data_digest, "counts": counts}
    write_meta(folder, meta)
    seal(folder)
    with Ledger.open(layout.ledger) as ledger:
        (id,) = ledger.files.arrive([Arrival(name, str(layout.inbox / name))])
        ledger.files.archived(id, sha256, 1, place)
        ledger.files.prepared_as(id, folder.name, shape="text", data_digest=writer.data_digest, **counts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


def made(root: Path, base: Path) -> Layout:
    layout = rig.workspace(root, base, checkpoints={"save_steps": 2, "save_total_limit": 3})
    for number, name in enumerate(SIZES):
        drop(layout, name, number)
    return layout


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> rig.Outcome:
    layout = made(tmp_path_factory.mktemp("undisturbed") / "ws", base)
    rig.run(layout)
    return rig.outcome(layout)


@pytest.fixture(scope="module")
def stopped(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Killed in the middle of b, two steps behind its newest checkpoint's snapshot; c waits."""
    layout = made(tmp_path_factory.mktemp("stopped") / "ws", base)
    rig.run(layout, on_step=rig.stop_at(2))
    making.snapshot(layout, making.DAY, 2)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_saved_at(5))
    assert [step for step, _ in layout.checkpoints()][-1] == 4
    return layout


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("how", ["deleted", "truncated", "garbage", "flipped"])
def test_c9_training_goes_on_bit_for_bit_after_the_ledger_was_made_again(
    stopped: Layout, undisturbed: rig.Outcome, tmp_path: Path, how: str, copy: bool
) -> None:
    layout = Layout(tmp_path / "ws")
    shutil.copytree(stopped.root, layout.root, symlinks=True)
    if not copy:
        shutil.rmtree(layout.snapshots / making.DAY)
    making.ruin(layout, how)
    told = rebuild(layout)
    assert (told.step, told.copy is not None, told.held, told.unmatched) == (4, copy, [], [])
    rig.run(layout)
    found = rig.outcome(layout)
    assert (found.step, found.weights, found.optimizer, found.lineage) == (
        undisturbed.step, undisturbed.weights, undisturbed.optimizer, undisturbed.lineage,
    )  # fmt: skip
    # The few losses that the checkpoint had are enough here: the curve has no hole.
    assert found.curve == undisturbed.curve
    assert set(rig.states(layout).values()) == {"learned"}


def test_c9_control_an_empty_ledger_in_its_place_is_refused(stopped: Layout, tmp_path: Path) -> None:
    """What the tests above would do if nothing were made again."""
    layout = Layout(tmp_path / "ws")
    shutil.copytree(stopped.root, layout.root, symlinks=True)
    layout.ledger.unlink()
    Ledger.create(layout.ledger).close()
    with pytest.raises(WorkspaceError, match="--rebuild-ledger"):
        rig.run(layout)
