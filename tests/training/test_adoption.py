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

from nightschool import verify
from nightschool.errors import CheckpointError, DataError, ModelError, NightschoolError, SettingsError, WorkspaceError
from nightschool.forecast import read_queue
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_record
from nightschool.settings import load_settings
from nightschool.snapshots import cut, forget, rollback, states
from nightschool.status import read_status
from nightschool.training import moments
from nightschool.training import optimizer as optimizers
from nightschool.training.replay import replay
from tests.training import rig, theirs
from tests.training.conftest import RECIPE
from tests.training.theirs import Theirs

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora": ("llama", "lora", {"optim": "adamw_torch"}),
    "lora-fused-betas": ("llama", "lora", {"optim": "adamw_torch_fused", "adam_beta1": 0.8, "adam_beta2": 0.95}),
    "full": ("llama", "full", {"optim": "adamw_torch", "adam_beta1": 0.85, "adam_beta2": 0.98, "weight_decay": 0.3}),
    "full-gpt2": ("gpt2", "full", {"optim": "adamw_torch", "adam_epsilon": 1e-6, "lr_scheduler_type": "cosine"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Theirs]:
    known: dict[str, Theirs] = {}

    def get(case: str) -> Theirs:
        if case not in known:
            kind, method, arguments = CASES[case]
            root = tmp_path_factory.mktemp(case)
            known[case] = theirs.make(root, rig.make_base(root / "base", kind), method, **arguments)
        return known[case]

    return get


@pytest.mark.parametrize("case", list(CASES))
def test_the_next_update_is_the_trainers_own(
    made: Callable[[str], Theirs], tmp_path: Path, case: str, record_property: Callable[[str, object], None]
) -> None:
    run = made(case)
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


@pytest.mark.parametrize("case", ["lora", "full"])
@pytest.mark.parametrize("spoil", ["_swapped", "_reset"])
def test_control_with_other_moments_the_next_update_leads_elsewhere(
    made: Callable[[str], Theirs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, spoil: str
) -> None:
    """Two moments of one shape that change places, or none at all: the comparison above tells."""
    run, real = made(case), moments.load

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


def test_settings_steps_and_curve_go_on(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    run = made("lora-fused-betas")
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


def test_restarts_change_no_bit_of_an_adopted_run(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    run = made("lora")
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


def test_an_adopted_run_never_begins_again_from_the_bare_base(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    layout, _ = theirs.take_over(tmp_path / "ws", made("lora").folder)
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


def test_the_origin_can_be_gone_back_to_and_not_be_forgotten(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    often = {"save_steps": 1, "save_total_limit": 2}
    layout, _ = theirs.take_over(tmp_path / "ws", made("lora").folder, checkpoints=often)
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


def test_the_lineage_is_not_that_of_a_run_on_the_bare_base(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    layout, _ = theirs.take_over(tmp_path / "ws", made("lora").folder)
    again, _ = theirs.take_over(tmp_path / "again", made("lora").folder, training={"learning_rate": 1e-5})
    one, two = read_record(layout.checkpoint(5)), read_record(again.checkpoint(5))
    assert one.lineage == two.lineage
    other, _ = theirs.take_over(tmp_path / "other", made("lora-fused-betas").folder, made("lora").base)
    assert read_record(other.checkpoint(5)).lineage != one.lineage
    assert load_settings(again.settings_file).training.learning_rate == 1e-5


def copied(run: Theirs, tmp_path: Path) -> Path:
    return shutil.copytree(run.folder, tmp_path / "copy") / run.checkpoint.name


def test_an_adapter_without_optimizer_state_warms_up_and_says_so(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    checkpoint = copied(made("lora"), tmp_path)
    (checkpoint / "optimizer.pt").unlink()
    layout, said = theirs.take_over(tmp_path / "ws", checkpoint)
    assert "fresh moments" in said
    assert read_record(layout.checkpoint(5)).root["adopted"]["optimizer"] is None
    theirs.learn(layout, "a", 7, 3 * theirs.ROWS)
    rates = [rate for step, _, rate in rig.outcome(layout).curve if step > 5]
    # The peak is the highest in its log; the warm-up of a hundred steps begins here.
    peak = max(row["learning_rate"] for row in _state(made("lora"))["log_history"] if "loss" in row)
    assert rates == pytest.approx([0.0, peak / 100, 2 * peak / 100])


def test_a_plain_adapter_begins_at_step_0(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    run, plain = made("lora"), tmp_path / "adapter"
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


def test_another_tokenizer_than_the_bases_is_told(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    run = made("lora")
    checkpoint = copied(run, tmp_path)
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


def test_a_full_model_in_several_files(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = made("full")
    checkpoint = copied(run, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="40KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 1
    layout, _ = theirs.take_over(tmp_path / "ws", checkpoint, run.base)
    assert theirs.furthest(theirs.saved(layout.checkpoint(5)), theirs.saved(run.checkpoint)) == 0


def test_a_full_model_needs_its_base_to_be_named(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--model"):
        theirs.take_over(tmp_path / "ws", made("full").folder)
    assert not (tmp_path / "ws").exists()


def test_the_groups_of_older_releases_are_put_in_order(made: Callable[[str], Theirs]) -> None:
    """They gave weight decay to norms that are not LayerNorms; the file does not say which release it was."""
    from transformers.trainer_pt_utils import get_parameter_names

    run = made("full")
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


def test_what_the_folder_decides_cannot_be_chosen_anew(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    folder = made("lora").folder
    changes: list[dict[str, Any]] = [
        {"training": {"method": "full"}}, {"lora": {"r": 2}}, {"training": {"optimizer": "sgd"}},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(SettingsError):
            theirs.take_over(tmp_path / "ws", folder, **change)
    assert not (tmp_path / "ws").exists()


# What does not fit is refused, and nothing is left.


def spoil_optimizer(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    change(state)
    torch.save(state, checkpoint / "optimizer.pt")


def _wrong_shape(state: dict[str, Any]) -> None:
    state["state"][3]["exp_avg"] = torch.zeros(2, 3)


def _one_group(state: dict[str, Any]) -> None:
    state["param_groups"] = [{**state["param_groups"][0], "params": list(range(len(state["state"])))}]


def _one_parameter_fewer(state: dict[str, Any]) -> None:
    last = state["param_groups"][0]["params"].pop()
    del state["state"][last]


def _others_decay(state: dict[str, Any]) -> None:
    first, second = state["param_groups"]
    second["params"].append(first["params"].pop())
    second["weight_decay"] = 0.1


def _momentum(state: dict[str, Any]) -> None:
    for number in state["state"]:
        state["state"][number] = {"momentum_buffer": state["state"][number]["exp_avg"]}


def _adam(state: dict[str, Any]) -> None:
    state["param_groups"][0]["decoupled_weight_decay"] = False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_wrong_shape, "has shape"),
        (_one_group, "1 parameter group"),
        (_one_parameter_fewer, "parameters with weight decay"),
        (_others_decay, "weight decay"),
        (_momentum, "momentum_buffer"),
        (_adam, "decoupled_weight_decay"),
    ],
)
def test_moments_that_do_not_fit_are_refused(
    made: Callable[[str], Theirs], tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    checkpoint = copied(made("lora"), tmp_path)
    spoil_optimizer(checkpoint, change)
    with pytest.raises(CheckpointError, match=words):
        theirs.take_over(tmp_path / "ws", checkpoint)
    assert not (tmp_path / "ws").exists()


def test_a_pickle_in_place_of_the_optimizer_is_never_opened(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    import zipfile

    checkpoint = copied(made("lora"), tmp_path)
    with zipfile.ZipFile(checkpoint / "optimizer.pt", "w") as archive:
        archive.writestr("optimizer/data.pkl", theirs.BOMB)
        archive.writestr("optimizer/version", "3")
    with pytest.raises(CheckpointError, match="never unpickled"):
        theirs.take_over(tmp_path / "ws", checkpoint)
    shutil.copy(made("lora").checkpoint / "optimizer.pt", checkpoint)
    (checkpoint / "scheduler.pt").write_bytes(theirs.BOMB)
    layout, said = theirs.take_over(tmp_path / "ws", checkpoint)
    assert "scheduler.pt is missing or cannot be read" in said
    # The same rate is in optimizer.pt.
    assert load_settings(layout.settings_file).training.learning_rate == pytest.approx(1.5e-3)


def test_a_rate_at_the_end_of_its_schedule_is_not_gone_on_with(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    checkpoint = copied(made("lora"), tmp_path)
    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    torch.save({**state, "_last_lr": [1e-4, 1e-4]}, checkpoint / "scheduler.pt")
    layout, said = theirs.take_over(tmp_path / "ws", checkpoint)
    assert load_settings(layout.settings_file).training.learning_rate == 2e-3
    assert "less than a tenth" in said


def test_another_base_is_found_out(made: Callable[[str], Theirs], tmp_path: Path) -> None:
    other = rig.make_base(tmp_path / "wide", "gpt2")
    with pytest.raises(NightschoolError):
        theirs.take_over(tmp_path / "ws", made("lora").folder, other)
    checkpoint = copied(made("lora"), tmp_path)
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    (checkpoint / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/away"}))
    with pytest.raises(ModelError, match="--model"):
        theirs.take_over(tmp_path / "ws", checkpoint)


def test_f_killed_at_any_change_leaves_no_workspace_that_looks_whole(
    made: Callable[[str], Theirs], tmp_path: Path
) -> None:
    """After each, the same command makes it; nothing of the attempt before is taken for part of it."""
    from nightschool import durable

    folder = made("lora").folder
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
