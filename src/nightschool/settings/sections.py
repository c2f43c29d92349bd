"""The sections of `nightschool.toml`, one class each: every setting with its meaning, its bounds and its class."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nightschool.addresses import is_loopback
from nightschool.errors import SettingsError


def setting(kind: Literal["run", "entry", "operational"], text: str, **rules: Any) -> Any:
    """A field of a section: its class, and its meaning in a sentence for people."""
    return Field(description=text, json_schema_extra={"class": kind}, **rules)


class Section(BaseModel):
    """A table of the file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Auto = Literal["auto"]
Optional = Annotated[str | None, BeforeValidator(lambda value: value or None)]


class ModelSettings(Section):
    """[model]: the base model and how it is loaded."""

    name: str = setting("run", "Base model: a folder, or a name on the Hub, which `nightschool init` fetches.")
    revision: Optional = setting("run", "Commit of a Hub model; `nightschool init` writes it down.", default=None)
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "run", "Type the base is loaded in. auto: bfloat16 where the device has it, else float32.", default="auto"
    )
    attn_implementation: str = setting(
        "operational", "auto, eager, sdpa, flash_attention_2, flex_attention. Part of the numerics.", default="auto"
    )
    trust_remote_code: bool = setting("run", "Run Python code that comes with the model.", default=False)
    quantization: Literal["none", "4bit", "8bit"] = setting(
        "run", "Load the base quantised through bitsandbytes (pip install 'nightschool[quantization]').", default="none"
    )
    chat_template: Optional = setting("run", "File with a chat template to use instead of the model's.", default=None)
    chat_template_kwargs: dict[str, Any] = setting(
        "entry", "Passed to the chat template, for instance {enable_thinking = false}.", default_factory=dict
    )
    device: str = setting("operational", "auto, cpu, cuda, cuda:1. Part of the numerics.", default="auto")


class TrainingSettings(Section):
    """[training]: the optimizer, the batch and the learning rate."""

    method: Literal["lora", "full"] = setting("run", "lora, or full: train every parameter.", default="lora")
    optimizer: str = setting("run", "Optimizer, by the names transformers uses.", default="adamw_torch")
    seed: int = setting("run", "Seed of initialisation, order and dropout.", default=42, ge=0, lt=2**63)
    train_batch_size: int = setting("entry", "Sequences per step, over everything.", default=8, ge=1)
    micro_batch_size: int = setting(
        "operational", "Sequences that go through the model together (a cell). Part of the numerics.", default=1, ge=1
    )
    gradient_checkpointing: bool | Auto = setting(
        "operational", "Save memory by computing activations twice. auto: on a GPU.", default="auto"
    )
    learning_rate: float = setting("entry", "Peak learning rate.", default=1e-4, gt=0, allow_inf_nan=False)
    lr_scheduler_type: str = setting(
        "entry",
        "constant_with_warmup, constant or inverse_sqrt: schedules that need no end.",
        default="constant_with_warmup",
    )
    warmup_steps: int = setting("entry", "Steps over which the rate rises, once per run.", default=100, ge=0)
    weight_decay: float = setting("entry", "Weight decay of the first parameter group.", default=0.0, ge=0)
    adam_beta1: float = setting("entry", "First beta of Adam-like optimizers.", default=0.9, ge=0, lt=1)
    adam_beta2: float = setting("entry", "Second beta of Adam-like optimizers.", default=0.999, ge=0, lt=1)
    adam_epsilon: float = setting("entry", "Epsilon of Adam-like optimizers.", default=1e-8, gt=0)
    max_grad_norm: float = setting("entry", "Gradients are clipped to this norm. 0: not clipped.", default=1.0, ge=0)
    epochs: int = setting("entry", "How often each row of a file is trained on.", default=1, ge=1)
    carry_optimizer: bool = setting(
        "entry",
        "false: forget the optimizer's moments and warm up again at each file, as per-file scripts do.",
        default=True,
    )


class DataSettings(Section):
    """[data]: from rows to sequences."""

    max_length: int = setting("entry", "Tokens per sequence, at most.", default=2048, ge=8)
    packing: bool = setting("entry", "Put several short rows into one sequence, without leakage.", default=True)
    loss_on: Literal["assistant", "all"] = setting(
        "entry", "Tokens of a chat that are learned: those of the assistant, or all.", default="assistant"
    )
    overflow: Literal["auto", "split", "truncate", "reject"] = setting(
        "entry",
        "Rows over max_length. auto: plain text is split, chats are truncated. reject: they are bad rows.",
        default="auto",
    )
    holdout: float = setting(
        "entry",
        "Share of a file's rows that is never trained on, to measure what it taught: at most 64 rows, none of a file "
        "with under 100. 0: all are trained on.",
        default=0.01,
        ge=0,
        le=0.5,
    )
    holdout_seconds: float = setting(
        "operational", "Time for one measurement on such rows, at most. 0: none is made.", default=30, ge=0
    )
    max_bad_rows: float = setting(
        "entry", "Share of unusable rows up to which the rest of a file is still learned.", default=0.2, ge=0, le=1
    )


class InboxSettings(Section):
    """[inbox]: when a dropped file is taken."""

    settle_seconds: float = setting(
        "operational", "A file that is being copied must have rested this long.", default=5.0, ge=0
    )
    rescan_seconds: float = setting("operational", "The inbox is looked at this often.", default=5.0, gt=0)
    gather_rows: int = setting(
        "operational",
        "Files with fewer rows that wait next to each other are trained on as one. 0: every file by itself.",
        default=500,
        ge=0,
    )
    columns: dict[str, str] = setting(
        "entry", 'Names of your columns where they differ, ours first: {prompt = "ask"}.', default_factory=dict
    )


class CheckpointSettings(Section):
    """[checkpoints]: when to save and how many to keep."""

    save_steps: int = setting("operational", "Save every so many steps.", default=1250, ge=1)
    save_minutes: float = setting("operational", "Save when the last save is this old.", default=15.0, gt=0)
    save_total_limit: int = setting(
        "operational",
        "Checkpoints kept, the newest ones. At least 2, so that a damaged one has a predecessor.",
        default=3,
        ge=2,
    )


class SnapshotSettings(Section):
    """[snapshots]: dated copies of the full training state."""

    at: str = setting(
        "operational", 'When the daily snapshot is taken, local time. "": none is.', default="03:00",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
    )  # fmt: skip
    keep_daily: int = setting("operational", "Daily snapshots kept, the newest ones.", default=14, ge=1)
    keep_weekly: int = setting("operational", "Weeks of which the last snapshot is kept.", default=8, ge=0)
    keep_monthly: int = setting("operational", "Months of which the last snapshot is kept.", default=12, ge=0)
    keep_undone: int = setting(
        "operational", "Rollbacks and forgettings whose old checkpoints are kept, the latest ones.", default=3, ge=1
    )
    copy_to: Optional = setting(
        "operational", "Folder on another disk that gets a copy of snapshots and archive after each.", default=None
    )


class MachineSettings(Section):
    """[machine]: when `nightschool run` works, and how it watches over its work."""

    hours: str = setting(
        "operational",
        'When it may train, local time: "22:00-07:00", or "mon-fri 22:00-07:00, sat-sun 00:00-24:00". "": always.',
        default="",
    )
    yield_to: list[str] = setting(
        "operational",
        'Programs that come first: training pauses while one of them runs, as in ["steam", "ollama"].',
        default_factory=list,
    )
    unload_after: float = setting(
        "operational",
        "Minutes without work after which the model is unloaded and the GPU is free. 0: never.",
        default=30,
        ge=0,
    )
    gpu_lease: str = setting(
        "operational",
        "auto: workspaces on one GPU take turns. A name: so do all workspaces that give this name. off: nobody waits.",
        default="auto",
        pattern=r"^[A-Za-z0-9._-]+$",
    )
    min_free_gb: float = setting(
        "operational",
        "Room in GB that is left on the disk beside the next checkpoint; with less, training waits.",
        default=1.0,
        ge=0,
    )
    hang_minutes: float = setting(
        "operational",
        "A trainer that finishes no step for so long is ended and started again, as is an intake worker that reads and "
        "writes nothing, and what hangs in a change of the ledger. 0: never.",
        default=30,
        ge=0,
    )


class NotifySettings(Section):
    """[notify]: where the machine tells its owner what happened."""

    urls: list[str] = setting(
        "operational",
        "Where messages go, as apprise writes addresses (pip install 'nightschool[notify]').",
        default_factory=list,
    )
    webhook: Optional = setting("operational", "Address that gets each message as JSON, by POST.", default=None)
    on: list[Literal["learned", "rejected", "morning", "trouble"]] = setting(
        "operational",
        "What is told: a file learned, a file rejected, the night's summary, and when the owner is needed.",
        default_factory=lambda: ["learned", "rejected", "morning", "trouble"],
    )
    morning: str = setting(
        "operational", "When the night's summary is sent, local time.", default="07:00",
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
    )  # fmt: skip


class TrackerSettings(Section):
    """[trackers]: experiment trackers that get the loss curve too."""

    report_to: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = setting(
        "operational", "Trackers, each an extra: pip install 'nightschool[tensorboard]'.", default_factory=list
    )
    project: str = setting("operational", "Name of the project in the trackers.", default="nightschool", min_length=1)


class MetricsSettings(Section):
    """[metrics]: figures for Prometheus."""

    port: int = setting("operational", "Port that serves /metrics. 0: none does.", default=0, ge=0, le=65535)
    host: str = setting("operational", "Address it listens on.", default="127.0.0.1", min_length=1)


TOKEN_LENGTH = 16


def _can_be_sent(token: str) -> bool:
    """Whether a header can carry it and a form gives it back: else nobody would ever be let in."""
    return token.isascii() and token.isprintable() and token == token.strip()


class PageSettings(Section):
    """[page]: the page in the browser, and the API behind it."""

    port: int = setting(
        "operational", "Port of the page; if it is taken, the next free one. 0: there is no page.", default=8420,
        ge=0, le=65535,
    )  # fmt: skip
    host: str = setting(
        "operational", "Address it listens on. Any other than this machine's own needs page.token.",
        default="127.0.0.1", min_length=1,
    )  # fmt: skip
    allowed_hosts: list[str] = setting(
        "operational",
        'Further names that the page may be asked for by, as behind a tunnel: ["night.example.org"]. Needs page.token.',
        default_factory=list,
    )
    token: Optional = setting(
        "operational", "What whoever opens the page has to say, at least 16 characters.", default=None
    )

    @model_validator(mode="after")
    def _safe(self) -> PageSettings:
        if self.token is not None and len(self.token) < TOKEN_LENGTH:
            raise ValueError(
                f"page.token is too short: {TOKEN_LENGTH} characters or more. To make one: "
                'python3 -c "import secrets; print(secrets.token_urlsafe())"'
            )
        if self.token is not None and not _can_be_sent(self.token):
            raise ValueError(
                "page.token cannot be sent as it is: use letters, digits and signs that are ASCII, and no space at "
                "either end"
            )
        bad = next((name for name in self.allowed_hosts if "/" in name or not name.strip()), None)
        if bad is not None:
            raise ValueError(f"page.allowed_hosts: {bad!r} is no name; as in night.example.org, without https://")
        if self.port and self.token is None and self.allowed_hosts:
            raise ValueError(
                f"page.allowed_hosts has {self.allowed_hosts[0]}, so others come through there, and page.token is not "
                "set: whoever comes can read and delete all there is. Set page.token (16 characters or more)"
            )
        if self.port and self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"page.host is {self.host}, which others can reach, and page.token is not set: whoever reaches the "
                "page can read and delete all there is. Set page.token (16 characters or more), or leave "
                "page.host at 127.0.0.1 and come through a tunnel"
            )
        return self

    def at(self, host: str | None = None, port: int | None = None) -> PageSettings:
        """These settings with another address, as the command line gives it.

        Raises:
            SettingsError: others could reach that address, and there is no token.
        """
        values = self.model_dump()
        values.update({key: value for key, value in (("host", host), ("port", port)) if value is not None})
        try:
            return PageSettings.model_validate(values)
        except ValidationError as error:
            raise SettingsError(f"{error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None


class NumericsSettings(Section):
    """[numerics]: what equal bits depend on besides the data."""

    deterministic: bool = setting("operational", "Use deterministic kernels. Part of the numerics.", default=True)
    threads: int = setting(
        "operational",
        "CPU threads of the model's arithmetic. 0: all cores but one. Part of the numerics.",
        default=0,
        ge=0,
    )


class LogSettings(Section):
    """[log]: training_output.log."""

    max_megabytes: float = setting("operational", "The log is rotated at this size.", default=50, gt=0)
    keep: int = setting("operational", "Rotated logs kept.", default=5, ge=1)
