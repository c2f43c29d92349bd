"""What a checkpoint folder holds, and which one a start may use.

The files are those the Hugging Face Trainer writes and reads. `nightschool.json` says where in the curriculum the
checkpoint stands; `MANIFEST.json`, written last, says that it is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nightschool import curriculum, durable
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError
from nightschool.record import RECORD, Record, belongs, read_record
from nightschool.training.state import Digests, HostState
from nightschool.workspace import checkpoints_in

OPTIMIZER = "optimizer.pt"


def write_contents(
    folder: Path,
    record: Record,
    host: HostState,
    *,
    log_history: list[dict[str, float]],
    train_batch_size: int,
    base_rate: float,
    rate: float,
) -> None:
    """Write everything but the weights and the manifest into a staged folder.

    `scheduler.pt` is there for the Hugging Face Trainer, which silently loads no optimizer without it: two base rates
    for two groups, and empty lambdas because a LambdaLR saves no functions. `rate` is that of the step to come: there
    the Trainer takes its first learning rate from, and here nothing is read from there.
    """
    groups = [{**group, "lr": rate} for group in host.optimizer["param_groups"]]
    torch.save({**host.optimizer, "param_groups": groups}, folder / OPTIMIZER)
    torch.save(
        {
            "base_lrs": [base_rate, base_rate],
            "last_epoch": record.step,
            "_step_count": record.step + 1,
            "_is_initial": False,
            "_get_lr_called_within_step": False,
            "_last_lr": [rate, rate],
            "lr_lambdas": [{}, {}],
        },
        folder / "scheduler.pt",
    )
    entries = record.entries
    position = curriculum.place(entries, max(0, record.step - 1))
    epoch = 0.0
    if position is not None:
        entry = entries[position.index]
        epoch = entry.settings["epochs"] * (position.local + 1) / entry.length
    state = {
        "best_global_step": None,
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": epoch,
        "eval_steps": 0,
        "global_step": record.step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": log_history,
        "logging_steps": 1,
        "max_steps": curriculum.total_steps(entries),
        "num_input_tokens_seen": 0,
        "num_train_epochs": 1,
        "save_steps": 1,
        "stateful_callbacks": {},
        "total_flos": 0.0,
        "train_batch_size": train_batch_size,
        "trial_name": None,
        "trial_params": None,
    }
    _write_json(folder / "trainer_state.json", state)
    _write_json(folder / RECORD, asdict(record))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def load_optimizer_state(folder: Path) -> dict[str, Any]:
    """The optimizer's state, tensors on the CPU. Nothing is unpickled but tensors and plain containers.

    Raises:
        CheckpointError: the file holds anything else, or cannot be read.
    """
    path = folder / OPTIMIZER
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} was refused: it is no plain optimizer state ({type(error).__name__}: {str(error)[:200]}). "
            "A checkpoint is never unpickled."
        ) from None
    if not _is_state_dict(state):
        raise CheckpointError(f"{path} was refused: it holds no optimizer state. Use another checkpoint.")
    return state


def _is_state_dict(state: Any) -> bool:
    """Whether this is laid out as an optimizer's state is: plain containers may hold anything."""
    if not isinstance(state, dict):
        return False
    groups, moments = state.get("param_groups"), state.get("state")
    return (
        isinstance(groups, list)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups)
        and isinstance(moments, dict)
        and all(isinstance(values, dict) for values in moments.values())
    )


def read(folder: Path) -> Record:
    """The record of a checkpoint, with values of the right types: whoever can write a manifest can write anything.

    Raises:
        CheckpointError: it is missing, unreadable, of a newer format, or makes no sense.
    """
    record = read_record(folder)
    kinds = {
        "step": int, "generation": int, "lineage": str, "root": dict, "curriculum": dict, "numerics": dict,
        "numerics_changes": list, "digests": dict,
    }  # fmt: skip
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(record, name), kind)]
    if wrong:
        raise CheckpointError(f"{folder / RECORD} makes no sense: {', '.join(wrong)} cannot be what it says.")
    return record


@dataclass(frozen=True)
class Choice:
    """What a start found.

    Attributes:
        folder, record: the checkpoint to use, if there is one.
        damaged, foreign: (step, folder, reason) of those that cannot be used.
        whole: steps of those that can, the one to use among them.
    """

    folder: Path | None = None
    record: Record | None = None
    damaged: list[tuple[int, Path, str]] = field(default_factory=list)
    foreign: list[tuple[int, Path, str]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


def choose(folder: Path, root: str, entries: list[Entry]) -> Choice:
    """The newest checkpoint in `folder` that is whole and belongs, found by number, contents and lineage.

    Those before it are looked at too, but not hashed: retention must not count a cut-off one among those it keeps.
    """
    choice = Choice()
    for step, path in reversed(checkpoints_in(folder)):
        problems = durable.check(path, deep=choice.record is None)
        if problems:
            choice.damaged.append((step, path, "; ".join(problems)))
            continue
        record = read(path)
        reason = belongs(record, root, entries)
        if reason is None and record.step != step:
            reason = f"its name says step {step}, its contents step {record.step}"
        if reason is not None:
            choice.foreign.append((step, path, reason))
            continue
        choice.whole.append(step)
        if choice.record is None:
            choice = replace(choice, folder=path, record=record)
    return choice


def verify_digests(record: Record, found: Digests, folder: Path) -> None:
    """Raise CheckpointError unless the state that was loaded is the state that was saved, to the last bit."""
    for part, digest in (("weights", found.weights), ("optimizer", found.optimizer)):
        if record.digests.get(part) != digest:
            raise CheckpointError(
                f"{folder}: after loading, the {part} are not what was saved (digest {digest}, expected "
                f"{record.digests.get(part)}). Training does not go on from a state that is not the run's own. "
                "Please report this with the versions of torch, transformers and peft."
            )
