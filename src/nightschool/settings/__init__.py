"""Typed settings from `nightschool.toml`: what may be set, what it means, and when a change takes effect.

Three classes of settings. *run*: part of the run's root, fixed once training began; another value needs a new run.
*entry*: frozen for each file, those that decide its tokens when it is prepared, the rest when its training begins; a
change is for the next file. *operational*: in no hash; a change counts at once, while the machine runs too (`changes`
says what has to happen for it).
"""

from nightschool.settings.reading import load_settings, parse_settings, read_toml
from nightschool.settings.schema import LORA_DEFAULTS, RECIPE_VERSION, WHEN, Settings, canonical, sections
from nightschool.settings.sections import (
    NotifySettings,
    NumericsSettings,
    PageSettings,
    SnapshotSettings,
    TrackerSettings,
    TrainingSettings,
)
from nightschool.settings.toml import render_default_toml

__all__ = [
    "LORA_DEFAULTS",
    "RECIPE_VERSION",
    "WHEN",
    "NotifySettings",
    "NumericsSettings",
    "PageSettings",
    "Settings",
    "SnapshotSettings",
    "TrackerSettings",
    "TrainingSettings",
    "canonical",
    "load_settings",
    "parse_settings",
    "read_toml",
    "render_default_toml",
    "sections",
]
