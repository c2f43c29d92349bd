"""Checkpoints that are damaged, hostile or too new: what is used instead, what is said, and what is never done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import durable
from nightschool.errors import CheckpointError, DataError, WorkspaceError
from nightschool.intake.prepared import PreparedReader, PreparedWriter
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.training import rig, small

FILES = (
    "adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json",
    "nightschool.json", "MANIFEST.json",
)  # fmt: skip


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def missing(path: Path) -> None:
    path.unlink()


DAMAGE: tuple[Callable[[Path], None], ...] = (empty, truncated, flipped, missing)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> rig.Outcome:
    return small.undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", base)


@pytest.fixture(scope="module")
def begun(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Stopped after step 7, with checkpoints 4, 6 and 7. To be copied, not used."""
    layout = small.make(tmp_path_factory.mktemp("begun") / "run", base)
    small.stop_at(layout, 7)
    assert [step for step, _ in layout.checkpoints()] == [2, 4, 6, 7][-3:]
    return layout


@pytest.fixture
def layout(begun: Layout, tmp_path: Path) -> Layout:
    return Layout(shutil.copytree(begun.root, tmp_path / "run"))


def seal_again(folder: Path) -> None:
    """What somebody does who changes a checkpoint on purpose, and knows how its manifest is made."""
    (folder / durable.MANIFEST).unlink()
    durable.seal(folder)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_c2_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    layout: Layout, undisturbed: rig.Outcome, name: str, damage: Callable[[Path], None]
) -> None:
    damage(layout.checkpoint(7) / name)
    as_it_was = small.tree(layout.checkpoint(7))
    done: list[int] = []
    rig.run(layout, on_step=lambda trainer: done.append(trainer.loop.done))
    assert done == [7, 8, 9]
    assert rig.outcome(layout) == undisturbed
    (said,) = rig.events(layout, "checkpoint-damaged")
    assert said.startswith(f"checkpoint-7 is damaged and not used: {name} ")
    assert small.tree(layout.undone / "0" / "checkpoint-7") == as_it_was
    with Ledger.open(layout.ledger) as ledger:
        assert [row.step for row in ledger.checkpoints.listing(state="damaged")] == [7]


def test_c2_control_without_hashes_a_flipped_bit_would_be_trained_on(
    layout: Layout, undisturbed: rig.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes alone do not show it. What still does are the digests of the tensors; without those it goes through."""
    flipped(layout.checkpoint(7) / "adapter_model.safetensors")
    real = durable.check
    monkeypatch.setattr(durable, "check", lambda folder, deep=True: real(folder, deep=False))
    with pytest.raises(CheckpointError, match="the weights are not what was saved"):
        rig.run(layout)
    from nightschool.training import checkpoint

    monkeypatch.setattr(checkpoint, "verify_digests", lambda *_: None)
    rig.run(layout)
    assert rig.outcome(layout).weights != undisturbed.weights


def test_c2_two_damaged_ones_and_a_second_accident_at_the_same_step(layout: Layout, undisturbed: rig.Outcome) -> None:
    """Nothing collides in `undone/`, and everything is kept there."""
    flipped(layout.checkpoint(7) / "optimizer.pt")
    empty(layout.checkpoint(6) / "optimizer.pt")
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_saved_at(7))
    assert [step for step, _ in layout.checkpoints()] == [4, 6]
    truncated(layout.checkpoint(6) / "optimizer.pt")
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed
    aside = sorted(path.name for path in (layout.undone / "0").iterdir())
    assert aside == ["checkpoint-6", "checkpoint-6.2", "checkpoint-7"]


def test_c2_an_older_one_that_is_cut_off_is_not_counted_by_retention(layout: Layout, undisturbed: rig.Outcome) -> None:
    """Three are to be kept; a half one is none of them."""
    truncated(layout.checkpoint(6) / "optimizer.pt")
    small.stop_at(layout, 8)
    assert [step for step, _ in layout.checkpoints()] == [4, 7, 8]
    assert (layout.undone / "0" / "checkpoint-6").is_dir()
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_c3_when_all_are_bad_it_stops_and_touches_nothing(layout: Layout, damage: Callable[[Path], None]) -> None:
    for at, (_, folder) in enumerate(layout.checkpoints()):
        damage(folder / FILES[2 * at])
    before = small.tree(layout.current_model)
    steps: list[int] = []
    for _ in range(2):
        with pytest.raises(CheckpointError, match="training does not begin again from nothing by itself") as caught:
            rig.run(layout, on_step=lambda trainer: steps.append(trainer.loop.done))
        for step in (4, 6, 7):
            assert f"checkpoint-{step}" in str(caught.value)
    assert steps == []
    assert small.tree(layout.current_model) == before
    assert not list(layout.undone.iterdir())


def test_c3_when_all_are_gone_it_stops(layout: Layout, undisturbed: rig.Outcome) -> None:
    elsewhere = layout.root.parent / "moved"
    elsewhere.mkdir()
    for _, folder in layout.checkpoints():
        folder.rename(elsewhere / folder.name)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="holds no checkpoint, though the run has saved some"):
            rig.run(layout)
    # What the message asks for helps.
    shutil.copytree(elsewhere / "checkpoint-6", layout.checkpoint(6))
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed


def test_c3_control_a_run_that_never_saved_does_begin_from_nothing(base: Path, tmp_path: Path) -> None:
    layout = small.make(tmp_path / "run", base)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_at(1))
    assert rig.run(layout).loop.done == small.STEPS


def test_c9_a_ledger_older_than_its_checkpoints_is_brought_up_to_date_or_refused(
    layout: Layout, base: Path, undisturbed: rig.Outcome
) -> None:
    """Put back from a backup that knows both files, but not that the second began; and from one that knows only one."""
    with Ledger.open(layout.ledger) as ledger:
        entries = ledger.entries.all()
        ledger.entries.replace_all(entries[:1])
        ledger.files.set_state(entries[1].file_ids[0], "ready")
    kept = layout.ledger.read_bytes()
    with Ledger.open(layout.ledger) as ledger:
        ledger.files._database.write("DELETE FROM files WHERE id = ?", (entries[1].file_ids[0],))
    before = small.checkpoints(layout)
    with pytest.raises(WorkspaceError, match="does not know file 2"):
        rig.run(layout)
    assert small.checkpoints(layout) == before
    layout.ledger.write_bytes(kept)
    rig.run(layout)
    assert rig.events(layout, "repaired")
    assert rig.outcome(layout) == undisturbed


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.target,))


@pytest.mark.parametrize("container", [True, False], ids=["torch", "pickle"])
def test_f5_a_hostile_optimizer_is_refused_and_not_executed(layout: Layout, tmp_path: Path, container: bool) -> None:
    folder, target = layout.checkpoint(7), tmp_path / "executed"
    bomb = {"state": {}, "param_groups": [Bomb(target)]}
    if container:
        torch.save(bomb, folder / "optimizer.pt")
    else:
        (folder / "optimizer.pt").write_bytes(pickle.dumps(bomb))
    seal_again(folder)
    before = small.checkpoints(layout)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt was refused"):
        rig.run(layout)
    assert not target.exists()
    assert small.checkpoints(layout) == before
    # Control: what a trusting load does.
    if container:
        torch.load(folder / "optimizer.pt", weights_only=False)
    else:
        pickle.loads((folder / "optimizer.pt").read_bytes())
    assert target.exists()


def test_f5_pickles_that_are_only_there_for_others_are_never_read(
    layout: Layout, tmp_path: Path, undisturbed: rig.Outcome
) -> None:
    folder, target = layout.checkpoint(7), tmp_path / "executed"
    for name in ("scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin", "adapter_model.bin"):
        torch.save(Bomb(target), folder / name)
    seal_again(folder)
    rig.run(layout)
    assert not target.exists()
    assert rig.outcome(layout) == undisturbed


@pytest.mark.parametrize(
    "state",
    [
        [1, 2],
        {"state": {}},
        {"state": {}, "param_groups": {}},
        {"state": [], "param_groups": []},
        {"state": {}, "param_groups": [{"params": []}]},
        {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}, {"params": []}]},
        {"state": {}, "param_groups": [{"params": [0], "param_names": ["x"]}, {"params": [], "param_names": []}]},
    ],
)
def test_f5_an_optimizer_state_of_another_make_is_refused(layout: Layout, state: Any) -> None:
    folder = layout.checkpoint(7)
    torch.save(state, folder / "optimizer.pt")
    seal_again(folder)
    with pytest.raises(CheckpointError):
        rig.run(layout)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "7"},
        {"step": None},
        {"lineage": 5},
        {"curriculum": []},
        {"digests": {}},
        {"digests": []},
        {"numerics": 7},
        {"more": 1},
    ],
    ids=str,
)
def test_f5_a_position_that_makes_no_sense_is_refused_in_words(layout: Layout, change: dict[str, Any]) -> None:
    folder = layout.checkpoint(7)
    record = json.loads((folder / "nightschool.json").read_text())
    (folder / "nightschool.json").write_text(json.dumps({**record, **change}))
    seal_again(folder)
    before = small.checkpoints(layout)
    steps: list[int] = []
    with pytest.raises(CheckpointError):
        rig.run(layout, on_step=lambda trainer: steps.append(trainer.loop.done))
    assert steps == []
    assert small.checkpoints(layout) == before


def test_a_checkpoint_under_another_number_is_set_aside(layout: Layout, undisturbed: rig.Outcome) -> None:
    """A copy by hand, with a number beyond the run's end and one within it."""
    for number in (50, 8):
        shutil.copytree(layout.checkpoint(6), layout.checkpoint(number))
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed
    assert {path.name for path in (layout.undone / "0").iterdir()} == {"checkpoint-8", "checkpoint-50"}
    assert "checkpoint-50 is not used: its name says step 50, its contents step 6." in rig.events(
        layout, "checkpoint-foreign"
    )
    assert not rig.events(layout, "repaired")


def test_f5_another_weights_file_under_a_good_manifest_is_found_by_its_digest(layout: Layout) -> None:
    folder = layout.checkpoint(7)
    shutil.copyfile(layout.checkpoint(6) / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    seal_again(folder)
    with pytest.raises(CheckpointError, match="the weights are not what was saved"):
        rig.run(layout)


def other_data(layout: Layout) -> None:
    """Replace the tokens of file b by others of the same sizes, under a good manifest."""
    folder = layout.prepared / "b"
    with PreparedWriter(folder) as writer:
        for one in rig.sequences(20, 2):
            writer.write(replace(one, ids=one.ids[::-1].copy()))
    seal_again(folder)


def test_other_tokens_than_those_training_began_with_are_refused(layout: Layout, undisturbed: rig.Outcome) -> None:
    kept = small.tree(layout.prepared / "b")
    other_data(layout)
    before = small.checkpoints(layout)
    with pytest.raises(DataError, match="is not what its training began with"):
        rig.run(layout)
    assert small.checkpoints(layout) == before
    for name, data in kept.items():
        (layout.prepared / "b" / name).write_bytes(data)
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed


def test_control_other_tokens_make_other_weights(
    layout: Layout, undisturbed: rig.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_data(layout)
    with Ledger.open(layout.ledger) as ledger:
        ((_, expected, _),) = ledger.entries.all()[1].parts
    monkeypatch.setattr(PreparedReader, "digest", lambda _: expected)
    rig.run(layout)
    found = rig.outcome(layout)
    assert found.lineage == undisturbed.lineage
    assert found.weights != undisturbed.weights


def test_f6_a_checkpoint_of_a_newer_format_is_refused(layout: Layout) -> None:
    """Also where an older one of our own format is there: going back by itself would undo what was learned since."""
    folder = layout.checkpoint(7)
    record = json.loads((folder / "nightschool.json").read_text())
    (folder / "nightschool.json").write_text(json.dumps({**record, "format": record["format"] + 1, "new": {}}))
    seal_again(folder)
    before = small.checkpoints(layout)
    with pytest.raises(CheckpointError, match=r"written by a newer nightschool \(checkpoint format 3; .*up to 2\)"):
        rig.run(layout)
    assert small.checkpoints(layout) == before


def test_f6_a_manifest_of_a_newer_format_is_set_aside_as_it_is(layout: Layout) -> None:
    folder = layout.checkpoint(7)
    manifest = json.loads((folder / durable.MANIFEST).read_text())
    (folder / durable.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    before = small.tree(folder)
    rig.run(layout)
    assert small.tree(layout.undone / "0" / "checkpoint-7") == before
    assert any("this version of nightschool reads up to 1" in text for text in rig.events(layout, "checkpoint-damaged"))


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_called_like_a_checkpoint_and_is_none_does_not_stop_a_save(
    kind: str, base: Path, undisturbed: rig.Outcome, tmp_path: Path
) -> None:
    layout = small.make(tmp_path / "run", base)
    there = layout.checkpoint(4)
    if kind == "file":
        there.write_text("notes")
    else:
        there.symlink_to("nowhere")
    rig.run(layout)
    assert rig.outcome(layout) == undisturbed
    assert any("checkpoint-4 is no folder" in text for text in rig.events(layout, "checkpoint-damaged"))
    assert (layout.undone / "0" / "checkpoint-4").is_symlink() or (layout.undone / "0" / "checkpoint-4").is_file()
