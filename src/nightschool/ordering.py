"""Commands for the trainer: written down by whoever gives them, obeyed by it at the next step boundary.

They are a list in one machine row, so that one given while nothing runs is obeyed at the next start, before the first
step. Each names the file it is meant for: one that comes too late does not hit another.
"""

from __future__ import annotations

import os
from typing import Any

from nightschool.errors import DataError
from nightschool.forecast import steps_done
from nightschool.ledger import Ledger

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


def skip(ledger: Ledger, aside: bool = False) -> str:
    """Ask for the file in training to be put behind the others or, with `aside`, to be set aside. Says what will be.

    Raises:
        DataError: no file is in training.
    """
    with ledger.transaction():
        ids = current(ledger)
        name = ledger.called(ids)
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
