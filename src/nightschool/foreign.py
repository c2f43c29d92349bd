"""Names that other programs use: what they are called here, and which keys PEFT's LoraConfig takes."""

from __future__ import annotations

import ast
import importlib.util
import threading
from functools import cache
from pathlib import Path

FOREIGN_NAMES: dict[str, str] = {
    "per_device_train_batch_size": "`training.train_batch_size` is a whole step, `training.micro_batch_size` one pass",
    "gradient_accumulation_steps": "it follows from `training.train_batch_size` / `training.micro_batch_size`",
    "num_train_epochs": "use `training.epochs`",
    "num_epochs": "use `training.epochs`",
    "max_steps": "the run has no end; `training.epochs` says how often each file is read",
    "model_name_or_path": "use `model.name`",
    "model_name": "use `model.name`",
    "base_model": "use `model.name`",
    "torch_dtype": "use `model.dtype`",
    "bf16": 'use `model.dtype = "bfloat16"`',
    "fp16": 'float16 is not offered: use `model.dtype = "bfloat16"` or "float32"',
    "load_in_4bit": 'use `model.quantization = "4bit"`',
    "load_in_8bit": 'use `model.quantization = "8bit"`',
    "optim": "use `training.optimizer`",
    "lr": "use `training.learning_rate`",
    "lr_scheduler": "use `training.lr_scheduler_type`",
    "warmup_ratio": "the run has no end to take a ratio of: use `training.warmup_steps`",
    "lora_r": "use `lora.r`",
    "lora_alpha": "use `lora.lora_alpha`",
    "lora_dropout": "use `lora.lora_dropout`",
    "lora_target_modules": "use `lora.target_modules`",
    "lora_rank": "use `lora.r`",
    "max_seq_length": "use `data.max_length`",
    "max_seq_len": "use `data.max_length`",
    "sequence_len": "use `data.max_length`",
    "sample_packing": "use `data.packing`",
    "train_on_inputs": 'use `data.loss_on = "all"`',
    "assistant_only_loss": 'use `data.loss_on = "assistant"`',
    "completion_only_loss": 'use `data.loss_on = "assistant"`',
    "output_dir": "checkpoints go to current_model/ in the workspace",
    "save_strategy": "use `checkpoints.save_steps` and `checkpoints.save_minutes`",
    "logging_steps": "every step is recorded",
    "resume_from_checkpoint": "every start resumes from the newest whole checkpoint",
    "dataset_text_field": "rows with `text`, `messages` or `prompt` and `completion` are recognised by themselves",
}

_PARSING = threading.Lock()


def lora_keys() -> list[str]:
    """The keys of the installed PEFT's LoraConfig, read from its source: importing PEFT takes seconds.

    Empty when the source cannot be found; LoraConfig itself then refuses what it does not know.
    """
    found = importlib.util.find_spec("peft")
    if found is None or found.origin is None:
        return []
    # Python 3.11 cannot parse in two threads at once: one of them is told of a recursion that is none.
    with _PARSING:
        return list(_keys_in(Path(found.origin).parent))


@cache
def _keys_in(package: Path) -> tuple[str, ...]:
    keys: list[str] = []
    for source, name in ((package / "tuners/lora/config.py", "LoraConfig"), (package / "config.py", "PeftConfigMixin")):
        try:
            tree = ast.parse(source.read_text(encoding="utf-8"))
        except OSError:
            return ()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == name:
                keys += [
                    line.target.id
                    for line in node.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                ]
    others = ("task_type", "inference_mode", "peft_type", "auto_mapping", "peft_version")
    return tuple(key for key in keys if key not in others)
