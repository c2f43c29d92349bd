"""What a run trains, as named tensors: taken from the live model, loaded into it, and written in the usual formats."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nightschool import durable
from nightschool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from nightschool.workspace import Layout

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
FULL_WEIGHTS = "model.safetensors"
FULL_INDEX = "model.safetensors.index.json"


def trainable_state(model: nn.Module, method: str) -> dict[str, Tensor]:
    """The live tensors a checkpoint holds, by the live model's names, sorted.

    LoRA: what requires gradients. Full: every parameter once (tied ones under their first name) and the buffers that
    belong to the state.
    """
    if method == "lora":
        found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:
        found: dict[str, Tensor] = dict(model.named_parameters())
        stored = model.state_dict(keep_vars=True).keys()
        found |= {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return dict(sorted(found.items()))


def adapter_state_for_export(model: Any, host_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`host_state`, named by the live model, under the names PEFT uses in its files. The tensors are not copied.

    Touches no tensor of the live model, so a thread may call it while training goes on.
    """
    from peft import get_peft_model_state_dict

    # Not "auto": the base model is never resized, and "auto" reads its config from disk at every save.
    exported = get_peft_model_state_dict(model, state_dict=dict(host_state), save_embedding_layers=False)
    if len(exported) != len(host_state):
        raise AssertionError(f"PEFT exports {len(exported)} of {len(host_state)} trained tensors")
    return dict(sorted(exported.items()))


def load_trainable(model: Any, method: str, folder: Path) -> None:
    """Copy a checkpoint's weights into the model that is already built; the adapter is never made anew.

    Raises:
        CheckpointError: the file is missing or unreadable, or its tensors are not exactly those of the model.
    """
    live = trainable_state(model, method)
    if method == "lora":
        path = folder / ADAPTER_WEIGHTS
        target = adapter_state_for_export(model, live)
        _copy(_without_frozen(_read(path), target, model), target, path)
        return
    path = folder / FULL_WEIGHTS
    # Others write large models in several files, which transformers' own loader puts together.
    saved = {} if not path.exists() and (folder / FULL_INDEX).exists() else _read(path)
    if saved.keys() != live.keys():
        # Some architectures are laid out in other tensors on disk than in memory (experts, fused projections).
        converted = _converted(model, folder)
        saved = saved if converted is None else converted
    _copy(saved, live, path)


def _without_frozen(saved: dict[str, Tensor], target: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Without what others save beside an adapter on embeddings: the base's own weights, where they are still those."""
    live = dict(model.named_parameters()) if saved.keys() - target.keys() else {}

    def is_the_bases(name: str, tensor: Tensor) -> bool:
        own = live.get(name)
        if own is None or own.requires_grad or own.shape != tensor.shape:
            return False
        return torch.equal(own.detach().cpu(), tensor.to(own.dtype))

    return {name: tensor for name, tensor in saved.items() if name in target or not is_the_bases(name, tensor)}


def write_model(model: Any, method: str, host_state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the weights and their config into `folder`, loadable by PEFT or transformers as they stand.

    The same state gives the same bytes. Reads only names and configuration of the live model, so a thread may call it
    while training goes on. Nothing is made durable here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if method == "lora":
        from safetensors.torch import save_file

        exported = adapter_state_for_export(model, host_state)
        save_file(
            {name: tensor.contiguous() for name, tensor in exported.items()},
            folder / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )
        (folder / ADAPTER_CONFIG).write_text(_adapter_config(model), encoding="utf-8")
        return
    # One file: a checkpoint's reader should not have to follow an index.
    model.save_pretrained(folder, state_dict=dict(host_state), max_shard_size="100TB")


def write_tokenizer(layout: Layout, tokenizer: Any) -> None:
    """Write tokenizer and chat template beside the adapter: `current_model/` loads as it stands."""
    scratch = durable.staging(layout.tmp, "tokenizer")
    tokenizer.save_pretrained(scratch)
    # Last the file that says what the others are.
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == "tokenizer_config.json"):
        target = layout.current_model / path.name
        if not target.is_file() or target.read_bytes() != path.read_bytes():
            durable.write_file(target, path.read_bytes())
    durable.remove_tree(scratch)


def _adapter_config(model: Any) -> str:
    """PEFT's own file, but with sets in order: PEFT writes them as they come, which differs from process to process."""
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return json.dumps(plain, indent=2, sort_keys=True, default=_enum_or_set) + "\n"


def _enum_or_set(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", None) or str(value)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: this checkpoint cannot be used.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Use another checkpoint.") from None


def _converted(model: Any, folder: Path) -> dict[str, Tensor] | None:
    """The folder's weights in the live model's layout, through transformers' own loader; None if that fails."""
    try:
        # With the live configuration: the folder's may be another model's, of any size.
        other, report = type(model).from_pretrained(
            folder,
            config=copy.deepcopy(model.config),
            dtype=model.dtype,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError):
        return None
    if any(report.get(kind) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        return None
    return trainable_state(other, "full")


def _copy(saved: Mapping[str, Tensor], live: Mapping[str, Tensor], path: Path) -> None:
    """Copy every tensor, after all of them were found to fit: a refusal leaves the model as it was."""
    problems = []
    missing, extra = sorted(live.keys() - saved.keys()), sorted(saved.keys() - live.keys())
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1)
        problems.append(
            f"{len(missing)} tensors are missing, such as {missing[0]}" + (f" (it has {near[0]})" if near else "")
        )
    if extra:
        problems.append(f"{len(extra)} tensors are not part of this model, such as {extra[0]}")
    for name in sorted(live.keys() & saved.keys()):
        theirs, ours = saved[name], live[name]
        if theirs.shape != ours.shape:
            problems.append(f"{name} has shape {tuple(theirs.shape)}, the model's has {tuple(ours.shape)}")
        elif torch.promote_types(theirs.dtype, ours.dtype) != ours.dtype:
            problems.append(f"{name} is {theirs.dtype}, the model's is {ours.dtype}: loading it would lose bits")
    if problems:
        more = f"; and {len(problems) - 3} more differences" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} does not fit the model that the settings describe: {'; '.join(problems[:3])}{more}. Put back the "
            "[lora] and [model] settings it was trained with."
        )
    with torch.no_grad():
        for name, ours in live.items():
            ours.copy_(saved[name])
