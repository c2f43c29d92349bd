"""The optimizer state of a Hugging Face Trainer, put in order for this run: moment by moment, by parameter name.

The Trainer's file knows its parameters by number only, in two groups: those with weight decay, then those without.
Which number is which parameter follows from the rule by which the Trainer makes the groups; the rule is taken only if
every count and every shape agrees with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nightschool.errors import CheckpointError
from nightschool.takeover.values import FRESH
from nightschool.training import optimizer as optimizers

Names = tuple[list[str], list[str]]
"""Names of the parameters with weight decay, and of those without, in order."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def state_keys(saved: Mapping[str, Any]) -> set[str]:
    """The names of what the optimizer keeps for its parameters."""
    return {str(key) for values in saved["state"].values() for key in values}


def load(optimizer: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, Any], path: Path) -> str | None:
    """Give a new optimizer the moments in `saved`; returns what is to be said of it, if anything.

    Args:
        optimizer: as `optimizer.build` made it for `model`.
        model: the model.
        saved: the Trainer's state_dict, with two groups, of AdamW.
        path: where it came from, for messages.

    Raises:
        CheckpointError: the moments are not those of this model's parameters.
    """
    groups = saved["param_groups"]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    given = [group.get("param_names") for group in groups]
    if all(names is not None for names in given):
        rules: list[Names] = [(list(given[0]), list(given[1]))]
    else:
        rules = list(_rules(model, trained))
    problems = [_misfit(saved, names, trained) for names in rules]
    fitting = [names for names, problem in zip(rules, problems, strict=True) if problem is None]
    if not fitting:
        raise CheckpointError(f"{path} does not fit the model: {problems[0]}. Check the base model, or {FRESH}.")
    chosen = fitting[0]
    by_name = {
        name: saved["state"][number]
        for group, names in zip(groups, chosen, strict=True)
        for number, name in zip(group["params"], names, strict=True)
        if number in saved["state"]
    }
    ours = optimizer.state_dict()
    state = {
        number: _plain(by_name[name])
        for group in ours["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
        if name in by_name
    }
    optimizers.load(optimizer, {"state": state, "param_groups": ours["param_groups"]})
    _check_loaded(optimizer, by_name, path)
    return _said(chosen, ours["param_groups"])


def _rules(model: nn.Module, trained: Mapping[str, Tensor]) -> Iterator[Names]:
    """The two groups by the Trainer's rule of today, then by that of its releases before 4.50."""
    decayed, others = optimizers.split(model)
    yield list(decayed), list(others)
    from transformers.trainer_pt_utils import get_parameter_names

    before = {name for name in get_parameter_names(model, [nn.LayerNorm]) if "bias" not in name}
    yield [name for name in trained if name in before], [name for name in trained if name not in before]


def _misfit(saved: Mapping[str, Any], rule: Names, trained: Mapping[str, Tensor]) -> str | None:
    """Why the state is not one of these parameters in this order, or None."""
    unknown = [name for names in rule for name in names if name not in trained]
    if unknown or sum(map(len, rule)) != len(trained):
        return f"it is over other parameters{f', such as {unknown[0]}' if unknown else ''}"
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    if len(set(numbers)) != len(numbers) or set(saved["state"]) - set(numbers):
        return "its parameters are not numbered one by one"
    for at, (group, names) in enumerate(zip(saved["param_groups"], rule, strict=True)):
        if len(group["params"]) != len(names):
            kind = "without" if at else "with"
            return (
                f"it has {len(group['params'])} parameters {kind} weight decay, and the model that is trained here has "
                f"{len(names)}"
            )
        for number, name in zip(group["params"], names, strict=True):
            values = saved["state"].get(number, {})
            for key in MOMENTS:
                moment = values.get(key)
                if values and not (isinstance(moment, Tensor) and moment.shape == trained[name].shape):
                    shape = tuple(moment.shape) if isinstance(moment, Tensor) else None
                    return f"{key} of {name} has shape {shape}, the parameter has {tuple(trained[name].shape)}"
    return None


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """One parameter's state, its counter as a tensor: older releases of torch kept a number."""
    step = values["step"]
    return {**values, "step": step if isinstance(step, Tensor) else torch.tensor(float(step))}


def _check_loaded(optimizer: torch.optim.Optimizer, by_name: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Prove that each moment is now that of the parameter of its name."""
    for group in optimizer.param_groups:
        for parameter, name in zip(group["params"], group["param_names"], strict=True):
            live, wanted = optimizer.state.get(parameter, {}), by_name.get(name, {})
            for key in MOMENTS:
                if wanted and not torch.equal(live[key].cpu(), wanted[key].to(live[key].dtype)):
                    raise CheckpointError(f"{path}: after loading, {key} of {name} is not what was saved.")


def _said(chosen: Names, ours: Sequence[Mapping[str, Any]]) -> str | None:
    moved = [name for name in chosen[0] if name not in set(ours[0]["param_names"])]
    if not moved:
        return None
    return (
        f"{len(moved)} parameters that had weight decay in an older release of the Trainer, such as {moved[0]}, have "
        "none here, as in newer ones."
    )
