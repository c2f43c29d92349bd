"""Going on from a Hugging Face Trainer: the next update is the one that it would have made itself."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nightschool import verify
from nightschool.errors import CheckpointError, DataError, SettingsError, WorkspaceError
from nightschool.forecast import read_queue
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_record
from nightschool.settings import load_settings
from nightschool.snapshots import cut, forget, rollback, states
from nightschool.status import read_status
from nightschool.training import moments
from nightschool.training import optimizer as optimizers
from nightschool.training.replay import replay
from nightschool.training.trainer import Trainer
from tests.training import rig, theirs
from tests.training.conftest import RECIPE
from tests.training.theirs import CASES, Theirs


@pytest.mark.parametrize("case", list(CASES))
def test_the_next_update_is_the_trainers_own(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path, case: str, record_property: Callable[[str, object], None]
) -> None:
    run = made_by_trainer(case)
    before = theirs.tree(run.folder)
    wanted = theirs.train(run, tmp_path / "on", theirs.rows(7), 6, resume=run.checkpoint)
    layout, said = theirs.take_over(tmp_path / "ws", run.folder, run.base if run.method == "full" else None)
    assert theirs.tree(run.folder) == before
    theirs.learn(layout, "next", 7)
    found = theirs.saved(layout.checkpoint(6))
    assert theirs.furthest(found, wanted) <= 1e-6
    moved = theirs.furthest(theirs.saved(run.checkpoint), wanted)
    assert moved > 1e-4
    assert "training_args.bin" in said
    record_property("furthest", theirs.furthest(found, wanted))


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("llama", {"r": 4, "target_modules": "all-linear", "use_dora": True, "modules_to_save": ["lm_head"]}),
        # PEFT writes the frozen embeddings beside the adapter on them.
        ("llama", {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}),
        ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "bias": "lora_only", "rank_pattern": {"c_proj": 2}}),
    ],
)
def test_adapters_of_other_shapes(tmp_path: Path, kind: str, lora: dict[str, Any]) -> None:
    run = theirs.make(tmp_path, rig.make_base(tmp_path / "base", kind), "lora", lora=lora)
    wanted = theirs.train(run, tmp_path / "on", theirs.rows(7), 6, resume=run.checkpoint)
    layout, _ = theirs.take_over(tmp_path / "ws", run.folder)
    rig.add(layout, "next", theirs.packed(7))

    def keep(trainer: Trainer) -> None:
        trainer.loop.release = lambda: None  # its weights are looked at when it has ended

    found = {name: tensor.detach() for name, tensor in rig.run(layout, on_start=keep).loop.weights.items()}
    assert theirs.furthest(found, wanted) <= 1e-6

    # Embeddings that were trained, or are another model's, are no part of what is trained here.
    if "embed_tokens" in lora["target_modules"]:
        path = run.checkpoint / "adapter_model.safetensors"
        tensors = load_file(path)
        (name,) = [name for name in tensors if "base_layer" in name]
        save_file({**tensors, name: tensors[name] + 1e-3}, path)
        with pytest.raises(CheckpointError, match="not part of this model"):
            theirs.take_over(tmp_path / "other", run.folder)


@pytest.mark.parametrize("case", ["lora", "full"])
@pytest.mark.parametrize("spoil", ["_swapped", "_reset"])
def test_control_with_other_moments_the_next_update_leads_elsewhere(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, spoil: str
) -> None:
    """Two moments of one shape that change places, or none at all: the comparison above tells."""
    run, real = made_by_trainer(case), moments.load

    def load(optimizer: torch.optim.Optimizer, *more: Any) -> str | None:
        said = real(optimizer, *more)
        globals()[spoil](optimizer)
        return said

    monkeypatch.setattr(moments, "load", load)
    wanted = theirs.train(run, tmp_path / "on", theirs.rows(7), 6, resume=run.checkpoint)
    layout, _ = theirs.take_over(tmp_path / "ws", run.folder, run.base)
    theirs.learn(layout, "next", 7)
    assert theirs.furthest(theirs.saved(layout.checkpoint(6)), wanted) > 1e-4


def _swapped(optimizer: torch.optim.Optimizer) -> None:
    """Let the moments of two parameters of one shape change places."""
    by_shape: dict[Any, Any] = {}
    for parameter, state in optimizer.state.items():
        other = by_shape.setdefault((parameter.shape, parameter.numel() > 40), parameter)
        if other is not parameter:
            optimizer.state[parameter], optimizer.state[other] = optimizer.state[other], state
            return
    raise AssertionError("no two parameters have one shape")


def _reset(optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def test_settings_steps_and_curve_go_on(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    run = made_by_trainer("lora-fused-betas")
    layout, said = theirs.take_over(tmp_path / "ws", run.folder)
    settings = load_settings(layout.settings_file)
    training = settings.training
    assert settings.model.name == str(run.base)
    assert {key: settings.lora[key] for key in ("r", "lora_alpha")} == {"r": 4, "lora_alpha": 16}
    assert sorted(settings.lora["target_modules"]) == sorted(theirs.LORA["target_modules"])
    assert (training.optimizer, training.weight_decay) == ("adamw_torch_fused", 0.1)
    assert (training.adam_beta1, training.adam_beta2, training.train_batch_size) == (0.8, 0.95, theirs.ROWS)
    # 5 of 20 steps of a linear decay are done.
    assert training.learning_rate == pytest.approx(2e-3 * 15 / 20, rel=1e-9)
    assert (training.lr_scheduler_type, training.warmup_steps) == ("constant", 0)
    assert f"Learning rate: {training.learning_rate:.6g}" in said

    record = read_record(layout.checkpoint(5))
    assert (record.step, record.root["adopted"]["step"]) == (5, 5)
    assert record.digests == {key: record.root["adopted"][key] for key in ("weights", "optimizer")}
    status = read_status(layout)
    assert (status.step, status.learned, status.queued, status.steps_queued) == (5, 1, 0, 0)
    assert read_queue(layout, 10).steps == 0
    with Ledger.open(layout.ledger) as ledger:
        assert [row.step for page in ledger.steps.losses() for row in page] == [2, 4]
        (entry,) = entries_of(ledger)
        assert entry.adopted
        assert (entry.start, entry.stop, entry.length) == (0, 5, 5)

    theirs.learn(layout, "a", 7, 3 * theirs.ROWS)
    theirs.learn(layout, "b", 8)
    logged = {row["step"]: row["loss"] for row in _state(run)["log_history"] if "loss" in row}
    curve = {step: loss for step, loss, _ in rig.outcome(layout).curve}
    assert list(curve) == [2, 4, 6, 7, 8, 9]
    assert {step: curve[step] for step in logged} == pytest.approx(logged)
    assert {rate for step, _, rate in rig.outcome(layout).curve if step > 5} == {training.learning_rate}
    report = verify.report(layout)
    assert (report.good, report.missing_steps, report.step) == (True, 0, 9), report.problems
    assert [(b.step, b.carried) for b in report.boundaries] == [(5, True), (8, True)]
    assert report.boundaries[0].before == "(taken over from out/checkpoint-5)"
    assert all(not math.isnan(b.loss_before or 0.0) for b in report.boundaries)
    # A hole after the point where the run came here is one.
    with Ledger.open(layout.ledger) as ledger:
        ledger._database.write("DELETE FROM steps WHERE step = 7")
    assert verify.report(layout).missing_steps == 1


def _state(run: Theirs) -> dict[str, Any]:
    return json.loads((run.checkpoint / "trainer_state.json").read_text())


def test_restarts_change_no_bit_of_an_adopted_run(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    run = made_by_trainer("lora")
    one, _ = theirs.take_over(tmp_path / "one", run.folder)
    two, _ = theirs.take_over(tmp_path / "two", run.folder)
    for layout in (one, two):
        rig.add(layout, "a", theirs.packed(7, 3 * theirs.ROWS))
        rig.add(layout, "b", theirs.packed(8, 2 * theirs.ROWS))
    rig.run(one)
    for step in (5 + 2, 5 + 4):
        with pytest.raises(rig.Killed):
            rig.run(two, on_step=rig.kill_at(step))
    rig.run(two)
    assert rig.outcome(one) == rig.outcome(two)
    assert replay(two)["equal"]


def test_an_adopted_run_never_begins_again_from_the_bare_base(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    layout, _ = theirs.take_over(tmp_path / "ws", made_by_trainer("lora").folder)
    rig.add(layout, "a", theirs.packed(7))
    shutil.move(layout.checkpoint(5), tmp_path / "away")
    with pytest.raises(CheckpointError, match="not begin"):
        rig.run(layout)
    # Also where the ledger knows of no checkpoint any more.
    with Ledger.open(layout.ledger) as ledger:
        ledger.checkpoints.retire(5, "the test took it away")
    with pytest.raises(CheckpointError, match="taken over"):
        rig.run(layout)
    shutil.move(tmp_path / "away", layout.checkpoint(5))
    rig.run(layout)
    assert rig.outcome(layout).step == 6


def test_the_origin_can_be_gone_back_to_and_not_be_forgotten(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    often = {"save_steps": 1, "save_total_limit": 2}
    layout, _ = theirs.take_over(tmp_path / "ws", made_by_trainer("lora").folder, checkpoints=often)
    theirs.learn(layout, "a", 7, 3 * theirs.ROWS)
    theirs.learn(layout, "b", 8)
    whole = rig.outcome(layout)
    assert not layout.checkpoint(5).exists()
    kept = states.find(layout, "origin")
    assert (kept.step, states.problems(kept, kept.record.root)) == (5, [])
    with Ledger.open(layout.ledger) as ledger, cut.at_rest(layout, ledger, "a test"):
        cut.perform(layout, ledger, rollback.plan(layout, ledger, "origin").cut)
        assert read_status(layout).step == 5
        assert [one.steps for one in read_queue(layout, 9).files] == [3, 1]
    rig.run(layout)
    assert rig.outcome(layout) == whole
    assert verify.report(layout).good
    with Ledger.open(layout.ledger) as ledger:
        with pytest.raises(DataError, match="taken over"):
            forget.plan(layout, ledger, forget.find(ledger, ["1"]))
        found = forget.plan(layout, ledger, forget.find(ledger, ["a"]))
        assert (found.start, found.then, found.redo) == ("origin", 5, 1)


def test_the_lineage_is_not_that_of_a_run_on_the_bare_base(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    layout, _ = theirs.take_over(tmp_path / "ws", made_by_trainer("lora").folder)
    again, _ = theirs.take_over(tmp_path / "again", made_by_trainer("lora").folder, training={"learning_rate": 1e-5})
    one, two = read_record(layout.checkpoint(5)), read_record(again.checkpoint(5))
    assert one.lineage == two.lineage
    other, _ = theirs.take_over(
        tmp_path / "other", made_by_trainer("lora-fused-betas").folder, made_by_trainer("lora").base
    )
    assert read_record(other.checkpoint(5)).lineage != one.lineage
    assert load_settings(again.settings_file).training.learning_rate == 1e-5


def test_an_adapter_without_optimizer_state_warms_up_and_says_so(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    checkpoint = theirs.copied(made_by_trainer("lora"), tmp_path)
    (checkpoint / "optimizer.pt").unlink()
    layout, said = theirs.take_over(tmp_path / "ws", checkpoint)
    assert "fresh moments" in said
    assert read_record(layout.checkpoint(5)).root["adopted"]["optimizer"] is None
    theirs.learn(layout, "a", 7, 3 * theirs.ROWS)
    rates = [rate for step, _, rate in rig.outcome(layout).curve if step > 5]
    # The peak is the highest in its log; the warm-up of a hundred steps begins here.
    peak = max(row["learning_rate"] for row in _state(made_by_trainer("lora"))["log_history"] if "loss" in row)
    assert rates == pytest.approx([0.0, peak / 100, 2 * peak / 100])


def test_a_plain_adapter_begins_at_step_0(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    run, plain = made_by_trainer("lora"), tmp_path / "adapter"
    plain.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(run.checkpoint / name, plain)
    layout, said = theirs.take_over(tmp_path / "ws", plain)
    assert "fresh moments" in said
    assert (read_status(layout).step, read_status(layout).learned) == (0, 0)
    assert theirs.furthest(theirs.saved(layout.checkpoint(0)), theirs.saved(run.checkpoint)) == 0
    first: list[float] = []
    rig.add(layout, "a", theirs.packed(7))
    rig.run(layout, on_start=lambda t: first.append(theirs.furthest(
        {name: p.detach() for name, p in t.loop.weights.items()}, theirs.saved(run.checkpoint))))  # fmt: skip
    assert first == [0.0]
    assert read_record(layout.checkpoint(1)).root["adopted"]["step"] == 0
    assert verify.report(layout).good


def test_another_tokenizer_than_the_bases_is_told(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    run = made_by_trainer("lora")
    checkpoint = theirs.copied(run, tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(run.base / name, checkpoint)
    _, said = theirs.take_over(tmp_path / "same", checkpoint, training={"learning_rate": 3e-4})
    assert "other tokens" not in said
    assert "chat template is used" not in said
    assert "Learning rate: 0.0003, as you set it." in said
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 300, "content": "<new>"})
    (checkpoint / "tokenizer.json").write_text(json.dumps(content))
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    _, said = theirs.take_over(tmp_path / "other", checkpoint)
    assert "other tokens" in said
    assert "chat template is used" in said


def test_a_full_model_in_several_files(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = made_by_trainer("full")
    checkpoint = theirs.copied(run, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="40KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 1
    layout, _ = theirs.take_over(tmp_path / "ws", checkpoint, run.base)
    assert theirs.furthest(theirs.saved(layout.checkpoint(5)), theirs.saved(run.checkpoint)) == 0


def test_a_full_model_needs_its_base_to_be_named(made_by_trainer: Callable[[str], Theirs], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--model"):
        theirs.take_over(tmp_path / "ws", made_by_trainer("full").folder)
    assert not (tmp_path / "ws").exists()


def test_the_groups_of_older_releases_are_put_in_order(made_by_trainer: Callable[[str], Theirs]) -> None:
    """They gave weight decay to norms that are not LayerNorms; the file does not say which release it was."""
    from transformers.trainer_pt_utils import get_parameter_names

    run = made_by_trainer("full")
    model = theirs.model_of(run.base, "full", {})
    names = [name for name, _ in model.named_parameters()]
    decayed = [name for name in names if name in set(get_parameter_names(model, [torch.nn.LayerNorm]))]
    assert any("norm" in name for name in decayed)
    before = [*decayed, *(name for name in names if name not in decayed)]
    moment = {name: torch.full_like(p, at + 1.0) for at, (name, p) in enumerate(model.named_parameters())}
    saved = {
        "state": {
            number: {"step": 5, "exp_avg": moment[name], "exp_avg_sq": moment[name]}
            for number, name in enumerate(before)
        },
        "param_groups": [
            {"params": list(range(len(decayed)))}, {"params": list(range(len(decayed), len(before)))}
        ],
    }  # fmt: skip
    optimizer = optimizers.build("adamw_torch", model, RECIPE)
    said = moments.load(optimizer, model, saved, run.checkpoint / "optimizer.pt")
    assert "norm" in str(said)
    for name, parameter in model.named_parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment[name]), name
        assert float(optimizer.state[parameter]["step"]) == 5


def test_f_killed_at_any_change_leaves_no_workspace_that_looks_whole(
    made_by_trainer: Callable[[str], Theirs], tmp_path: Path
) -> None:
    """After each, the same command makes it; nothing of the attempt before is taken for part of it."""
    from nightschool import durable

    folder = made_by_trainer("lora").folder
    counting = rig.Mortal(None, None)
    with durable.use(counting):
        theirs.take_over(tmp_path / "whole", folder)
    total = len(counting.operations)
    # The last rename is that of nightschool.toml; those before it move the other parts into place.
    last = total - 1 - counting.operations[::-1].index("rename")
    between = 0
    for at in sorted({*range(5, last, last // 3), last - 4, last}):
        disk = dying_at(at)
        root = tmp_path / f"killed{at}"
        with durable.use(disk), pytest.raises(BaseException):  # noqa: B017 - Killed, or what met it first
            theirs.take_over(root, folder)
        assert not (root / "nightschool.toml").exists(), at
        if not any(path.name in ("archive", "current_model") for path in root.iterdir()):
            layout, _ = theirs.take_over(root, folder)
            assert not list(root.glob(".tmp-*"))
            assert layout.checkpoint(5).is_dir()
        else:
            # Cut off in the very moment of moving into place: not begun anew over it, but never taken for a workspace.
            between += 1
            with pytest.raises(WorkspaceError, match="cut off"):
                theirs.take_over(root, folder)
    assert between


def dying_at(at: int) -> rig.Mortal:
    disk = rig.Mortal(lambda *_: disk.die() if len(disk.operations) >= at else None, None)
    return disk
