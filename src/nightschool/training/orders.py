"""What the trainer does between two steps because somebody asked: skip a file, make way for another, other settings.

Each only rewrites the history behind the steps done, in one transaction of the ledger with all that goes with it. So
a kill at any moment finds it done or not begun, and the weights are those of a run that had this history at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nightschool import curriculum, queueing
from nightschool.ledger import NORMAL, NOW
from nightschool.ledger.files import REST
from nightschool.ordering import ORDERS
from nightschool.settings import canonical
from nightschool.training import beginning, future
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.curriculum import Entry
    from nightschool.ledger import Ledger
    from nightschool.training.trainer import Trainer

log = logging.getLogger("nightschool.trainer")


class Orders:
    """Obeys for one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._ledger: Ledger = trainer.ledger
        self._first = True

    def obey(self) -> None:
        """Do what was asked for since the last step; to be called before each."""
        recorder = self._trainer.recorder
        if self._first:
            # Also what was asked while nothing ran, before the first step is taken.
            self._first = False
            recorder.look()
        if recorder.told.get(ORDERS):
            # Cleared first: the recorder looks again soon, and may have seen more by then.
            recorder.told = {**recorder.told, ORDERS: None}
            ahead = []
            for order in self._ledger.machine.get(ORDERS) or []:
                if self._is_ahead(order["file"]):
                    ahead.append(order)
                else:
                    self._obey(order)
            if ahead:
                recorder.told = {**recorder.told, ORDERS: ahead}
        if recorder.urgent:
            recorder.urgent = self._make_way()

    def _is_ahead(self, file: int) -> bool:
        """Whether a file comes after the one in training: it was given up for another, or a crash took back its steps.

        A command for it waits: perhaps it is the very file that ended the process, and this is to be the end of that.
        """
        loop, place = self._trainer.loop, self._trainer.loop.next_place()
        if place is None or file in loop.entries[place.index].file_ids:
            return False
        return any(file in entry.file_ids for entry in loop.entries[place.index + 1 :])

    def _obey(self, order: dict[str, Any]) -> None:
        place = self._trainer.loop.next_place()
        entry = self._trainer.loop.entries[place.index] if place else None
        if entry is None or order["file"] not in entry.file_ids:
            name = self._name(order["file"])
            self._answer(order, f"{name} is not in training any more, so it was not {_done(order)}")
        elif order["what"] == "skip":
            self._skip(order, entry)
        elif order["what"] == "settings":
            self._resettle(order, entry)
        else:
            self._answer(order, f"This version does not know the command {order['what']!r}")

    def _skip(self, order: dict[str, Any], entry: Entry) -> None:
        loop, ledger, aside = self._trainer.loop, self._ledger, bool(order.get("aside"))
        name = ledger.called(entry.file_ids)
        after = curriculum.ended(loop.entries, loop.done)
        others = len(curriculum.divided(after, loop.done)[1])
        if not aside and not others and ledger.files.next_to_train() is None:
            self._answer(order, f"{name} goes on, because nothing else waits")
            return
        reached = curriculum.ends(after)
        with ledger.transaction():
            future.rewrite(ledger, loop.entries, after, loop.done)
            begun = entry.file_ids[0] in reached
            if begun and aside:
                queueing.shelve(ledger, entry.file_ids)
            elif begun:
                queueing.skip(ledger, entry.file_ids, self._last_recipe(entry))
            else:
                queueing.not_begun(ledger, entry.file_ids, aside)
            for id in [] if aside else entry.file_ids:
                if ledger.files.get(id).priority == NOW:
                    # It would interrupt what it made way for.
                    ledger.line.priority(id, NORMAL)
                    ledger.line.last([id])
            left = entry.length - (reached[entry.file_ids[0]].stop if begun else 0)
            text = f"{name} goes to the back of the queue with {left:,} of its {entry.length:,} steps"
            if aside:
                text = f"{name} is set aside after {entry.length - left:,} of its {entry.length:,} steps; "
                text += "`nightschool queue put-back` has the rest of it learned"
            self._answer(order, text)
        self._go_on(after, f"{name} was skipped")
        if begun and aside:
            at = len(curriculum.divided(after, loop.done)[0]) - 1
            self._trainer.holdout.after(curriculum.first_range(after, at), after[at])

    def _resettle(self, order: dict[str, Any], entry: Entry) -> None:
        """Train the rest of the file in training, interrupted or not, by a recipe with some values changed."""
        loop = self._trainer.loop
        recipe = canonical({**entry.settings, **order["values"]})
        after = curriculum.with_recipe(loop.entries, loop.done, recipe)
        told = ", ".join(f"{key} {value}" for key, value in order["values"].items())
        name = self._ledger.called(entry.file_ids)
        if after == loop.entries:
            self._answer(order, f"{name} is trained with {told} already")
            return
        with self._ledger.transaction():
            future.rewrite(self._ledger, loop.entries, after, loop.done)
            self._answer(order, f"{name} goes on with {told}")
        self._go_on(after)

    def _last_recipe(self, entry: Entry) -> str:
        # Where a crash took back the steps before an earlier skip, the rest has its recipe already.
        noted = self._ledger.files.get(entry.file_ids[0]).options.get(REST)
        return noted or next(one.recipe for one in reversed(self._trainer.loop.entries) if one.parts == entry.parts)

    def _make_way(self) -> bool:
        """Interrupt what is in training for the file that is to be learned at once, if it is ready.

        Returns whether one waits for its turn.
        """
        trainer, ledger = self._trainer, self._ledger
        loop, place, head = trainer.loop, trainer.loop.next_place(), ledger.files.next_to_train()
        if place is None or head is None or head.priority != NOW:
            return False
        entry = loop.entries[place.index]
        if any(ledger.files.get(id).priority == NOW for id in entry.file_ids):
            return True  # one after the other
        begun = beginning.begin(
            trainer.layout, ledger, trainer.settings, trainer.root, loop.entries, loop.done, trainer.fixed
        )  # fmt: skip
        if begun is None:
            return False
        after, new = begun
        trainer.new_entry = new
        if place.local > 0:
            name, urgent = ledger.called(entry.file_ids), ledger.called(new.file_ids)
            text = f"{name} is interrupted after {place.local:,} of its {entry.length:,} steps for {urgent}"
            text += ", and goes on afterwards."
            log.info("%s", escape(text))
            ledger.events.add("interrupted", text, step=loop.done, file=entry.file_ids[0])
        self._go_on(after, "making way for a file that is to be learned at once")
        return ledger.files.next_to_train() is not None

    def _go_on(self, after: list[Entry], save: str | None = None) -> None:
        """Take over the rewritten history: a range ends here, so the state is noted, and saved where that has a why."""
        trainer = self._trainer
        trainer.loop.entries[:] = after
        trainer.boundary = trainer.loop.digests()
        if save is not None:
            trainer.save_now(save)

    def _answer(self, order: dict[str, Any], text: str) -> None:
        ledger = self._ledger
        with ledger.transaction():
            waiting = [one for one in ledger.machine.get(ORDERS) or [] if one["nonce"] != order["nonce"]]
            if waiting:
                ledger.machine.set(ORDERS, waiting)
            else:
                ledger.machine.delete(ORDERS)
            fields = {key: order[key] for key in ("what", "nonce", "file")}
            ledger.events.add("answered", f"{text}.", step=self._trainer.loop.done, **fields)
        log.info("%s.", escape(text))

    def _name(self, file: int) -> str:
        try:
            return self._ledger.files.get(file).name
        except KeyError:
            return f"file {file}"


def _done(order: dict[str, Any]) -> str:
    return {"skip": "skipped", "settings": "given other settings"}.get(order["what"], "changed")


def settle(ledger: Ledger, entries: list[Entry], index: int) -> bool:
    """After the last step of an entry: put its files into the state that follows; whether they are over for now."""
    over = True
    with ledger.transaction():
        ends = curriculum.ends(entries[index:])
        for file_id in entries[index].file_ids:
            end = ends[file_id]
            if end.step != entries[index].steps:  # a further range of it follows
                over = False
            elif end.why is None:
                ledger.files.trained(file_id)
            elif REST in ledger.files.get(file_id).options:
                ledger.files.set_state(file_id, "skipped")
                over = False
            else:
                ledger.files.set_aside(file_id, end.why)
    return over


def is_over(ledger: Ledger, entries: list[Entry], index: int) -> bool:
    """Whether the files of an entry are done with for now after its last step."""
    ends = curriculum.ends(entries[index:])
    return all(
        ends[id].step == entries[index].steps and (ends[id].why is None or REST not in ledger.files.get(id).options)
        for id in entries[index].file_ids
    )
