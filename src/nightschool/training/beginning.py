"""Beginning a file: from the first of the queue to an entry of the curriculum, its settings frozen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nightschool import curriculum, durable, gathering
from nightschool.errors import NightschoolError
from nightschool.intake.prepared import read_meta
from nightschool.intake.worker import TOLD
from nightschool.settings import Settings, canonical, load_settings
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.ledger import FileRow, Ledger
    from nightschool.workspace import Layout

log = logging.getLogger("nightschool.trainer")


def begin(
    layout: Layout, ledger: Ledger, settings: Settings, root: dict[str, Any], done: int
) -> curriculum.Entry | None:
    """Append the next entry to the curriculum, in the ledger, and return it; None while nothing is ready.

    Args:
        layout, ledger, settings: the workspace.
        root: the run's root.
        done: steps done so far, for the log.
    """
    head = ledger.files.next_to_train()
    if head is None or head.state != "ready":
        return None

    def recipe_of(row: FileRow) -> str | None:
        data_recipe = _data_recipe(layout, settings, root, row)
        if data_recipe is None:
            _send_back(ledger, row)
            return None
        return canonical(settings.entry_recipe(data_recipe, row.options))

    queue = ledger.files.queue(limit=gathering.MOST_FILES + 1)
    chosen = gathering.together(queue, _gather_rows(ledger, settings), recipe_of)
    if not chosen:
        return None
    rows, recipe = [row for row, _ in chosen], chosen[0][1]
    entry = curriculum.whole(
        (curriculum.Part(row.id, str(row.data_digest), int(row.sequences or 0)) for row in rows), recipe
    )
    with ledger.transaction():
        if any(ledger.files.get(row.id) != row for row in rows):
            # Intake has taken one back meanwhile, to prepare it again; it may even have done so.
            return None
        ledger.entries.append(entry.parts, recipe, entry.length, entry.start, entry.stop)
        for row in rows:
            ledger.files.begin(row.id)
            ledger.events.add("began", f"Began {row.name}.", file=row.id, step=done)
        name = ledger.called(entry.file_ids)
    log.info(
        "Learning %s: %s rows, %s tokens, %d steps (%d to %d).", escape(name),
        f"{sum(row.rows_good or 0 for row in rows):,}", f"{sum(row.tokens or 0 for row in rows):,}", entry.steps,
        done + 1, done + entry.steps,
    )  # fmt: skip
    return entry


def _gather_rows(ledger: Ledger, settings: Settings) -> int:
    """The number that intake goes by, if it has said one.

    It may have started before the settings were changed. With a smaller number it would keep fewer files ready than
    this process waits for, and nothing would ever begin.
    """
    told = ledger.machine.get(TOLD) or {}
    return int(told.get("gather_rows", settings.inbox.gather_rows))


def _data_recipe(layout: Layout, settings: Settings, root: dict[str, Any], row: FileRow) -> dict[str, Any] | None:
    """How a file was prepared; None where that is gone, or not how this run would prepare it now."""
    folder = layout.prepared / str(row.prepared)
    if durable.check(folder, deep=False):
        log.warning("The prepared data of %s is not whole; it is prepared again.", row.name)
        return None
    recipe = read_meta(folder)["recipe"]
    changed = _changed(recipe, settings, root, row)
    # Intake may have started later, and read settings that were changed since: it would prepare the same again.
    if changed and _changed(recipe, _settings_now(layout) or settings, root, row):
        log.info("%s was prepared with another %s; it is prepared again.", row.name, ", ".join(changed))
        return None
    return recipe


def _changed(recipe: dict[str, Any], settings: Settings, root: dict[str, Any], row: FileRow) -> list[str]:
    wanted = {**settings.data_recipe(row.options), "tokenizer": root["tokenizer"]}
    return sorted(key for key, value in wanted.items() if recipe.get(key) != value)


def _settings_now(layout: Layout) -> Settings | None:
    try:
        return load_settings(layout.settings_file)
    except NightschoolError:
        return None


def _send_back(ledger: Ledger, row: FileRow) -> None:
    with ledger.transaction():
        if ledger.files.get(row.id).state == "ready":
            ledger.files.set_state(row.id, "archived")
