"""Optimizers, by the names transformers gives them: those proved to go on from a checkpoint with the same bits.

Always two parameter groups, those with weight decay first, and the parameters' names written into them: so a Hugging
Face Trainer can go on from our state, and two moments of one shape can never change places unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nightschool import optimizers
from nightschool.errors import CheckpointError, ModelError, SettingsError

# transformers' Trainer gives no weight decay to parameters of these names, nor to those of a LayerNorm.
_NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")

Groups = list[dict[str, Any]]
Maker = Callable[[Groups, Mapping[str, Any]], torch.optim.Optimizer]


def _adamw(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    # foreach and for-loop give the same bits; fused ones differ from both, so it has a name of its own.
    return torch.optim.AdamW(groups, **_adam(recipe), fused=False)


def _adamw_fused(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **_adam(recipe), fused=True)


def _sgd(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=recipe["learning_rate"], fused=False)


def _adagrad(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, lr=recipe["learning_rate"], fused=False)


def _rmsprop(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=recipe["learning_rate"])


def _adafactor(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    for group in groups:
        if any(p.dtype != torch.float32 for p in group["params"]):
            # Its state is cast to the parameters' type when loaded: what goes on is not what was saved.
            raise SettingsError(
                'training.optimizer = "adafactor" does not resume to the same bits unless the trained parameters are '
                'float32. Set model.dtype = "float32", or use "adamw_torch".'
            )
    return Adafactor(groups, lr=recipe["learning_rate"], scale_parameter=False, relative_step=False)


def _adam(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "lr": recipe["learning_rate"],
        "betas": (recipe["adam_beta1"], recipe["adam_beta2"]),
        "eps": recipe["adam_epsilon"],
        # Each group has its own.
        "weight_decay": 0.0,
    }


def _bitsandbytes(kind: str, bits: int) -> Maker:
    def make(groups: Groups, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
        try:
            from bitsandbytes import optim  # pyright: ignore[reportMissingImports] - an extra
        except ImportError:
            raise ModelError(
                "This optimizer needs bitsandbytes, which is not installed here: "
                "pip install 'nightschool[quantization]'."
            ) from None
        options = _adam(recipe)
        if kind == "Lion":
            del options["eps"]
        return getattr(optim, kind)(groups, **options, optim_bits=bits)

    return make


_MAKERS: dict[str, Maker] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw_fused,
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adafactor": _adafactor,
}
# Not the paged ones: without a GPU bitsandbytes runs the plain ones in their place, so no test here has proved them.
_EXTRA: dict[str, Maker] = {
    "adamw_bnb_8bit": _bitsandbytes("AdamW", 8),
    "adamw_8bit": _bitsandbytes("AdamW", 8),
    "lion_32bit": _bitsandbytes("Lion", 32),
    "lion_8bit": _bitsandbytes("Lion", 8),
}
# Options of a group that follow from the recipe; all others follow from the optimizer's name.
_FROM_RECIPE = ("lr", "weight_decay", "betas", "eps")


def build(name: str, model: nn.Module, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters of `model`.

    Args:
        name: as transformers names it.
        model: names of parameters are taken from it.
        recipe: `learning_rate`, `weight_decay`, `adam_beta1`, `adam_beta2` and `adam_epsilon` are read.

    Raises:
        SettingsError: the optimizer is not offered, or not for parameters of this type.
        ModelError: the optimizer's library is not installed.
    """
    optimizers.check_name(name)
    decayed, others = split(model)
    groups: Groups = [
        {"params": list(part.values()), "param_names": list(part), "weight_decay": decay}
        for part, decay in ((decayed, recipe["weight_decay"]), (others, 0.0))
    ]
    optimizer = (_MAKERS.get(name) or _EXTRA[name])(groups, recipe)
    apply_recipe(optimizer, recipe, recipe["learning_rate"])
    return optimizer


def split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is trained, by name: with weight decay, and without, as the Hugging Face Trainer parts it."""
    from transformers.trainer_pt_utils import get_parameter_names

    decay = set(get_parameter_names(model, [nn.LayerNorm], list(_NO_DECAY)))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return (
        {name: p for name, p in trained.items() if name in decay},
        {name: p for name, p in trained.items() if name not in decay},
    )


def apply_recipe(optimizer: torch.optim.Optimizer, recipe: Mapping[str, Any], lr: float) -> None:
    """Set what the recipe decides, and `lr`, in every group; the second group never decays.

    Loading a state overwrites all of a group's options, the implementation (`fused`, `foreach`) among them: those are
    put back to what the optimizer was built with.
    """
    for number, group in enumerate(optimizer.param_groups):
        for key, value in optimizer.defaults.items():
            if key not in _FROM_RECIPE:
                group[key] = value
        group["lr"] = lr
        group["weight_decay"] = recipe["weight_decay"] if number == 0 else 0.0
        if "betas" in group:
            group["betas"] = (recipe["adam_beta1"], recipe["adam_beta2"])
            # RMSprop's, Adagrad's and Adafactor's epsilon mean other things: those keep their own.
            if "eps" in group:
                group["eps"] = recipe["adam_epsilon"]


def reset(optimizer: torch.optim.Optimizer) -> None:
    """Forget all moments, as if the optimizer had just been made.

    Adagrad makes its sums when it is built, not at the first step: those are set to what they began with.
    """
    initial = optimizer.defaults.get("initial_accumulator_value")
    if initial is None:
        optimizer.state.clear()
        return
    for values in optimizer.state.values():
        values["sum"].fill_(initial)
        values["step"].zero_()


def check_groups(saved_state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse a state whose moments would land on other parameters than they were made for.

    A state without names (another program's) is compared by sizes alone.

    Raises:
        CheckpointError: other groups, other parameters, or the same ones in another order.
    """
    saved, live = saved_state["param_groups"], optimizer.param_groups
    if len(saved) != len(live):
        raise CheckpointError(
            f"The optimizer state has {len(saved)} parameter groups and this run has {len(live)}: it is another "
            "optimizer's state."
        )
    for number, (theirs, ours) in enumerate(zip(saved, live, strict=True)):
        names = theirs.get("param_names")
        if names is not None and list(names) != ours["param_names"]:
            difference = _difference(names, ours["param_names"])
            raise CheckpointError(f"The optimizer state is not this model's: {difference}.")
        if len(theirs["params"]) != len(ours["params"]):
            raise CheckpointError(
                f"The optimizer state is not this model's: group {number} has {len(theirs['params'])} parameters, this "
                f"run has {len(ours['params'])}."
            )
        _check_shapes(saved_state["state"], theirs["params"], ours["params"], ours["param_names"])


def _check_shapes(state: Mapping[Any, Any], numbers: Iterable[Any], live: Iterable[Tensor], names: list[str]) -> None:
    for number, parameter, name in zip(numbers, live, names, strict=True):
        for key in ("exp_avg", "sum", "square_avg", "momentum_buffer"):
            moment = state.get(number, {}).get(key)
            if isinstance(moment, Tensor) and moment.shape != parameter.shape:
                raise CheckpointError(
                    f"The optimizer state is not this model's: {key} of {name} has shape {tuple(moment.shape)}, the "
                    f"parameter has {tuple(parameter.shape)}."
                )


def _difference(theirs: Iterable[str], ours: Iterable[str]) -> str:
    theirs, ours = list(theirs), list(ours)
    lost, new = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    if lost:
        return f"it has moments for {lost[0]}, which is not trained here"
    if new:
        return f"it has none for {new[0]}"
    at = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    return f"the order of its parameters differs: {theirs[at]} where this run has {ours[at]}"


def load(optimizer: torch.optim.Optimizer, saved_state: Mapping[str, Any]) -> None:
    """`check_groups`, then load; another implementation's step counters are put where this one keeps them.

    Raises:
        CheckpointError: the state is not this optimizer's.
    """
    check_groups(saved_state, optimizer)
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(saved_state))
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)
        on_device = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            step = optimizer.state.get(parameter, {}).get("step")
            if isinstance(step, Tensor):
                home = parameter.device if on_device else torch.device("cpu")
                optimizer.state[parameter]["step"] = step.to(home)
