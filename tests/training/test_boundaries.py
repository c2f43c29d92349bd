"""`verify` on real runs: it finds nothing on a good one, and every fault that is made on purpose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool import durable, verify
from nightschool.errors import CheckpointError, TrainingError, VerifyError
from nightschool.ledger import Ledger
from nightschool.training import checkpoint, optimizer
from nightschool.training.loop import Loop
from nightschool.training.replay import replay
from nightschool.training.state import Digests
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig, small


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Both files, with one stop and one kill on the way; checkpoints 4, 6, 8 and 9. To be copied, not used."""
    layout = small.make(tmp_path_factory.mktemp("trained") / "run", base)
    small.stop_at(layout, 3)
    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=rig.kill_saved_at(7))
    rig.run(layout)
    return layout


@pytest.fixture
def layout(trained: Layout, tmp_path: Path) -> Layout:
    return Layout(shutil.copytree(trained.root, tmp_path / "run"))


def test_a_good_run_has_nothing_wrong(trained: Layout) -> None:
    found = verify.report(trained)
    assert found.problems == []
    assert found.good
    assert found.step == small.STEPS
    assert found.missing_steps == 0
    assert found.lineage == rig.outcome(trained).lineage
    assert [one.step for one in found.checkpoints] == [4, 6, 8, 9]
    assert all(one.problem is None and one.weights_bytes > 0 and one.optimizer_bytes > 0 for one in found.checkpoints)
    assert [resume["step"] for resume in found.resumes] == [3, 6]
    assert all(":" in resume["digest"] for resume in found.resumes)
    assert found.numerics == []
    assert json.loads(json.dumps(found.to_dict()))["good"] is True


def test_a4_the_boundary_was_carried(trained: Layout) -> None:
    (boundary,) = verify.report(trained).boundaries
    assert (boundary.step, boundary.before, boundary.after) == (4, "a", "b")
    assert boundary.carried is True
    assert boundary.note is None
    curve = [value for _, value, _ in rig.outcome(trained).curve]
    assert boundary.loss_before == pytest.approx(sum(curve[:4]) / 4)
    assert boundary.loss_after == pytest.approx(sum(curve[4:]) / 5)
    with Ledger.open(trained.ledger) as ledger:
        (row,) = ledger.boundaries.listing()
    assert row.digest_before == row.digest_after
    assert row.digest_before.count(":") == 1


def test_a4_the_digest_at_a_boundary_is_that_of_the_checkpoint_there(trained: Layout) -> None:
    saved = checkpoint.read_record(trained.checkpoint(4)).digests
    with Ledger.open(trained.ledger) as ledger:
        (row,) = ledger.boundaries.listing()
    assert row.digest_after == str(Digests(saved["weights"], saved["optimizer"]))


def _reset_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a loop that makes a new optimizer for every file, just before its first step."""
    monkeypatch.setattr(Loop, "resets", lambda _, place: place.local == 0)


def _reset_by_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a trainer that prepares itself for the next file."""
    real = Trainer._step

    def step(self: Trainer) -> None:
        place = self.loop.next_place()
        if place is not None and place.local == 0:
            optimizer.reset(self.loop.optimizer)
        real(self)

    monkeypatch.setattr(Trainer, "_step", step)


def _one_bit_of_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Trainer._step

    def step(self: Trainer) -> None:
        place = self.loop.next_place()
        if place is not None and place.local == 0:
            weight = self.loop.parameters[-1].data.view(torch.int32)
            weight.view(-1)[0] ^= 1
        real(self)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("restart", [False, True], ids=["in one life", "after a restart"])
@pytest.mark.parametrize("fault", [_reset_in_the_loop, _reset_by_the_trainer, _one_bit_of_one_weight])
def test_a4_control_a_state_that_is_not_carried_stops_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, restart: bool
) -> None:
    layout = small.make(tmp_path / "run", base)
    if restart:
        small.stop_at(layout, 4)
    fault(monkeypatch)
    with pytest.raises(TrainingError, match="not what the file before it left"):
        rig.run(layout)
    assert layout.checkpoints()[-1][0] == 4, "nothing was trained from the wrong state"
    found = verify.report(layout)
    assert [boundary.carried for boundary in found.boundaries] == [False]
    assert "The state did not carry over from a to b." in found.problems
    monkeypatch.undo()
    rig.run(layout)
    assert verify.report(layout).good


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "nightschool.json", "MANIFEST.json"])
def test_c2_damage_to_any_checkpoint_is_found(layout: Layout, name: str) -> None:
    """Also in one that no start would look into, and also one flipped bit."""
    path = layout.checkpoint(6) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    found = verify.report(layout)
    assert not found.good
    assert [one.name for one in found.checkpoints if one.problem] == ["checkpoint-6"]
    assert any(problem.startswith(f"checkpoint-6: {name} ") for problem in found.problems)


def test_checkpoints_that_are_none_of_the_runs_are_found(layout: Layout, base: Path, tmp_path: Path) -> None:
    other = small.make(tmp_path / "other", base, save_steps=7, names="ba")
    rig.run(other)
    shutil.copytree(other.checkpoint(7), layout.checkpoint(7))
    shutil.copytree(layout.checkpoint(6), layout.checkpoint(5))
    newer = layout.checkpoint(8)
    record = json.loads((newer / "nightschool.json").read_text())
    (newer / "nightschool.json").write_text(json.dumps({**record, "format": record["format"] + 1}))
    (newer / durable.MANIFEST).unlink()
    durable.seal(newer)
    problems = {one.name: one.problem for one in verify.report(layout).checkpoints if one.problem}
    assert problems.keys() == {"checkpoint-5", "checkpoint-7", "checkpoint-8"}
    assert problems["checkpoint-5"] == "its name says step 5, its contents step 6"
    assert "its lineage is another" in str(problems["checkpoint-7"])
    assert "written by a newer nightschool" in str(problems["checkpoint-8"])


def test_holes_in_the_curve_are_found(layout: Layout) -> None:
    """In the middle, and at the end, where only the newest checkpoint tells how far the run has come."""
    for step in (3, 9):
        with Ledger.open(layout.ledger) as ledger:
            ledger.steps._database.write("DELETE FROM steps WHERE step = ?", (step,))
    found = verify.report(layout)
    assert found.missing_steps == 2
    assert found.step == small.STEPS
    assert any("2 of 9 steps have no row" in problem for problem in found.problems)


def test_c3_a_run_whose_checkpoints_are_gone_is_not_good(layout: Layout) -> None:
    for _, folder in layout.checkpoints():
        shutil.rmtree(folder)
    assert any("holds none" in problem for problem in verify.report(layout).problems)


def test_f4_a_change_of_numerics_is_listed(base: Path, tmp_path: Path) -> None:
    layout = small.make(tmp_path / "run", base)
    small.stop_at(layout, 3)
    rig.configure(layout, base, training={"micro_batch_size": 1}, checkpoints={"save_steps": 2})
    rig.run(layout)
    found = verify.report(layout)
    assert found.good
    (change,) = found.numerics
    assert change["step"] == 3
    assert change["changes"] == ["sequences in a cell (training.micro_batch_size): 2 before, 1 now"]
    record = checkpoint.read_record(layout.checkpoints()[-1][1])
    assert record.numerics_changes == [{"step": 3, "changes": change["changes"]}]


def test_retention_while_verify_looks_is_no_problem(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    real = durable.check

    def check(folder: Path, deep: bool = True) -> list[str]:
        if folder.name == "checkpoint-4" and folder.exists():
            durable.remove_tree(folder)
        return real(folder, deep)

    monkeypatch.setattr(durable, "check", check)
    found = verify.report(layout)
    assert found.good
    assert [one.step for one in found.checkpoints] == [6, 8, 9]


# Replay.


def test_a_replay_gives_the_same_bits_and_touches_nothing(layout: Layout) -> None:
    before = small.tree(layout.current_model)
    assert replay(layout) == {
        "from": 8, "to": 9, "equal": True, "weights": True, "optimizer": True, "numerics": [],
    }  # fmt: skip
    assert small.tree(layout.current_model) == before


def test_a_replay_over_a_boundary(base: Path, tmp_path: Path) -> None:
    layout = small.make(tmp_path / "run", base, save_steps=3)
    small.stop_at(layout, 6)
    shutil.rmtree(layout.checkpoint(4), ignore_errors=True)
    found = replay(layout)
    assert (found["from"], found["to"], found["equal"]) == (3, 6, True)


def tamper(folder: Path, also_digests: bool) -> None:
    """Change one weight by a little, and seal the folder again; perhaps with digests to match."""
    from safetensors.torch import load_file, save_file

    from nightschool.training import state

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    if also_digests:
        record = json.loads((folder / "nightschool.json").read_text())
        live = {key.replace(".weight", ".default.weight"): tensor for key, tensor in tensors.items()}
        record["digests"]["weights"] = state.weights_digest(live)
        (folder / "nightschool.json").write_text(json.dumps(record))
    (folder / durable.MANIFEST).unlink()
    durable.seal(folder)


def test_control_a_replay_from_a_tampered_checkpoint_is_refused(layout: Layout) -> None:
    tamper(layout.checkpoint(8), also_digests=False)
    with pytest.raises(CheckpointError, match="the weights are not what was saved"):
        replay(layout)


def test_control_a_replay_from_a_well_tampered_checkpoint_ends_elsewhere(layout: Layout) -> None:
    """Manifest and digests all fit: only training again tells."""
    tamper(layout.checkpoint(8), also_digests=True)
    found = replay(layout)
    assert (found["equal"], found["weights"]) == (False, False)
    assert verify.report(layout).good, "nothing else can tell"


def test_a_replay_needs_two_checkpoints(base: Path, tmp_path: Path) -> None:
    layout = small.make(tmp_path / "run", base, save_steps=1000)
    small.stop_at(layout, 2)
    with pytest.raises(CheckpointError, match="needs two whole checkpoints"):
        replay(layout)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_verify_with_replay_runs_it_in_a_process_of_its_own(layout: Layout) -> None:
    assert verify.report(layout, replay=True).good
    tamper(layout.checkpoint(8), also_digests=False)
    with pytest.raises(VerifyError, match="the weights are not what was saved"):
        verify.report(layout, replay=True)


def test_a_replay_that_ends_elsewhere_is_not_good(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(layout.checkpoint(8), also_digests=True)
    monkeypatch.setattr(verify, "_replay", replay)
    assert not verify.report(layout, replay=True).good
