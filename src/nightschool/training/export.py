"""A whole model in a folder: the base with the adapter merged into it, or one trained in full, cut into shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nightschool.errors import CheckpointError, ModelError
from nightschool.exporting import facts, folder
from nightschool.intake.template import own_template
from nightschool.intake.tokenise import load_tokenizer
from nightschool.ledger import Ledger
from nightschool.settings import Settings, load_settings
from nightschool.snapshots.serving import ADAPTER
from nightschool.snapshots.states import Saved
from nightschool.training.model import first_line
from nightschool.workspace import Layout

TOLERANCE = {"float32": 1e-4}
"""How far the logits of the merged model may be from those of base and adapter, relative to their size: rounding."""
_HALF_TOLERANCE = 0.05


def export(layout: Layout, at: str | None, target: Path, shard_size: str) -> dict[str, Any]:
    """Make a model of a saved state. On the CPU: the machine may be using the GPU.

    The base is loaded unquantised, in the type of the run's root, also where it was quantised in training: weights of
    4 or 8 bits cannot take in an adapter without rounding most of it away.

    Raises:
        CheckpointError: the state is damaged, or the merged model does not say what base and adapter say.
        ModelError: the base model is gone or another.
    """
    settings = load_settings(layout.settings_file)
    target = folder.checked(layout, target)
    with Ledger.open(layout.ledger) as ledger:
        saved = folder.find(layout, ledger, at)
        adapter = folder.is_adapter(saved)
        told = facts.collect(settings, ledger, saved.record, "merged" if adapter else "model")
    base = facts.check_base(settings, saved.record.root, layout.fingerprint_cache)
    with folder.unfinished(layout, target) as staged:
        state = staged / folder.STATE
        folder.take(saved, _weights(saved), state, link=True)
        (_merge if adapter else _reshard)(settings, saved, base, state, staged, shard_size)
        shutil.rmtree(state)
        tokenizer = load_tokenizer(base, settings.model.trust_remote_code)
        file = settings.model.chat_template
        tokenizer.chat_template = own_template(tokenizer, Path(file) if file else None)
        tokenizer.save_pretrained(staged)
        return folder.finish(staged, target, told)


def _weights(saved: Saved) -> list[str]:
    """The files of a state that its weights are loaded from."""
    if folder.is_adapter(saved):
        return list(ADAPTER)
    return sorted(path.name for path in saved.folder.glob("*.safetensors")) + sorted(
        path.name for path in saved.folder.glob("*config.json")
    )


def _merge(settings: Settings, saved: Saved, base: Path, state: Path, staged: Path, shard_size: str) -> None:
    from peft import PeftModel

    dtype = str(saved.record.root["dtype"])
    model = PeftModel.from_pretrained(_load(base, dtype, settings), str(state)).eval()
    wanted = _logits(model)
    try:
        merged: Any = model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"The adapter in {saved.folder} cannot be merged into its base: {first_line(error)}. Export it without "
            "--merged."
        ) from error
    merged.save_pretrained(staged, max_shard_size=shard_size)
    del model, merged
    # Looked at as others will: loaded from the folder. A layer that shares its weights with another, such as the input
    # and output embeddings of many models, may have an adapter of its own, and no file can say so.
    found = _logits(_load(staged, dtype, settings).eval())
    distance = float((found - wanted).norm() / wanted.norm())
    if not distance <= TOLERANCE.get(dtype, _HALF_TOLERANCE):
        raise CheckpointError(
            f"The merged model does not say what base and adapter say (its logits differ by {distance:.2%}), so "
            "nothing was exported. Export the adapter without --merged."
        )


def _reshard(settings: Settings, saved: Saved, base: Path, state: Path, staged: Path, shard_size: str) -> None:
    for path in base.glob("*.py"):  # a model that brings its own code
        shutil.copyfile(path, state / path.name)
    _load(state, str(saved.record.root["dtype"]), settings).save_pretrained(staged, max_shard_size=shard_size)


def _load(source: Path, dtype: str, settings: Settings) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), local_files_only=True,
            trust_remote_code=settings.model.trust_remote_code,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"The model in {source} cannot be loaded: {first_line(error)}.") from error


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """float32 logits on a few tokens that are in every vocabulary."""
    ids = torch.arange(1, 17).remainder(max(2, int(model.config.get_text_config().vocab_size)))[None]
    return model(input_ids=ids, use_cache=False).logits.float()
