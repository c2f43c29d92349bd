"""Which state of a Hugging Face Trainer's output folder can be taken over.

Read are JSON files and the heads of safetensors files. `training_args.bin` and `rng_state*.pth` are pickles: they are
never opened. Nothing in the folder is changed.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nightschool.errors import CheckpointError
from nightschool.words import escape
from nightschool.workspace import checkpoints_in

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL_CONFIG, MODEL_WEIGHTS, MODEL_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
PICKLED = ("adapter_model.bin", "pytorch_model.bin")
_LARGEST_HEAD = 100_000_000


@dataclass(frozen=True)
class Source:
    """A state that can be taken over.

    Attributes:
        folder: where its files are.
        name: what people call it, as in `out/checkpoint-40`.
        method: `lora` where it is an adapter, `full` where it is a whole model.
        config: adapter_config.json, or the model's config.json.
        state: trainer_state.json; empty where there is none.
        step: optimizer steps done; 0 where that is not recorded.
        optimizer, scheduler: whether optimizer.pt and scheduler.pt are there.
        passed_over: newer checkpoints of the same folder that cannot be used, each with the reason.
    """

    folder: Path
    name: str
    method: Literal["lora", "full"]
    config: dict[str, Any]
    state: dict[str, Any]
    step: int
    optimizer: bool
    scheduler: bool
    passed_over: tuple[str, ...] = ()


def find(folder: Path) -> Source:
    """The newest usable state in `folder`: of its `checkpoint-N` folders, by number; else in the folder itself.

    Raises:
        CheckpointError: there is none; the message says what is missing or damaged.
    """
    place = folder.expanduser().absolute()
    try:
        if not place.is_dir():
            what = "is no folder" if place.exists() else "does not exist"
            raise CheckpointError(f"{escape(folder)} {what}. Name the output folder of a Hugging Face Trainer.")
        checkpoints = checkpoints_in(place)
        if not checkpoints:
            return read(place)
    except PermissionError as error:
        raise CheckpointError(f"{escape(folder)} cannot be read: {error.strerror}.") from None
    problems: list[str] = []
    for _, path in reversed(checkpoints):
        try:
            found = read(path, in_a_row=True)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        return Source(**{**vars(found), "passed_over": tuple(problems)})
    raise CheckpointError(f"No checkpoint in {escape(folder)} can be taken over. {' '.join(problems)}")


def read(folder: Path, *, in_a_row: bool = False) -> Source:
    """The state in one folder.

    Args:
        folder: with an adapter or a model in it.
        in_a_row: it is one of several checkpoints, so one without trainer_state.json, which is written last, is one
            whose save was cut off.

    Raises:
        CheckpointError: a file is missing, damaged or unreadable.
    """
    shown = escape(folder)
    present = _names(folder)
    if ADAPTER_CONFIG in present or ADAPTER_WEIGHTS in present:
        method, config_name = "lora", ADAPTER_CONFIG
        weights = [ADAPTER_WEIGHTS]
    elif MODEL_INDEX in present and MODEL_WEIGHTS not in present:
        method, config_name = "full", MODEL_CONFIG
        index = _json(folder / MODEL_INDEX)
        weights = sorted({str(name) for name in index.get("weight_map", {}).values()}) or [MODEL_WEIGHTS]
    else:
        method, config_name = "full", MODEL_CONFIG
        weights = [MODEL_WEIGHTS]
    missing = [name for name in (config_name, *weights) if name not in present]
    if missing:
        raise CheckpointError(f"{shown} cannot be taken over: {_why_missing(method, missing, present)}")
    for name in weights:
        check_tensors(folder / name)
    config = _json(folder / config_name)
    state = _json(folder / STATE) if STATE in present else {}
    if not state and (OPTIMIZER in present or in_a_row):
        raise CheckpointError(
            f"{shown} cannot be taken over: {STATE} is missing, which the Trainer writes last, so its save was cut off."
        )
    if OPTIMIZER in present and not zipfile.is_zipfile(folder / OPTIMIZER):
        raise CheckpointError(f"{shown} cannot be taken over: {OPTIMIZER} is cut off or damaged.")
    parent = folder.parent.name
    name = f"{parent}/{folder.name}" if folder.name.startswith("checkpoint-") and parent else folder.name
    return Source(
        folder, escape(name), method, config, state, _step(folder, state), OPTIMIZER in present, SCHEDULER in present
    )


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise CheckpointError(f"{escape(folder)} cannot be read: {error.strerror}.") from None


def _why_missing(method: str, missing: list[str], present: set[str]) -> str:
    pickled = [name for name in PICKLED if name in present]
    if pickled:
        return (
            f"{pickled[0]} is a pickle, which is never opened. Load it where it was made, and save it again with "
            "`save_pretrained(..., safe_serialization=True)`."
        )
    if method == "full" and not {MODEL_CONFIG, MODEL_WEIGHTS} & present:
        return (
            f"it holds neither `checkpoint-N` folders nor an adapter ({ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}) nor a "
            f"model ({MODEL_CONFIG} and {MODEL_WEIGHTS})."
        )
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{escape(path)} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{escape(path)} holds no JSON object.")
    return found


def _step(folder: Path, state: dict[str, Any]) -> int:
    step = state.get("global_step", 0)
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**31:
        raise CheckpointError(f"{escape(folder / STATE)} makes no sense: global_step is {step!r}.")
    number = folder.name.removeprefix("checkpoint-")
    if state and number.isdecimal() and int(number) != step:
        raise CheckpointError(f"{escape(folder)} is at step {step} by its {STATE}, not at the one in its name.")
    return step


def check_tensors(path: Path) -> None:
    """Raise CheckpointError unless a safetensors file has a head that makes sense and all the bytes it speaks of.

    A file that was cut off is found so, without reading it; a flipped bit in a tensor cannot be.
    """
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 2 <= size <= _LARGEST_HEAD:
                raise ValueError("its head makes no sense")
            head = json.loads(stream.read(size))
        ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
        wanted = 8 + size + max(ends, default=0)
        if not ends:
            raise ValueError("it holds no tensors")
        if path.stat().st_size != wanted:
            raise ValueError(f"it has {path.stat().st_size:,} bytes instead of {wanted:,}")
    except OSError as error:
        raise CheckpointError(f"{escape(path)} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{escape(path)} is damaged: {error}.") from None
