"""What another program's settings mean here, and which of them are refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nightschool import curriculum
from nightschool.curriculum import Part, whole
from nightschool.errors import CheckpointError, SettingsError
from nightschool.settings import Settings, parse_settings
from nightschool.takeover import values

CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "base_model_name_or_path": "x",
    "revision": None, "peft_version": "0.21", "auto_mapping": None,
    "megatron_core": "megatron.core", "megatron_config": None,
    "qalora_group_size": 16, "use_qalora": False, "loftq_config": {}, "eva_config": None, "layer_replication": None,
    "r": 8, "lora_alpha": 8, "lora_dropout": 0.05, "target_modules": ["q_proj"], "bias": "none", "use_dora": True,
    "rank_pattern": {"q_proj": 4}, "alpha_pattern": {}, "init_lora_weights": True, "modules_to_save": None,
    "fan_in_fan_out": False,
}  # fmt: skip


def test_every_lora_key_that_means_something_is_carried() -> None:
    assert values.lora_section(CONFIG) == {
        "r": 8, "lora_alpha": 8, "lora_dropout": 0.05, "target_modules": ["q_proj"], "use_dora": True,
        "rank_pattern": {"q_proj": 4}, "init_lora_weights": True,
    }  # fmt: skip
    found = values.lora_section({**CONFIG, "init_lora_weights": False, "bias": "all", "target_modules": None})
    assert (found["init_lora_weights"], found["bias"], found["target_modules"]) == (False, "all", [])


def test_pefts_own_file_is_read() -> None:
    """All keys that the installed PEFT writes are known, whatever it adds."""
    from peft import LoraConfig

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    plain = json.loads(json.dumps(config.to_dict(), default=lambda x: sorted(x) if isinstance(x, set) else str(x)))
    found = values.lora_section({**plain, "peft_type": "LORA", "task_type": "CAUSAL_LM"})
    assert (found["r"], found["target_modules"]) == (2, ["q_proj"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"use_qalora": True}, "qalora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_a15_what_does_not_resume_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        values.lora_section({**CONFIG, **change})


def group(**more: Any) -> dict[str, Any]:
    return {
        "params": [0],
        "lr": 1e-4,
        "initial_lr": 4e-4,
        "betas": [0.8, 0.9],
        "eps": 1e-7,
        "weight_decay": 0.1,
        **more,
    }


def test_the_optimizers_values() -> None:
    none = group(params=[], weight_decay=0.0)
    found = values.optimizer_values([group(), none], values.ADAM_STATE)
    assert (found.name, found.weight_decay, found.beta1, found.beta2, found.epsilon) == (
        "adamw_torch",
        0.1,
        0.8,
        0.9,
        1e-7,
    )
    assert (found.rate, found.peak) == (1e-4, 4e-4)
    assert values.optimizer_values([group(fused=True), none], values.ADAM_STATE).name == "adamw_torch_fused"


@pytest.mark.parametrize(
    ("groups", "keys", "word"),
    [
        ([group(), group()], {"momentum_buffer"}, "momentum_buffer"),
        ([group(), group()], {"state1", "state2", "step"}, "state1"),
        ([group()], values.ADAM_STATE, "1 parameter group"),
        ([group(), group(), group(), group()], values.ADAM_STATE, "4 parameter groups"),
        ([group(), group(weight_decay=0.0, lr=1e-3)], values.ADAM_STATE, "lr"),
        ([group(), group()], values.ADAM_STATE, "weight decay"),
        ([group(amsgrad=True), group(weight_decay=0.0)], values.ADAM_STATE, "amsgrad"),
        ([group(correct_bias=True), group(weight_decay=0.0)], values.ADAM_STATE, "correct_bias"),
        ([group(decoupled_weight_decay=False), group(weight_decay=0.0)], values.ADAM_STATE, "AdamW"),
    ],
)
def test_what_no_optimizer_here_does_is_refused(groups: list[dict[str, Any]], keys: set[str], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        values.optimizer_values(groups, keys)


@pytest.mark.parametrize(
    ("rate", "peak", "wanted"),
    [(5e-5, 1e-4, 5e-5), (1e-5, 1e-4, 1e-5), (9.9e-6, 1e-4, 1e-4), (0.0, 1e-4, 1e-4), (math.nan, 1e-4, 1e-4)],
)
def test_a3_the_rate_to_go_on_with(rate: float, peak: float, wanted: float) -> None:
    assert values.learning_rate(rate, peak)[0] == wanted


def test_a_peak_that_makes_no_sense_is_refused() -> None:
    for peak in (0.0, math.nan, math.inf):
        with pytest.raises(CheckpointError):
            values.learning_rate(0.0, peak)


def test_the_log() -> None:
    log = [
        {"step": 10, "loss": 2.0, "learning_rate": 1e-4, "grad_norm": 1.5, "epoch": 0.1},
        {"step": 10, "eval_loss": 1.0}, {"step": 20, "loss": "1.5"}, {"step": 20, "loss": 1.25, "learning_rate": 5e-5},
        {"step": 30, "loss": math.nan}, {"step": 40, "loss": 1.0}, {"step": 30, "train_loss": 1.0}, {"loss": 1.0}, "x",
        None,
        {"step": True, "loss": 1.0}, {"step": 0, "loss": 1.0},
    ]  # fmt: skip
    found = values.losses(log, 30)
    assert [row.step for row in found] == [10, 20, 30]
    assert (found[0].loss, found[0].learning_rate, found[0].grad_norm, found[1].loss) == (2.0, 1e-4, 1.5, 1.25)
    assert math.isnan(found[2].loss)
    assert values.losses(None, 30) == values.losses("x", 30) == []
    assert values.logged_peak(log) == 1e-4
    assert values.logged_peak([]) is None


def settings() -> Settings:
    return parse_settings({"model": {"name": "x"}})


def test_the_entry_that_stands_for_what_was_done_elsewhere() -> None:
    recipe = values.adopted_recipe({"learning_rate": 1e-4}, 40, moments=True)
    first = whole([Part(1, "d", 40)], recipe)
    assert (first.start, first.stop, first.adopted) == (0, 40, True)
    own = settings().entry_recipe(settings().data_recipe(), {})
    assert own.keys() == first.settings.keys() - {"adopted"}
    mine = whole([Part(2, "e", 16)], json.dumps(own))
    assert not mine.adopted
    assert curriculum.place([first, mine], 40) == curriculum.Place(1, 0)
    assert curriculum.schedule_origin([first, mine], 1) == 0
    # Without moments, a new warm-up begins where the run came here.
    fresh = whole([Part(1, "d", 40)], values.adopted_recipe({"learning_rate": 1e-4}, 40, moments=False))
    assert curriculum.schedule_origin([fresh, mine, mine], 2) == 40
