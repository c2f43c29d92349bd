"""What a change of the settings file means: which settings differ, and what has to happen for each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from nightschool.settings.schema import WHEN, Settings, sections

LIVE = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm",
)  # fmt: skip
"""The settings in [training] of a file's recipe that may change in the middle of the file: its steps stay the same."""

AT_START = frozenset({
    "model.attn_implementation", "model.device", "training.micro_batch_size", "training.gradient_checkpointing",
    "numerics.deterministic", "numerics.threads", "machine.gpu_lease",
})  # fmt: skip
"""Operational settings that the trainer reads when it starts: for a change it saves, ends and is started again."""


SECRETS = frozenset({"notify.urls", "notify.webhook", "page.token"})
"""Settings with passwords in them: their values are in no log, event or listing."""


class Change(NamedTuple):
    """A setting that has another value: its name, as `training.learning_rate`, and its class."""

    name: str
    kind: str
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = (shown(masked(self.name, value)) for value in (self.before, self.after))
        return f"{self.name} {before} → {after} ({WHEN[self.kind]})"


def masked(name: str, value: Any) -> Any:
    """The value, for whoever may see it: of a secret one only whether it is set."""
    return "(set, not shown)" if name in SECRETS and value else value


def shown(value: Any) -> str:
    """A value in a line for people."""
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value in (None, "") else str(value)


def each(settings: Settings) -> Iterator[tuple[str, str, Any]]:
    """(name, class, value) of every setting; of [lora] those that are set, with the defaults."""
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            yield f"{section}.{key}", str(extra.get("class")), getattr(getattr(settings, section), key)
        if section == "model":
            yield from ((f"lora.{key}", "run", value) for key, value in settings.lora_config().items())


def changes(old: Settings, new: Settings) -> list[Change]:
    """The settings that differ, in the order of the file."""
    before = {name: value for name, _, value in each(old)}
    after = {name: (kind, value) for name, kind, value in each(new)}
    found = [
        Change(name, kind, before.get(name), value)
        for name, (kind, value) in after.items()
        if before.get(name) != value
    ]  # fmt: skip
    return found + [Change(name, "run", value, None) for name, value in before.items() if name not in after]


def needs_restart(found: Iterable[Change]) -> bool:
    """Whether the trainer has to be started again for some of these changes."""
    return any(change.kind == "run" or change.name in AT_START for change in found)
