"""What a Hugging Face Trainer's files say, in the settings of this program. Pure: no files, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightschool.errors import CheckpointError, SettingsError
from nightschool.lora_options import check_lora
from nightschool.settings import RECIPE_VERSION, canonical

LEAST_SHARE = 0.1
"""A rate below this share of the peak was near the end of its schedule; training goes on at the peak then."""

_NOT_SET_HERE = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
}  # fmt: skip
# Written by PEFT with a value that means nothing while another key is off.
_WITHOUT_MEANING = {"megatron_core": "megatron_config", "qalora_group_size": "use_qalora"}

_NO_BIAS = ("bias", "none")

ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}
FRESH = "make a copy of the folder without optimizer.pt: then the optimizer starts with fresh moments"


def lora_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """The section [lora] that an adapter_config.json means.

    Raises:
        SettingsError: it is no LoRA adapter of a causal model, or uses an option that is not offered, which is named.
    """
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind != "LORA":
        raise SettingsError(f"adapter_config.json: peft_type is {kind!r}. Only LoRA adapters can be taken over.")
    if task not in (None, "CAUSAL_LM"):
        raise SettingsError(
            f"adapter_config.json: task_type is {task!r}. Only causal language models are trained here."
        )
    found: dict[str, Any] = {}
    for key, value in config.items():
        switch = _WITHOUT_MEANING.get(key)
        if key in _NOT_SET_HERE or (switch is not None and not config.get(switch)):
            continue
        # Off, or PEFT's default, unless it is the initialisation that is off.
        if value in (None, {}, [], "") or (value is False and key != "init_lora_weights") or (key, value) == _NO_BIAS:
            continue
        found[key] = value
    # Left out, it would mean all linear layers here.
    targets = config.get("target_modules") or []
    # PEFT writes a set, in any order.
    found["target_modules"] = targets if isinstance(targets, str) else sorted(targets)
    try:
        check_lora(found)
    except SettingsError as error:
        raise SettingsError(f"adapter_config.json cannot be taken over: {error}") from None
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class OptimizerValues:
    """What an optimizer's groups say: its name as it is offered here, and the hyperparameters.

    `rate` is that of the next update, `peak` the one that the schedule began with.
    """

    name: str
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    rate: float
    peak: float


def optimizer_values(groups: Sequence[Mapping[str, Any]], keys: set[str]) -> OptimizerValues:
    """Which optimizer wrote this state, and how it was set; `keys` are those of its state, over all parameters.

    Raises:
        CheckpointError: it is none of which that is certain, or it was set as no optimizer here can be.
    """
    first = groups[0] if groups else {}
    if keys != ADAM_STATE or "betas" not in first:
        shown = ", ".join(sorted(keys)) or "nothing"
        raise CheckpointError(
            f"optimizer.pt is not the state of AdamW: it keeps {shown} for a parameter. Only AdamW's moments can be "
            f"taken over; else {FRESH}."
        )
    used = [group for group in groups if group.get("params")]
    odd = [key for key in ("amsgrad", "maximize", "correct_bias") if any(group.get(key) for group in used)]
    if any(group.get("decoupled_weight_decay") is False and group.get("weight_decay") for group in used):
        odd.append("decoupled_weight_decay = false (Adam, not AdamW)")
    if odd:
        raise CheckpointError(f"optimizer.pt was made with {', '.join(odd)}, which is not offered here; {FRESH}.")
    if len(groups) != 2:
        raise CheckpointError(
            f"optimizer.pt has {len(groups)} parameter group{'' if len(groups) == 1 else 's'}; the Trainer makes two, "
            f"those with weight decay and those without, so it is not known which parameter is which. Or {FRESH}."
        )
    for key in ("lr", "betas", "eps"):
        if len({str(group.get(key)) for group in used}) > 1:
            raise CheckpointError(
                f"The two parameter groups in optimizer.pt have different values of {key}, and a run here has one; "
                f"{FRESH}."
            )
    if groups[1].get("params") and groups[1].get("weight_decay"):
        raise CheckpointError(
            f"Both parameter groups in optimizer.pt have weight decay; here only the first has. {FRESH}."
        )
    main = used[0] if used else first
    rate = float(main.get("lr", 0.0))
    return OptimizerValues(
        name="adamw_torch_fused" if main.get("fused") else "adamw_torch",
        weight_decay=float(groups[0].get("weight_decay") or 0.0),
        beta1=float(main["betas"][0]),
        beta2=float(main["betas"][1]),
        epsilon=float(main["eps"]),
        rate=rate,
        peak=float(main.get("initial_lr", rate)),
    )


def learning_rate(rate: float, peak: float) -> tuple[float, str]:
    """The rate to go on with, and why in words.

    The one that the Trainer's next update would have had; but the peak where that is under a tenth of it: a schedule
    that has come to its end says nothing about the data to come.
    """
    if not (math.isfinite(peak) and peak > 0):
        raise CheckpointError(f"scheduler.pt and optimizer.pt give no learning rate that makes sense (peak {peak}).")
    if math.isfinite(rate) and rate >= LEAST_SHARE * peak:
        return rate, "the one that the Trainer's next update would have had"
    return peak, f"the Trainer's peak, because its next update would have had {rate:.3g}, less than a tenth of it"


def logged_peak(history: Sequence[Any]) -> float | None:
    """The highest learning rate in a log, or None."""
    rates = [_number(row.get("learning_rate")) for row in history if isinstance(row, Mapping)]
    return max((rate for rate in rates if math.isfinite(rate) and rate > 0), default=None)


@dataclass(frozen=True)
class Logged:
    """One line of a Trainer's log: loss in nats, a mean over the steps since the line before it."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


def losses(history: Any, step: int) -> list[Logged]:
    """The logged training losses up to `step`, in order, one for a step; of two for one step the later counts."""
    found: dict[int, Logged] = {}
    for row in history if isinstance(history, list) else []:
        if not isinstance(row, Mapping) or "loss" not in row:
            continue
        at = row.get("step")
        if isinstance(at, int) and not isinstance(at, bool) and 1 <= at <= step:
            found[at] = Logged(
                at, _number(row["loss"]), _number(row.get("learning_rate")), _number(row.get("grad_norm"))
            )
    return [found[at] for at in sorted(found)]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def adopted_recipe(training: Mapping[str, Any], step: int, moments: bool) -> str:
    """The recipe of the entry that stands for what was done elsewhere.

    It has every key of an entry's recipe, with the Trainer's values where they are known, and such that the entry
    over `step` sequences is `step` steps long. It is never trained, so only its characters matter.

    Args:
        training: settings of [training] as they were read from the folder.
        step: steps done.
        moments: whether the optimizer's moments were taken over. If not, the schedule begins after this entry.
    """
    return canonical({
        "v": RECIPE_VERSION,
        "data": {},
        "train_batch_size": 1,
        "epochs": 1,
        "learning_rate": training["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": training.get("weight_decay", 0.0),
        "adam_beta1": training.get("adam_beta1", 0.9),
        "adam_beta2": training.get("adam_beta2", 0.999),
        "adam_epsilon": training.get("adam_epsilon", 1e-8),
        "max_grad_norm": 1.0,
        "carry_optimizer": True,
        "adopted": {"step": step, "moments": moments},
    })  # fmt: skip
