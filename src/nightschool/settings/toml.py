"""Writing `nightschool.toml`."""

from __future__ import annotations

import json
from typing import Any

from nightschool.settings.schema import LORA_DEFAULTS, WHEN, sections


def render_default_toml(values: dict[str, dict[str, Any]]) -> str:
    """A commented settings file: every setting with its meaning; those in `values` are set, the rest show defaults."""
    lines = [
        "# nightschool settings. A line that begins with # shows the default; take the # away to change it.",
        "# It may be changed while the machine runs. In brackets: when a change takes effect. new run: it is fixed.",
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
