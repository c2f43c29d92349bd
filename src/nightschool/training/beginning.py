"""Beginning a file: from the first of the queue to an entry of the curriculum, its settings frozen."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nightschool import curriculum, durable, gathering, inforce
from nightschool.curriculum import Entry
from nightschool.errors import NightschoolError
from nightschool.intake.prepared import read_meta
from nightschool.intake.worker import TOLD
from nightschool.ledger.files import REST
from nightschool.settings import Settings, canonical
from nightschool.settings.changes import changes
from nightschool.training import future
from nightschool.words import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightschool.ledger import FileRow, Ledger
    from nightschool.workspace import Layout

log = logging.getLogger("nightschool.trainer")


@dataclass(frozen=True)
class Chosen:
    """What begins next.

    Attributes:
        rows: the files as they were when they were chosen.
        entry: what is trained of them: all, or what is left of files that were begun before.
    """

    rows: list[FileRow]
    entry: Entry


def begin(
    layout: Layout,
    ledger: Ledger,
    settings: Settings,
    root: dict[str, Any],
    entries: Sequence[Entry],
    done: int,
    fixed: Settings,
) -> tuple[list[Entry], Entry] | None:
    """Put the first of the queue next, in the ledger: before what is in progress, if anything is.

    Args:
        layout, ledger, settings: the workspace.
        root: the run's root.
        entries: the curriculum.
        done: steps done so far.
        fixed: the settings that the root was made of.

    Returns:
        The curriculum from now on, and what was put into it; None while nothing is ready, or while what is fixed for a
        run that has not begun is another by now than in this process: the supervisor starts it again.
    """
    head = ledger.files.next_to_train()
    if head is None:
        return None
    chosen = _rest(ledger, head) if head.state == "skipped" else _new(layout, ledger, settings, root, head)
    if chosen is None:
        return None
    entry = chosen.entry
    after = curriculum.inserted(entries, done, entry)
    with ledger.transaction():
        if any(ledger.files.get(row.id) != row for row in chosen.rows):
            # Intake has taken one back meanwhile, to prepare it again, or a person has: it may even be ready again.
            return None
        if not entries and _is_other(layout, fixed):
            return None
        future.rewrite(ledger, entries, after, done)
        for row in chosen.rows:
            ledger.files.begin(row.id)
            ledger.files.set_option(row.id, REST, None)
            verb = "Began" if entry.start == 0 else "Went on with"
            ledger.events.add("began", f"{verb} {row.name}.", file=row.id, step=done)
        name = ledger.called(entry.file_ids)
    if entry.start:
        log.info(
            "Going on with %s: the %d of its %d steps that are left (%d to %d).", escape(name), entry.steps,
            entry.length, done + 1, done + entry.steps,
        )  # fmt: skip
    else:
        log.info(
            "Learning %s: %s rows, %s tokens, %d steps (%d to %d).", escape(name),
            f"{sum(row.rows_good or 0 for row in chosen.rows):,}", f"{sum(row.tokens or 0 for row in chosen.rows):,}",
            entry.steps, done + 1, done + entry.steps,
        )  # fmt: skip
    return after, entry


def _is_other(layout: Layout, fixed: Settings) -> bool:
    """Whether the settings in force would make another root. The supervisor takes them in a transaction as well."""
    now = _settings_now(layout)
    return now is not None and any(change.kind == "run" for change in changes(fixed, now))


def _new(layout: Layout, ledger: Ledger, settings: Settings, root: dict[str, Any], head: FileRow) -> Chosen | None:
    """The first file of the queue, with the small ones next to it; None while they are not ready."""
    if head.state != "ready":
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
    rows = [row for row, _ in chosen]
    parts = (curriculum.Part(row.id, str(row.data_digest), int(row.sequences or 0)) for row in rows)
    return Chosen(rows, curriculum.whole(parts, chosen[0][1]))


def _rest(ledger: Ledger, head: FileRow) -> Chosen:
    """What is left of a file whose entry ended early, with those it was begun with."""
    last = ledger.entries.of_file(head.id)[-1]
    parts = tuple(curriculum.Part(*part) for part in last.parts)
    whole = curriculum.whole(parts, str(head.options.get(REST) or last.recipe))
    return Chosen([ledger.files.get(id) for id in last.file_ids], replace(whole, start=last.stop))


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
        return inforce.read(layout)
    except NightschoolError:
        return None


def _send_back(ledger: Ledger, row: FileRow) -> None:
    with ledger.transaction():
        if ledger.files.get(row.id).state == "ready":
            ledger.files.set_state(row.id, "archived")
