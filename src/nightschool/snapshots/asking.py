"""Asking a trainer at work for a checkpoint: a snapshot shall hold the present step, not that of an hour ago.

The question is a machine row, which the trainer's recorder looks at about once a second; the answer comes in what the
trainer says of itself, once the checkpoint is in place, or at once where there is nothing new to save.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightschool import durable
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.ledger import Ledger

ASKED = "save_asked"
"""The machine row: a word that is different each time."""
ANSWERED = "save_answered"
"""The trainer's answer in the machine row `trainer`: the word that it was asked with."""
POLL_SECONDS = 0.1


def ask(ledger: Ledger) -> str:
    """Ask for a checkpoint; returns the word to look for in the answer."""
    word = os.urandom(4).hex()
    ledger.machine.set(ASKED, word)
    return word


def answered(told: dict[str, Any], word: str) -> bool:
    """Whether the trainer that says `told` of itself has done what it was asked for with `word`."""
    return told.get(ANSWERED) == word


def wait_for_save(
    layout: Layout, ledger: Ledger, patience: float, waiting: Callable[[], object] = lambda: None
) -> bool:
    """Let the trainer, if one runs, save, and wait for it.

    Args:
        layout, ledger: the workspace.
        patience: seconds to wait at most.
        waiting: called when there is something to wait for.

    Returns:
        False if it still had not saved when patience ran out.
    """
    end = time.monotonic() + patience
    word = None
    while durable.holder(layout.trainer_lock) is not None:
        if word is None:
            word = ask(ledger)
            waiting()
        if answered(ledger.machine.get("trainer") or {}, word):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)
    return True
