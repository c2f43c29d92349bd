"""Which LoRA options a run may use: those that come back from a checkpoint with the same bits, as the tests prove.

Pure: imports neither torch nor PEFT, so that the settings can be checked before either is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from nightschool.errors import SettingsError
from nightschool.foreign import lora_keys

PROVED = frozenset(
    {
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "bias",
        "lora_bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "modules_to_save",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)
"""Keys of LoraConfig with a resume-equality test."""

PROVED_INITS: tuple[Any, ...] = (True, False, "gaussian", "orthogonal", "olora", "pissa")

_WHY_NOT_INIT = {
    "pissa_niter": "it draws a new random base at every load, so a checkpoint meets another model",
    "eva": "it needs data before training and cannot be built again from the settings",
    "corda": "it needs data before training and cannot be built again from the settings",
    "lora_ga": "it needs gradients before training and cannot be built again from the settings",
    "loftq": "it replaces the base model's weights by quantised ones; not proved to resume to the same bits",
    "mica": "half of the adapter is frozen and made from the base at every load; not proved to resume to the same bits",
}
_OURS = {
    "task_type": "it is always CAUSAL_LM",
    "peft_type": "it is always LORA",
    "inference_mode": "it follows from what the model is loaded for",
    "base_model_name_or_path": "use `model.name`",
    "revision": "use `model.revision`",
    "auto_mapping": "PEFT fills it in",
    "peft_version": "PEFT fills it in",
}


def check_lora(options: Mapping[str, Any]) -> None:
    """Accept the keys and values of `[lora]`, or say what to use instead.

    Raises:
        SettingsError: a key is unknown to PEFT or not proved to resume, or an initialisation does not resume.
    """
    for key in options:
        if key in PROVED:
            continue
        if key in _OURS:
            raise SettingsError(f"`lora.{key}` cannot be set: {_OURS[key]}.")
        known = lora_keys()
        if known and key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean `lora.{near[0]}`?" if near else f"known: {', '.join(sorted(PROVED))}."
            raise SettingsError(f"`lora.{key}` is unknown to PEFT; {hint}")
        raise SettingsError(
            f"`lora.{key}` is not offered: no test proves that a run with it resumes to the same bits. "
            f"Offered: {', '.join(sorted(PROVED))}."
        )
    _check_init(options.get("init_lora_weights", True))


def _check_init(init: Any) -> None:
    # `1 == True`, but PEFT tells them apart.
    if isinstance(init, bool) or (isinstance(init, str) and init in PROVED_INITS):
        return
    offered = ", ".join("true" if i is True else "false" if i is False else repr(i) for i in PROVED_INITS)
    reason = next((why for name, why in _WHY_NOT_INIT.items() if str(init).startswith(name)), None)
    if reason:
        raise SettingsError(f"lora.init_lora_weights = {init!r} is refused: {reason}. Offered: {offered}.")
    near = difflib.get_close_matches(str(init), [i for i in PROVED_INITS if isinstance(i, str)], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SettingsError(f"lora.init_lora_weights = {init!r} is unknown; {hint}Offered: {offered}.")
