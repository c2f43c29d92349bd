"""The root: what is fixed for a run. Its digest begins every lineage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from nightschool import basemodel
from nightschool.errors import ModelAwayError, ModelError, SettingsError
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.workspace import Layout

ROOT_VERSION = 1

_SETTING_OF = {
    "method": "training.method",
    "optimizer": "training.optimizer",
    "seed": "training.seed",
    "lora": "[lora]",
    "dtype": "model.dtype",
    "quantization": "model.quantization",
    "chat_template": "model.chat_template",
    "trust_remote_code": "model.trust_remote_code",
}


def compute(settings: Settings, folder: Path, dtype: str, cache_file: Path | None) -> dict[str, Any]:
    """The root that these settings and this base model make; `dtype` is the resolved one.

    Raises:
        ModelError: a file of the base model cannot be read.
        SettingsError: the chat template named in the settings cannot be read.
    """
    template = None
    if settings.model.chat_template:
        try:
            template = hashlib.sha256(Path(settings.model.chat_template).read_bytes()).hexdigest()
        except OSError as error:
            raise SettingsError(
                f"model.chat_template: {settings.model.chat_template} cannot be read: {error.strerror}."
            ) from None
    return {
        "v": ROOT_VERSION,
        "base": basemodel.fingerprint(basemodel.model_files(folder), cache_file),
        "tokenizer": basemodel.tokenizer_digest(folder, cache_file),
        "chat_template": template,
        "trust_remote_code": settings.model.trust_remote_code,
        "dtype": dtype,
        "quantization": settings.model.quantization,
        "method": settings.training.method,
        "lora": settings.lora_config() if settings.training.method == "lora" else None,
        "optimizer": settings.training.optimizer,
        "seed": settings.training.seed,
        # {"weights": digest, "optimizer": digest or None, "step": N}, where the run began with another program's state.
        "adopted": None,
    }


def establish(layout: Layout, ledger: Ledger, settings: Settings, folder: Path, resolved_dtype: str) -> dict[str, Any]:
    """The run's root: stored at the first start, compared at every later one.

    `resolved_dtype` is what `model.dtype` means on this machine; where the setting is `auto`, the first start's answer
    stays, so that a run does not change its type with the machine.

    Raises:
        ModelError: the base model is not the one the run began with; ModelAwayError where a part of it is missing.
        SettingsError: a setting that is fixed for the run was changed.
    """
    stored = ledger.machine.get("root")
    dtype = stored["dtype"] if stored and settings.model.dtype == "auto" else resolved_dtype
    root = compute(settings, folder, dtype, layout.fingerprint_cache)
    if stored is None or (ledger.entries.last() is None and not stored.get("adopted")):
        # Nothing has been trained: whatever the settings say now is what the run begins with.
        ledger.machine.set("root", root)
        return root
    compare(stored, root, folder)
    return stored


def compare(stored: dict[str, Any], current: dict[str, Any], folder: Path) -> None:
    """Raise if `current` is not the root the run began with; the message names each difference."""
    if stored.get("base") != current["base"]:
        names = sorted(set(stored.get("base") or {}) | set(current["base"]))
        changed = [n for n in names if (stored.get("base") or {}).get(n) != current["base"].get(n)]
        if not any(name in current["base"] for name in changed):
            raise ModelAwayError(f"The base model in {folder} is not whole: {', '.join(changed)} is missing.")
        raise ModelError(
            f"The base model in {folder} is not the one this run began with: {', '.join(changed)} changed. What was "
            "learned fits only the old one. Put the old files back, or begin a new run on the new base with "
            "`nightschool init DIR --model ...` and add the archived files again."
        )
    if stored.get("tokenizer") != current["tokenizer"]:
        raise ModelError(
            f"The tokenizer in {folder} is not the one this run began with. Put the old tokenizer files back, or begin "
            "a new run with `nightschool init`."
        )
    # What was adopted follows from no setting: it is the run's, once and for all.
    changed = [key for key in current if key != "adopted" and stored.get(key) != current[key]]
    if changed:
        lines = [f"{_SETTING_OF.get(key, key)} was {stored.get(key)!r} and is now {current[key]!r}" for key in changed]
        raise SettingsError(
            f"These settings are fixed for a run: {'; '.join(lines)}. Put the old values back in nightschool.toml, or "
            "begin a new run with `nightschool init NEW --from OLD`: every archived file waits again in it, in order."
        )
