"""Whether prepared data is what today's settings would make of the file. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECIPE_VERSION = 2
"""Goes up when the same file and settings would give other tokens. 2: leading and neighbouring turns are repaired."""

_NO_TOKENS = ("max_bad_rows", "date")
"""Keys that leave the tokens of a file that was accepted as they are: its day of acceptance never changes."""


def is_current(made: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    """Whether data made under one recipe has the tokens that `today`'s would give.

    Args:
        made: the recipe in the prepared folder's `meta.json`.
        today: what would be used now, `Tools.recipe(day)`. Keys it lacks are not compared, so that the part known
            without a tokenizer, `Settings.data_recipe()`, may be given too.
    """
    return all(key in made and made[key] == value for key, value in today.items() if key not in _NO_TOKENS)
