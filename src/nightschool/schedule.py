"""Learning rates that need no end. Pure: no torch, no state; the rate follows from the recipe and the step.

The formulas are those of transformers' `get_scheduler`, evaluated at the number of updates done before this one, so a
run and a Hugging Face Trainer that goes on from its checkpoint agree on every rate.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from nightschool.errors import SettingsError


def _constant(index: int, warmup: int) -> float:
    del index, warmup
    return 1.0


def _constant_with_warmup(index: int, warmup: int) -> float:
    return index / warmup if index < warmup else 1.0


def _inverse_sqrt(index: int, warmup: int) -> float:
    if index < warmup:
        return index / warmup
    # transformers sets the time scale to the warm-up, or to 10,000 where there is none.
    timescale = warmup or 10_000
    return 1.0 / (((index - warmup + timescale) / timescale) ** 0.5)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "inverse_sqrt": _inverse_sqrt,
}

# Names transformers knows that need the number of steps to come, or a metric, and what comes nearest here.
_NEED_AN_END = {
    "linear": "constant_with_warmup",
    "cosine": "constant_with_warmup",
    "cosine_with_restarts": "constant_with_warmup",
    "cosine_with_min_lr": "inverse_sqrt",
    "cosine_warmup_with_min_lr": "inverse_sqrt",
    "polynomial": "inverse_sqrt",
    "warmup_stable_decay": "constant_with_warmup",
    "greedy": "constant_with_warmup",
    "reduce_lr_on_plateau": "constant_with_warmup",
}


def check_name(name: str) -> None:
    """Accept the name of a schedule that needs no end.

    Raises:
        SettingsError: the schedule needs to know when the run ends, or there is none of that name.
    """
    if name in SCHEDULES:
        return
    offered = ", ".join(SCHEDULES)
    if name in _NEED_AN_END:
        raise SettingsError(
            f"training.lr_scheduler_type = {name!r} needs to know when training ends, and this run has no end: the "
            f"rate would reach its lowest point at each file's end. Use {_NEED_AN_END[name]!r} (offered: {offered})."
        )
    near = difflib.get_close_matches(name, SCHEDULES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SettingsError(f"training.lr_scheduler_type = {name!r} is unknown; {hint}Offered: {offered}.")


def learning_rate(recipe: Mapping[str, Any], step: int, since: int) -> float:
    """The learning rate of the update that follows `step` steps done.

    Args:
        recipe: an entry's settings: `learning_rate`, `lr_scheduler_type` and `warmup_steps` are read.
        step: steps done before this update, counted from 0.
        since: steps done when the schedule began: 0, or the start of the last entry that resets.

    Raises:
        SettingsError: the recipe names a schedule that is not offered.
    """
    name = recipe["lr_scheduler_type"]
    check_name(name)
    return recipe["learning_rate"] * SCHEDULES[name](step - since, recipe["warmup_steps"])
