"""Changing what waits to be learned: another order, another priority, out of the queue and back into it.

Each change is one transaction of the ledger, whether the machine runs or not. Only what waits can be moved: a file
whose training has begun has its place in the history.
"""

from __future__ import annotations

from collections.abc import Sequence

from nightschool.curriculum import End
from nightschool.errors import DataError
from nightschool.ledger import HIGH, LOW, NORMAL, NOW, FileRow, Ledger
from nightschool.ledger.files import REST, TAKEN_OUT, WAITING_STATES, State
from nightschool.words import escape

PRIORITIES = {"now": NOW, "high": HIGH, "normal": NORMAL, "low": LOW}
BY_HAND = "taken out of the queue by hand; `nightschool queue put-back` puts it back"
FORGETTING = "`nightschool forget` takes it out of the history"

_WHY_NOT = {
    "training": f"it is in training; `nightschool skip` puts it behind the others, {FORGETTING}",
    "trained": f"it is trained; {FORGETTING}",
    "learned": f"it is learned; {FORGETTING}, `nightschool add --again` trains it once more",
    "set_aside": "it is set aside; `nightschool queue put-back` puts it into the queue",
    "forgotten": "it was forgotten; `nightschool add --again` has it learned",
    "rejected": "it was rejected; `nightschool files` says why",
    "duplicate": "it has the same bytes as another file; `nightschool add --again` trains it all the same",
}


def move(ledger: Ledger, row: FileRow, where: str | FileRow) -> str:
    """Move a waiting file: `first`, `last` among those of its priority, or before another one. Says what was done.

    Raises:
        DataError: one of them does not wait.
    """
    with ledger.transaction():
        _require_waiting(ledger, row)
        if isinstance(where, FileRow):
            _require_waiting(ledger, where)
            ledger.line.before(row.id, where.id)
            text = f"{row.name} comes right before {where.name} now"
        elif where == "first":
            ledger.line.first(row.id)
            text = f"{row.name} is the first of the queue now"
        else:
            ledger.line.last([row.id])
            text = f"{row.name} is the last of priority {_called(row.priority)} now"
        priority = ledger.files.get(row.id).priority
        if priority != row.priority:
            text += f", at that one's priority, which is {_called(priority)}"
        ledger.events.add("queue", f"{text}.", file=row.id)
    return f"{text}."


def set_priority(ledger: Ledger, rows: Sequence[FileRow], word: str) -> str:
    """Give waiting files another priority; `now` interrupts the file in training. Says what was done.

    Raises:
        DataError: one of them does not wait; nothing was changed.
    """
    with ledger.transaction():
        for row in rows:
            _require_waiting(ledger, row)
            ledger.line.priority(row.id, PRIORITIES[word])
        text = f"{_names(rows)}: priority {word}"
        if word == "now":
            text = f"{_names(rows)}: learned next; what is in training is interrupted for it and goes on afterwards"
        ledger.events.add("queue", f"{text}.", files=[row.id for row in rows])
    return f"{text}."


def remove(ledger: Ledger, rows: Sequence[FileRow]) -> str:
    """Take waiting files out of the queue. Their bytes stay archived, and what is learned of them stays learned.

    Raises:
        DataError: one of them does not wait; nothing was changed.
    """
    with ledger.transaction():
        gone: set[int] = set()
        for row in rows:
            if row.id in gone:
                continue  # with one that it was begun with
            state = _require_waiting(ledger, row).state
            if state == "arrived":
                # Its bytes may lie in the inbox, where they would be found as a new file: they are archived first.
                ledger.files.set_option(row.id, TAKEN_OUT, BY_HAND)
            elif state == "skipped":
                together = _together(ledger, row)
                shelve(ledger, together)
                gone.update(together)
            else:
                ledger.files.set_aside(row.id, BY_HAND)
        text = f"Taken out of the queue: {_names(rows)}"
        ledger.events.add("queue", f"{text}.", files=[row.id for row in rows])
    return f"{text}. The bytes are kept; `nightschool queue put-back` puts it back."


def put_back(ledger: Ledger, rows: Sequence[FileRow]) -> str:
    """Put files that are set aside to the end of the queue: whole, or with the steps that are left. Says what was done.

    Raises:
        DataError: one of them cannot be put back, and why; nothing was changed.
    """
    said = []
    with ledger.transaction():
        for row in rows:
            said.append(_put_back(ledger, ledger.files.get(row.id)))
        text = "Back in the queue: " + ", ".join(dict.fromkeys(said))
        ledger.events.add("queue", f"{text}.", files=[row.id for row in rows])
    return f"{text}."


def _put_back(ledger: Ledger, row: FileRow) -> str:
    if row.state == "arrived" and row.options.get(TAKEN_OUT):
        ledger.files.set_option(row.id, TAKEN_OUT, None)
        return row.name
    if row.state in WAITING_STATES:
        return row.name  # with those it was gathered with, perhaps
    if row.state != "set_aside":
        why = "it is in training" if row.state == "training" else _WHY_NOT[row.state]
        raise DataError(f"{_shown(row)} is not set aside: {why}.")
    if row.archive is None or row.sha256 is None:
        raise DataError(f"{_shown(row)} cannot be put back: its bytes are not in the archive. Add the file again.")
    twin = ledger.files.find_learnable_duplicate(row.sha256, row.id)
    if twin is not None:
        raise DataError(
            f"{_shown(row)} cannot be put back: the same bytes came again as {_shown(ledger.files.get(twin))}. "
            "`nightschool add --again` has them learned once more."
        )
    entries = ledger.entries.of_file(row.id)
    if not entries:
        ledger.files.set_option(row.id, TAKEN_OUT, None)
        ledger.files.set_state(row.id, "archived")
        ledger.line.last([row.id])
        return row.name
    last = entries[-1]
    if last.stop == last.steps_total:
        raise DataError(f"{_shown(row)} is learned to its end. `nightschool add --again` trains it once more.")
    skip(ledger, last.file_ids, last.recipe)
    name = ledger.called(last.file_ids)
    return f"{name}, with the {last.steps_total - last.stop:,} of its {last.steps_total:,} steps that are left"


def skip(ledger: Ledger, ids: Sequence[int], recipe: str) -> None:
    """Let the rest of files that were begun together wait at the end of the queue, to be trained by `recipe`."""
    with ledger.transaction():
        for id in ids:
            ledger.files.set_option(id, REST, recipe)
            ledger.files.set_state(id, "skipped")
        ledger.line.last(ids)


def shelve(ledger: Ledger, ids: Sequence[int]) -> None:
    """Set files aside whose entry ended early: what is learned of them stays, and the rest waits no more."""
    with ledger.transaction():
        for id in ids:
            ledger.files.set_option(id, REST, None)
            last = ledger.entries.of_file(id)[-1]
            ledger.files.set_aside(id, f"shelved after {last.stop} of its {last.steps_total} steps")


def not_begun(ledger: Ledger, ids: Sequence[int], aside: bool) -> None:
    """Let files wait, or set them aside, whose entry was taken back before its first step."""
    with ledger.transaction():
        for id in ids:
            ledger.files.set_state(id, "ready")
            if aside:
                ledger.files.set_aside(id, BY_HAND)
        if not aside:
            ledger.line.last(ids)


def state_of(row: FileRow, end: End, done: int) -> State:
    """The state of a file with the end `end` in the history, after `done` steps."""
    if end.step > done:
        return "training"
    if end.why is None:
        return "learned"
    return "skipped" if REST in row.options else "set_aside"


def _together(ledger: Ledger, row: FileRow) -> tuple[int, ...]:
    """A file that was begun, with those it was gathered with: they are trained together, and so is their rest."""
    return ledger.entries.of_file(row.id)[-1].file_ids


def _require_waiting(ledger: Ledger, row: FileRow) -> FileRow:
    now = ledger.files.get(row.id)
    if now.state not in WAITING_STATES:
        raise DataError(f"{_shown(now)} is not in the queue: {_WHY_NOT[now.state]}.")
    return now


def _called(priority: int) -> str:
    return next(word for word, number in PRIORITIES.items() if number == priority)


def _shown(row: FileRow) -> str:
    return f"{escape(row.name)} (file {row.id})"


def _names(rows: Sequence[FileRow]) -> str:
    shown = [row.name for row in rows[:5]]
    return ", ".join(shown) + (f" and {len(rows) - 5:,} more" if len(rows) > 5 else "")
