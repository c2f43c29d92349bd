"""`Settings`: the sections together, what goes into a file's recipe, and when a change of a setting takes effect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from nightschool.settings.sections import (
    CheckpointSettings,
    DataSettings,
    InboxSettings,
    LogSettings,
    MachineSettings,
    MetricsSettings,
    ModelSettings,
    NotifySettings,
    NumericsSettings,
    PageSettings,
    Section,
    SnapshotSettings,
    TrackerSettings,
    TrainingSettings,
    setting,
)

RECIPE_VERSION = 1

WHEN = {
    "run": "new run",
    "entry": "next file",
    "operational": "now",
}
"""When a change of a setting of each class takes effect."""
LORA_DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


class Settings(Section):
    """All of `nightschool.toml`."""

    model: ModelSettings
    lora: dict[str, Any] = setting("run", "Any key of PEFT's LoraConfig.", default_factory=dict)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    inbox: InboxSettings = Field(default_factory=InboxSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    snapshots: SnapshotSettings = Field(default_factory=SnapshotSettings)
    machine: MachineSettings = Field(default_factory=MachineSettings)
    numerics: NumericsSettings = Field(default_factory=NumericsSettings)
    notify: NotifySettings = Field(default_factory=NotifySettings)
    trackers: TrackerSettings = Field(default_factory=TrackerSettings)
    page: PageSettings = Field(default_factory=PageSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.training.micro_batch_size > self.training.train_batch_size:
            raise ValueError(
                f"training.micro_batch_size ({self.training.micro_batch_size}) is larger than "
                f"training.train_batch_size ({self.training.train_batch_size}): a cell is a part of a step"
            )
        if self.model.quantization != "none" and self.training.method == "full":
            raise ValueError('a quantised base cannot be trained in full: set training.method = "lora"')
        return self

    def lora_config(self) -> dict[str, Any]:
        """Keyword arguments for PEFT's LoraConfig: the defaults with what the user set over them."""
        return {**LORA_DEFAULTS, **self.lora}

    def data_recipe(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings that decide which tokens a file becomes; `options` are the file's own (`columns`)."""
        d = self.data
        return {
            "max_length": d.max_length,
            "packing": d.packing,
            "loss_on": d.loss_on,
            "overflow": d.overflow,
            "max_bad_rows": d.max_bad_rows,
            "holdout": d.holdout,
            "chat_template_kwargs": self.model.chat_template_kwargs,
            "columns": {**self.inbox.columns, **((options or {}).get("columns") or {})},
        }

    def entry_recipe(self, data_recipe: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """All that is frozen for a file when its training begins; `options` are the file's own (`epochs`)."""
        t = self.training
        return {
            "v": RECIPE_VERSION,
            "data": data_recipe,
            "train_batch_size": t.train_batch_size,
            "epochs": int(options.get("epochs") or t.epochs),
            "learning_rate": t.learning_rate,
            "lr_scheduler_type": t.lr_scheduler_type,
            "warmup_steps": t.warmup_steps,
            "weight_decay": t.weight_decay,
            "adam_beta1": t.adam_beta1,
            "adam_beta2": t.adam_beta2,
            "adam_epsilon": t.adam_epsilon,
            "max_grad_norm": t.max_grad_norm,
            "carry_optimizer": t.carry_optimizer,
        }


def canonical(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sections() -> dict[str, type[Section]]:
    """Section name to its model, [lora] left out: its keys are PEFT's."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
