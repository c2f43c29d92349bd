"""How the settings stand: what the file says, where each value comes from, and what the machine goes by now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nightschool import durable, inforce
from nightschool.errors import DataError, SettingsError
from nightschool.forecast import steps_done
from nightschool.ledger import Ledger
from nightschool.ledger.machine import SETTINGS_PROBLEM
from nightschool.ordering import current
from nightschool.settings import LORA_DEFAULTS, Settings, parse_settings, read_toml, sections
from nightschool.settings.changes import each
from nightschool.workspace import SETTINGS_NAME, Layout

_IN_DATA = {"chat_template_kwargs", "columns"}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: as `training.learning_rate`.
        kind: its class: run, entry or operational.
        value: what the file says; where the file cannot be used, what is in force.
        default: None where there is none.
        source: `default`, or the file's name.
        in_force: what counts now.
        by: who goes by that, where it is not `value`.
        meaning: in a sentence.
    """

    name: str
    kind: str
    value: Any
    default: Any
    source: str
    in_force: Any
    by: str
    meaning: str

    @property
    def differs(self) -> bool:
        """Whether something else is in force than the file says."""
        return self.in_force != self.value


@dataclass(frozen=True)
class Standing:
    """Every setting, and what is wrong with the file, if anything is."""

    settings: list[Setting]
    problem: str | None


def standing(layout: Layout) -> Standing:
    """How the settings of a workspace stand.

    Raises:
        SettingsError: the file cannot be used, and no machine runs that goes by an earlier one.
    """
    with Ledger.open(layout.ledger) as ledger:
        return standing_of(layout, ledger)


def standing_of(layout: Layout, ledger: Ledger) -> Standing:
    """The same from a ledger that is open."""
    running = durable.holder(layout.supervisor_lock) is not None
    problem = None
    try:
        raw = read_toml(layout.settings_file)  # once: it may be another one a moment later
        loaded = parse_settings(raw, str(layout.settings_file), base=layout.root)
    except SettingsError as error:
        if not running:
            raise
        problem, loaded, raw = str(error), inforce.read(layout), {}
    force = inforce.read(layout) if running else loaded
    if running:
        problem = ledger.machine.get(SETTINGS_PROBLEM) or problem
    recipe = _in_training(ledger)
    return Standing(list(_rows(loaded, force, raw, recipe, lost=bool(problem and not raw))), problem)


def _in_training(ledger: Ledger) -> dict[str, Any]:
    """The recipe of the file in training, by the names of the settings; empty where none is."""
    try:
        current(ledger)
    except DataError:
        return {}
    recipe = json.loads(ledger.entries.unfinished(steps_done(ledger))[0][0].recipe)
    found = {f"training.{key}": value for key, value in recipe.items()}
    return found | {f"data.{key}": value for key, value in recipe.get("data", {}).items() if key not in _IN_DATA}


def _rows(loaded: Settings, force: Settings, raw: dict[str, Any], recipe: dict[str, Any], lost: bool) -> Any:
    models, forced = sections(), {name: value for name, _, value in each(force)}
    for name, kind, value in each(loaded):
        section, key = name.split(".")
        if section == "lora":
            field, default = Settings.model_fields["lora"], LORA_DEFAULTS.get(key)
        else:
            field = models[section].model_fields[key]
            default = None if field.is_required() else field.get_default(call_default_factory=True)
        here = key in raw.get(section, {})
        source = SETTINGS_NAME if here else "as before" if lost else "default"
        in_force, by = forced.get(name), "the machine"
        if in_force == value and name in recipe and recipe[name] != value:
            in_force, by = recipe[name], "the file in training"
        yield Setting(name, kind, value, default, source, in_force, by, str(field.description))
