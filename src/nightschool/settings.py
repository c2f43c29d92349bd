"""Typed settings from `nightschool.toml`: what may be set, what it means, and when a change takes effect.

The file is read when `nightschool run` starts, and when its trainer or intake worker does. Three classes of settings.
*run*: part of the run's root, fixed once training began. *entry*: frozen for each file, those that decide its tokens
when it is prepared, the rest when its training begins. *operational*: in no hash, used from the next start on.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nightschool import optimizers, schedule
from nightschool.errors import SettingsError
from nightschool.foreign import FOREIGN_NAMES, lora_keys
from nightschool.lora_options import check_lora

RECIPE_VERSION = 1


def _setting(kind: Literal["run", "entry", "operational"], text: str, **rules: Any) -> Any:
    return Field(description=text, json_schema_extra={"class": kind}, **rules)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Auto = Literal["auto"]
Optional = Annotated[str | None, BeforeValidator(lambda value: value or None)]


class ModelSettings(_Section):
    """[model]: the base model and how it is loaded."""

    name: str = _setting("run", "Base model: a folder, or a name on the Hub that is already in the local cache.")
    revision: Optional = _setting("run", "Revision of a Hub model.", default=None)
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "run", "Type the base is loaded in. auto: bfloat16 where the device has it, else float32.", default="auto"
    )
    attn_implementation: str = _setting(
        "operational", "auto, eager, sdpa, flash_attention_2, flex_attention. Part of the numerics.", default="auto"
    )
    trust_remote_code: bool = _setting("run", "Run Python code that comes with the model.", default=False)
    quantization: Literal["none", "4bit", "8bit"] = _setting(
        "run", "Load the base quantised through bitsandbytes (pip install 'nightschool[quantization]').", default="none"
    )
    chat_template: Optional = _setting("run", "File with a chat template to use instead of the model's.", default=None)
    chat_template_kwargs: dict[str, Any] = _setting(
        "entry", "Passed to the chat template, for instance {enable_thinking = false}.", default_factory=dict
    )
    device: str = _setting("operational", "auto, cpu, cuda, cuda:1. Part of the numerics.", default="auto")


class TrainingSettings(_Section):
    """[training]: the optimizer, the batch and the learning rate."""

    method: Literal["lora", "full"] = _setting("run", "lora, or full: train every parameter.", default="lora")
    optimizer: str = _setting("run", "Optimizer, by the names transformers uses.", default="adamw_torch")
    seed: int = _setting("run", "Seed of initialisation, order and dropout.", default=42, ge=0, lt=2**63)
    train_batch_size: int = _setting("entry", "Sequences per step, over everything.", default=8, ge=1)
    micro_batch_size: int = _setting(
        "operational", "Sequences that go through the model together (a cell). Part of the numerics.", default=1, ge=1
    )
    gradient_checkpointing: bool | Auto = _setting(
        "operational", "Save memory by computing activations twice. auto: on a GPU.", default="auto"
    )
    learning_rate: float = _setting("entry", "Peak learning rate.", default=1e-4, gt=0, allow_inf_nan=False)
    lr_scheduler_type: str = _setting(
        "entry",
        "constant_with_warmup, constant or inverse_sqrt: schedules that need no end.",
        default="constant_with_warmup",
    )
    warmup_steps: int = _setting("entry", "Steps over which the rate rises, once per run.", default=100, ge=0)
    weight_decay: float = _setting("entry", "Weight decay of the first parameter group.", default=0.0, ge=0)
    adam_beta1: float = _setting("entry", "First beta of Adam-like optimizers.", default=0.9, ge=0, lt=1)
    adam_beta2: float = _setting("entry", "Second beta of Adam-like optimizers.", default=0.999, ge=0, lt=1)
    adam_epsilon: float = _setting("entry", "Epsilon of Adam-like optimizers.", default=1e-8, gt=0)
    max_grad_norm: float = _setting("entry", "Gradients are clipped to this norm. 0: not clipped.", default=1.0, ge=0)
    epochs: int = _setting("entry", "How often each row of a file is trained on.", default=1, ge=1)
    carry_optimizer: bool = _setting(
        "entry",
        "false: forget the optimizer's moments and warm up again at each file, as per-file scripts do.",
        default=True,
    )


class DataSettings(_Section):
    """[data]: from rows to sequences."""

    max_length: int = _setting("entry", "Tokens per sequence, at most.", default=2048, ge=8)
    packing: bool = _setting("entry", "Put several short rows into one sequence, without leakage.", default=True)
    loss_on: Literal["assistant", "all"] = _setting(
        "entry", "Tokens of a chat that are learned: those of the assistant, or all.", default="assistant"
    )
    overflow: Literal["auto", "split", "truncate", "reject"] = _setting(
        "entry",
        "Rows over max_length. auto: plain text is split, chats are truncated. reject: they are bad rows.",
        default="auto",
    )
    holdout: float = _setting(
        "entry",
        "Share of a file's rows that is never trained on, to measure what it taught: at most 64 rows, none of a file "
        "with under 100. 0: all are trained on.",
        default=0.01,
        ge=0,
        le=0.5,
    )
    holdout_seconds: float = _setting(
        "operational", "Time for one measurement on such rows, at most. 0: none is made.", default=30, ge=0
    )
    max_bad_rows: float = _setting(
        "entry", "Share of unusable rows up to which the rest of a file is still learned.", default=0.2, ge=0, le=1
    )


class InboxSettings(_Section):
    """[inbox]: when a dropped file is taken."""

    settle_seconds: float = _setting(
        "operational", "A file that is being copied must have rested this long.", default=5.0, ge=0
    )
    rescan_seconds: float = _setting("operational", "The inbox is looked at this often.", default=5.0, gt=0)
    gather_rows: int = _setting(
        "operational",
        "Files with fewer rows that wait next to each other are trained on as one. 0: every file by itself.",
        default=500,
        ge=0,
    )
    columns: dict[str, str] = _setting(
        "entry", 'Names of your columns where they differ, ours first: {prompt = "ask"}.', default_factory=dict
    )


class CheckpointSettings(_Section):
    """[checkpoints]: when to save and how many to keep."""

    save_steps: int = _setting("operational", "Save every so many steps.", default=1250, ge=1)
    save_minutes: float = _setting("operational", "Save when the last save is this old.", default=15.0, gt=0)
    save_total_limit: int = _setting(
        "operational",
        "Checkpoints kept, the newest ones. At least 2, so that a damaged one has a predecessor.",
        default=3,
        ge=2,
    )


class SnapshotSettings(_Section):
    """[snapshots]: dated copies of the full training state."""

    at: str = _setting(
        "operational", 'When the daily snapshot is taken, local time. "": none is.', default="03:00",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
    )  # fmt: skip
    keep_daily: int = _setting("operational", "Daily snapshots kept, the newest ones.", default=14, ge=1)
    keep_weekly: int = _setting("operational", "Weeks of which the last snapshot is kept.", default=8, ge=0)
    keep_monthly: int = _setting("operational", "Months of which the last snapshot is kept.", default=12, ge=0)
    keep_undone: int = _setting(
        "operational", "Rollbacks and forgettings whose old checkpoints are kept, the latest ones.", default=3, ge=1
    )
    copy_to: Optional = _setting(
        "operational", "Folder on another disk that gets a copy of snapshots and archive after each.", default=None
    )


class MachineSettings(_Section):
    """[machine]: how `nightschool run` watches over its work."""

    hang_minutes: float = _setting(
        "operational", "A trainer that finishes no step for so long is ended and started again. 0: never.",
        default=30, ge=0,
    )  # fmt: skip


class NumericsSettings(_Section):
    """[numerics]: what equal bits depend on besides the data."""

    deterministic: bool = _setting("operational", "Use deterministic kernels. Part of the numerics.", default=True)
    threads: int = _setting(
        "operational",
        "CPU threads of the model's arithmetic. 0: all cores but one. Part of the numerics.",
        default=0,
        ge=0,
    )


class LogSettings(_Section):
    """[log]: training_output.log."""

    max_megabytes: float = _setting("operational", "The log is rotated at this size.", default=50, gt=0)
    keep: int = _setting("operational", "Rotated logs kept.", default=5, ge=1)


WHEN = {
    "run": "fixed once training began",
    "entry": "next start, for files that have not begun",
    "operational": "next start",
}
"""When a change of a setting of each class takes effect."""
LORA_DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


class Settings(_Section):
    """All of `nightschool.toml`."""

    model: ModelSettings
    lora: dict[str, Any] = _setting("run", "Any key of PEFT's LoraConfig.", default_factory=dict)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    inbox: InboxSettings = Field(default_factory=InboxSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    snapshots: SnapshotSettings = Field(default_factory=SnapshotSettings)
    machine: MachineSettings = Field(default_factory=MachineSettings)
    numerics: NumericsSettings = Field(default_factory=NumericsSettings)
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


def sections() -> dict[str, type[_Section]]:
    """Section name to its model, [lora] left out: its keys are PEFT's."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section)
    }


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: the file is missing or no TOML, or a key is unknown or malformed; every problem is named, with
            the nearest known key or, for the names other trainers use, ours.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing. `nightschool init` writes one.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None
    return parse_settings(raw, str(path), base=path.parent)


def parse_settings(raw: dict[str, Any], where: str = "settings", base: Path | None = None) -> Settings:
    """Check settings given as nested dicts; see `load_settings`. Relative model folders are read from `base`."""
    problems = [*_unknown(raw)]
    if not problems:
        try:
            settings = Settings.model_validate(raw)
        except ValidationError as error:
            problems = [_sentence(e) for e in error.errors()]
        else:
            problems = _not_offered(settings)
            if not problems:
                return _resolved(settings, base)
    raise SettingsError(f"{where}: " + " ".join(problems))


def _not_offered(settings: Settings) -> list[str]:
    """What is well-formed but does not resume to the same bits, or needs an end that this run does not have."""
    checks: list[tuple[Callable[[Any], None], Any]] = [
        (schedule.check_name, settings.training.lr_scheduler_type),
        (optimizers.check_name, settings.training.optimizer),
    ]
    if settings.training.method == "lora":
        checks.append((check_lora, settings.lora_config()))
    problems = []
    for check, value in checks:
        try:
            check(value)
        except SettingsError as error:
            problems.append(str(error))
    return problems


def _resolved(settings: Settings, base: Path | None) -> Settings:
    """Paths in the file are meant from the file's own folder, not from where the command runs; ~ is the user's home."""
    changed: dict[str, Any] = {}
    for key in ("name", "chat_template"):
        value = getattr(settings.model, key)
        if not value:
            continue
        # Here and nowhere else, so that all who read the settings mean the same file.
        meant = os.path.expanduser(value)  # noqa: PTH111 (leaves the home of an unknown user as it is)
        if base is not None and not Path(meant).is_absolute() and (base / meant).exists():
            meant = str((base / meant).resolve())
        if meant != value:
            changed[key] = meant
    return settings.model_copy(update={"model": settings.model.model_copy(update=changed)}) if changed else settings


def _unknown(raw: dict[str, Any]) -> list[str]:
    known = sections()
    problems = []
    for section, content in raw.items():
        if section == "lora" and isinstance(content, dict):
            names = lora_keys()
            problems += [_advice("lora", key, names) for key in content if names and key not in names]
        elif section not in known:
            every = [f"{s}.{k}" for s, m in known.items() for k in m.model_fields]
            problems.append(_advice("", section, [*known, "lora"], every))
        elif isinstance(content, dict):
            names = list(known[section].model_fields)
            every = [f"{s}.{k}" for s, m in known.items() for k in m.model_fields]
            problems += [_advice(section, key, names, every) for key in content if key not in names]
    return problems


def _advice(section: str, key: str, names: list[str], elsewhere: list[str] | None = None) -> str:
    full = f"{section}.{key}" if section else key
    if key in FOREIGN_NAMES:
        return f"`{full}` is another program's name: {FOREIGN_NAMES[key]}."
    moved = [e for e in elsewhere or [] if e.split(".")[1] == key]
    if moved:
        return f"`{full}` is unknown here: it is `{moved[0]}`."
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = (
        f"did you mean `{section + '.' if section else ''}{near[0]}`?"
        if near
        else f"known: {', '.join(sorted(names))}."
    )
    return f"`{full}` is unknown; {hint}"


def _sentence(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"`{name}` is missing."
    message = error["msg"].removeprefix("Value error, ")
    return f"`{name}`: {message} (it is {error['input']!r})." if name else f"{message}."


def render_default_toml(values: dict[str, dict[str, Any]]) -> str:
    """A commented settings file: every setting with its meaning; those in `values` are set, the rest show defaults."""
    lines = [
        "# nightschool settings. A line that begins with # shows the default; take the # away to change it.",
        "# This file is read when `nightschool run` starts. In brackets: when a change takes effect.",
        "",
    ]
    for section, model in sections().items():
        lines += [f"[{section}]"]
        given = values.get(section, {})
        for key, field in model.model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            when = WHEN[str(extra["class"])]
            lines.append(f"# {field.description} ({when})")
            if key in given:
                lines.append(f"{key} = {_toml(given[key])}")
            else:
                default = field.get_default(call_default_factory=True)
                lines.append(f"# {key} = {_toml(default)}" if default is not None else f'# {key} = ""')
        lines.append("")
        if section == "model":
            lines += ["[lora]", f"# Any key of PEFT's LoraConfig. ({WHEN['run']})"]
            lora = values.get("lora", {})
            lines += [f"{k} = {_toml(v)}" for k, v in lora.items()]
            lines += [f"# {k} = {_toml(v)}" for k, v in LORA_DEFAULTS.items() if k not in lora]
            lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
