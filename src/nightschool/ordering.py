"""Commands for the trainer: written down by whoever gives them, obeyed by it at the next step boundary.

They are a list in one machine row, so that one given while nothing runs is obeyed at the next start, before the first
step. Each names the file it is meant for: one that comes too late does not hit another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightschool.errors import DataError, SettingsError
from nightschool.forecast import steps_done
from nightschool.ledger import Ledger
from nightschool.settings.changes import LIVE

if TYPE_CHECKING:
    from nightschool.settings import Settings

ORDERS = "orders"
"""The machine row: [{"nonce": a word that is different each time, "what": "skip" or "settings", "file": id, ...}]."""


def current(ledger: Ledger) -> tuple[int, ...]:
    """The ids of the file in training, or of the small ones that are trained together.

    Raises:
        DataError: there is none.
    """
    unfinished = ledger.entries.unfinished(steps_done(ledger))
    if not unfinished:
        raise DataError("No file is in training. `nightschool queue` lists what waits, and changes its order.")
    return unfinished[0][0].file_ids


def give(ledger: Ledger, what: str, file: int, **more: Any) -> None:
    """Add a command about the file in training."""
    with ledger.transaction():
        order = {"nonce": os.urandom(8).hex(), "what": what, "file": file, **more}
        ledger.machine.set(ORDERS, [*(ledger.machine.get(ORDERS) or []), order])


def skip(ledger: Ledger, aside: bool = False, file: int | None = None) -> str:
    """Ask for the file in training to be put behind the others or, with `aside`, to be set aside. Says what will be.

    Args:
        ledger: of the workspace.
        aside: set it aside.
        file: the number of the file that is meant; None: whichever is in training.

    Raises:
        DataError: no file is in training, or another one than was meant.
    """
    with ledger.transaction():
        ids = current(ledger)
        name = ledger.called(ids)
        if file is not None and file not in ids:
            raise DataError(f"By now {name} is in training, and not file {file}: nothing was asked for.")
        give(ledger, "skip", ids[0], aside=aside)
        if aside:
            text = f"{name} is set aside at the next step; what is learned of it stays"
        else:
            text = f"{name} goes to the back of the queue at the next step, with the steps that are left of it"
        ledger.events.add("asked", f"Asked for: {text}.", file=ids[0])
        others = len(ledger.entries.unfinished(steps_done(ledger))) > 1 or ledger.files.next_to_train() is not None
        if not aside and not others:
            text += ". Nothing else waits, so it simply goes on unless something comes before that"
    return f"{text}."


def resettle(ledger: Ledger, settings: Settings) -> str:
    """Ask for the file in training to be trained on by what `settings` say from its next step on. Says what will be.

    Raises:
        DataError: no file is in training.
        SettingsError: all that differs decides what the file's steps train on, and so is for the next file.
    """
    with ledger.transaction():
        ids = current(ledger)
        entry = ledger.entries.unfinished(steps_done(ledger))[0][0]
        name, recipe = ledger.called(ids), json.loads(entry.recipe)
        values = {key: getattr(settings.training, key) for key in LIVE}
        differing = [key for key, value in values.items() if value != recipe[key]]
        refused = for_next_file(settings, recipe, ledger.files.get(ids[0]).options)
        later = ""
        if refused:
            verb = "decides" if len(refused) == 1 else "decide"
            later = f"{', '.join(refused)} {verb} what the steps of a file train on: nothing of that is changed; "
            later += f"it counts from the file after {name} on"
        if not differing:
            if refused:
                raise SettingsError(f"{later}.")
            return f"{name} is trained by these settings already."
        give(ledger, "settings", ids[0], values={key: values[key] for key in differing})
        told = ", ".join(f"training.{key} {recipe[key]} → {values[key]}" for key in differing)
        text = f"{name} goes on with other settings from its next step on: {told}"
        ledger.events.add("asked", f"Asked for: {text}.", file=ids[0])
    return f"{text}. {later}." if later else f"{text}."


def for_next_file(settings: Settings, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """The names of settings that differ from a file's recipe and cannot change in the middle of it."""
    data = settings.data_recipe(options)
    places = {"chat_template_kwargs": "model", "columns": "inbox"}
    found = [
        f"{places.get(key, 'data')}.{key}" for key, value in data.items() if recipe["data"].get(key, value) != value
    ]
    whole = settings.entry_recipe({}, dict(options))
    return found + [
        f"training.{key}" for key in ("train_batch_size", "epochs", "carry_optimizer") if recipe[key] != whole[key]
    ]  # fmt: skip
