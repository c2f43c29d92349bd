"""A Hugging Face Trainer that leaves a folder to be taken over, and goes on from it itself to compare with."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from nightschool.adoption import adopt, child
from nightschool.intake.packing import Packed
from nightschool.training import adopting
from nightschool.workspace import Layout
from tests import device
from tests.training import rig

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"]}
ROWS, LENGTH = 4, 16
OURS: dict[str, dict[str, Any]] = {
    "model": {"device": device.NAME}, "numerics": {"threads": 1}, "inbox": {"gather_rows": 0},
    "checkpoints": {"save_steps": 5},
}  # fmt: skip


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora": ("llama", "lora", {"optim": "adamw_torch"}),
    "lora-fused-betas": ("llama", "lora", {"optim": "adamw_torch_fused", "adam_beta1": 0.8, "adam_beta2": 0.95}),
    "full": ("llama", "full", {"optim": "adamw_torch", "adam_beta1": 0.85, "adam_beta2": 0.98, "weight_decay": 0.3}),
    "full-gpt2": ("gpt2", "full", {"optim": "adamw_torch", "adam_epsilon": 1e-6, "lr_scheduler_type": "cosine"}),
}
"""Kind of base, method, and arguments of the Trainer."""


@dataclass
class Theirs:
    """A Trainer's output folder, and what it was made with."""

    base: Path
    folder: Path
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        return max(self.folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def rows(seed: int, count: int = ROWS) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(97, 123) for _ in range(LENGTH)] for _ in range(count)]


def packed(seed: int, count: int = ROWS) -> list[Packed]:
    """The rows of one seed as prepared sequences, a row to each."""
    train = np.ones(LENGTH, np.int8)
    train[0] = 0
    return [
        Packed(np.array(ids, np.int32), train, np.array([LENGTH], np.int32), np.array([at], np.int32))
        for at, ids in enumerate(rows(seed, count))
    ]


def model_of(base: Path, method: str, lora: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.use_cache = False
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(3)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    return model


def train(
    theirs: Theirs, out: Path, data: list[list[int]], stop: int, resume: Path | None = None, save: bool = False
) -> dict[str, Tensor]:
    """Train to step `stop` of a schedule of 20; the weights then."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    after: dict[str, Tensor] = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            if state.global_step == stop:
                live = seen["model"].named_parameters()
                after.update({name: p.detach().clone() for name, p in live if p.requires_grad})
                control.should_training_stop = True
                control.should_save = save

    options: dict[str, Any] = {
        "max_steps": 20, "per_device_train_batch_size": ROWS, "learning_rate": 2e-3, "weight_decay": 0.1,
        "logging_steps": 2, "lr_scheduler_type": "linear", **theirs.arguments,
    }  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(out), use_cpu=True, report_to=[], disable_tqdm=True, seed=1, ignore_data_skip=True,
        save_strategy="no", **options,
    )  # fmt: skip
    trainer = Trainer(
        model=model_of(theirs.base, theirs.method, theirs.lora), args=arguments, callbacks=[Watch()],
        train_dataset=[{"input_ids": ids, "labels": ids} for ids in data],  # type: ignore[arg-type]
        data_collator=lambda batch: {k: torch.tensor([row[k] for row in batch]) for k in batch[0]},
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return after


def make(
    root: Path, base: Path, method: str, steps: int = 5, lora: dict[str, Any] | None = None, **args: Any
) -> Theirs:
    """Let a Trainer train and save once, in the middle of its schedule."""
    theirs = Theirs(base, root / "out", method, args, (LORA if lora is None else lora) if method == "lora" else {})
    train(theirs, theirs.folder, rows(1, 4 * ROWS), steps, save=True)
    # Whatever opens it as a pickle, dies.
    (theirs.checkpoint / "training_args.bin").write_bytes(BOMB)
    return theirs


BOMB = b"cposix\n_exit\n(I66\ntR."
"""A pickle that ends the process that opens it."""


@contextmanager
def in_process() -> Iterator[None]:
    """Do the child's work in this process."""

    def run(layout: Layout, plan: dict[str, Any], say: Callable[[str], Any]) -> dict[str, Any]:
        return adopting.adopt(layout, json.loads(json.dumps(plan)), say)

    with mock.patch.object(child, "run", run):
        yield


def take_over(root: Path, folder: Path, model: Path | None = None, **changes: dict[str, Any]) -> tuple[Layout, str]:
    """Adopt in this process: the workspace and all that was said."""
    said: list[str] = []
    given = {name: dict(content) for name, content in OURS.items()}
    for name, content in changes.items():
        given[name] = {**given.get(name, {}), **content}
    with in_process():
        made = adopt(root, folder, str(model) if model else None, given, said.append)
    return made.layout, "\n".join(said)


def learn(layout: Layout, name: str, seed: int, count: int = ROWS) -> None:
    """Train on the rows of one seed."""
    rig.add(layout, name, packed(seed, count))
    rig.run(layout)


def saved(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's weights by the live model's names."""
    from safetensors.torch import load_file

    adapter = folder / "adapter_model.safetensors"
    if not adapter.exists():
        return load_file(folder / "model.safetensors")
    names = {".lora_A.weight": ".lora_A.default.weight", ".lora_B.weight": ".lora_B.default.weight"}
    found = {}
    for name, tensor in load_file(adapter).items():
        for short, live in names.items():
            name = name.replace(short, live)
        found[name] = tensor
    return found


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything there is to see of a folder: bytes, times, modes, links."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_mtime_ns, state.st_ino, state.st_nlink, content)
    return found


def copied(run: Theirs, tmp_path: Path) -> Path:
    return shutil.copytree(run.folder, tmp_path / "copy") / run.checkpoint.name
