"""`nightschool settings`: what is set, and when a change takes effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from nightschool.cli.common import Json, layout_of, print_json, print_row


def settings(ctx: typer.Context, json: Json = False) -> None:
    """Show every setting, its value and its class.

    Values that differ from the default are marked with *. The file is read when `nightschool run` starts. Classes: run
    (fixed once training began), entry (frozen for each file: [data] and model.chat_template_kwargs when it is prepared,
    the rest when its training begins), operational (used from the next start on).
    """
    from nightschool.settings import WHEN

    found = list(_rows(layout_of(ctx)))
    if json:
        print_json(found)
        return
    print_row(("", "SETTING", "VALUE", "CLASS", "A CHANGE TAKES EFFECT"), (1, 32, 28, 11, 0))
    for row in found:
        value = row["value"]
        text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
        mark = "*" if value != row["default"] else ""
        print_row((mark, row["name"], text, row["class"], WHEN[row["class"]]), (1, 32, 28, 11, 0))


def _rows(layout: Any) -> Iterator[dict[str, Any]]:
    from nightschool.settings import LORA_DEFAULTS, Settings, load_settings, sections

    loaded = load_settings(layout.settings_file)
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            yield {
                "name": f"{section}.{key}",
                "value": getattr(getattr(loaded, section), key),
                "default": None if field.is_required() else field.get_default(call_default_factory=True),
                "class": str(extra.get("class")),
                "meaning": field.description,
            }
        if section == "model":
            lora = Settings.model_fields["lora"]
            for key, value in loaded.lora_config().items():
                yield {
                    "name": f"lora.{key}",
                    "value": value,
                    "default": LORA_DEFAULTS.get(key),
                    "class": "run",
                    "meaning": lora.description,
                }
