"""The part of the supervisor that tells the owner: looks at events and state, and hands messages to the senders.

Nothing here stops or slows the machine: what goes wrong with it is in the log, once. What is to be sent stands in the
ledger, in the same row as the number of the last event, until it has arrived or is a day old; so a restart neither
repeats nor loses it. A kill in the second between an arrival and its note repeats that message, under the same id.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nightschool.errors import NightschoolError, StorageError
from nightschool.ledger import Ledger
from nightschool.settings import NotifySettings
from nightschool.snapshots import second
from nightschool.status import status_of
from nightschool.telling import morning, policy
from nightschool.telling.message import Draft, Message
from nightschool.telling.morning import Figures
from nightschool.telling.policy import Memory
from nightschool.telling.sending import Sender, wait_for
from nightschool.telling.targets import Target, targets_of
from nightschool.workspace import Layout

ROW = "telling"
"""The machine row: what the policy remembers, and what has not arrived yet."""
LOOK_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""After the ledger could not be written."""
LONGEST_TRY = 86_400.0
MOST_WAITING = 50
"""Messages that wait at most; the oldest are dropped."""
CURSOR_LAG = 500
"""Events that tell nothing are looked at again after a restart, rather than each be written down as seen."""
END_SECONDS = 3.0
LOSS_STEPS = 64
PAGE = 500

log = logging.getLogger("nightschool.telling")


def local_now() -> datetime:
    """The wall clock here."""
    return datetime.now().astimezone()


@dataclass
class _Letter:
    """A message, the targets that it has not reached, and when it was written (seconds of the wall clock)."""

    message: Message
    to: list[str]
    at: float


class Teller:
    """Tells what happens in one workspace.

    Args:
        layout, settings, ledger: the workspace.
        clock: monotonic seconds.
        now: the wall clock, with a zone.
        make: a sender for a target.
    """

    def __init__(
        self, layout: Layout, settings: NotifySettings, ledger: Ledger, clock: Callable[[], float],
        now: Callable[[], datetime] = local_now, make: Callable[[Target], Sender] = Sender,
    ) -> None:  # fmt: skip
        self._layout = layout
        self._ledger = ledger
        self._clock = clock
        self._now = now
        self._make = make
        self._senders: dict[str, Sender] = {}
        self._memory: Memory | None = None
        self._letters: list[_Letter] = []
        self._written: Any = None
        self._written_cursor = 0
        self._not_before = 0.0
        self._write_after = 0.0
        self._forgotten = False
        self._mistake = False
        self._turn = False
        self._machine = socket.gethostname()
        self.apply(settings)

    def apply(self, settings: NotifySettings) -> None:
        """Follow the settings; what is on its way to a target that stays is not lost."""
        self._settings = settings
        wanted = {target.key: target for target in targets_of(settings)}
        for key in [key for key in self._senders if key not in wanted]:
            self._senders.pop(key).end()
        for key, target in wanted.items():
            if key not in self._senders:
                self._senders[key] = self._make(target)

    def tick(self, word: str, reason: str, turn: bool = False) -> None:
        """Look, and hand over what is to be sent; returns at once and never raises for what is outside.

        Args:
            word, reason: what the machine is doing.
            turn: it waits for nothing but the turn of another workspace.
        """
        self._turn = turn
        if self._clock() < self._not_before:
            return
        self._not_before = self._clock() + LOOK_SECONDS
        self._guarded(word, reason, ending=False)

    def end(self, word: str, reason: str, at_once: bool = False) -> None:
        """Tell what is left, and wait a little for it to arrive; what does not is sent after the next start."""
        self._guarded(word, reason, ending=True)
        wait_for(self._senders.values(), 0.0 if at_once else END_SECONDS)
        self._collect()
        self._write(at_once=True)
        for sender in self._senders.values():
            sender.end()

    def _guarded(self, word: str, reason: str, ending: bool) -> None:
        try:
            self._round(word, reason, ending)
        except NightschoolError:
            pass  # a ledger that cannot be read just now is told by whoever needs it more
        except Exception as error:
            if not self._mistake:
                log.error("Telling what happens met what is a mistake in nightschool.", exc_info=error)
            self._mistake = True

    def _round(self, word: str, reason: str, ending: bool) -> None:
        if not self._senders:
            self._forget()
            return
        memory = self._memory or self._read()
        now = self._now()
        seconds = now.timestamp()
        self._collect()
        try:
            self._look(memory, seconds)
            pending = "copy" in memory.troubles and second.wanted(self._ledger)
        except StorageError:
            # A disk in trouble is what the owner must hear of: go on with what is known without it.
            pending = "copy" in memory.troubles
        policy.look(memory, word, reason, pending, seconds, self._turn)
        for draft in policy.compose(memory, self._settings.on, seconds, ending=ending):
            self._send(draft, now)
        with suppress(StorageError):
            self._summary(memory, now, word, reason)
        self._expire(seconds)
        # Written down before it is offered: what has been sent is known to have been.
        self._write(at_once=ending)
        for letter in self._letters:
            for key in letter.to:
                self._senders[key].offer(letter.message)

    def _summary(self, memory: Memory, now: datetime, word: str, reason: str) -> None:
        day = morning.is_due(memory, now, self._settings.morning)
        if day is not None:
            draft = morning.settle(memory, day, self._figures(memory, word, reason), self._settings.on)
            if draft is not None:
                self._send(draft, now)

    def _read(self) -> Memory:
        row = self._ledger.machine.get(ROW)
        newest = self._ledger.events.latest(1)
        last = newest[0].id if newest else 0
        if row is None:
            memory = Memory(last)
            morning.first(memory, self._now(), self._settings.morning)
            figures = self._figures(memory, "", "")
            memory.night.step, memory.night.loss = figures.step, figures.loss
        else:
            memory = Memory.from_row(row["memory"])
            # A ledger that was made again counts its events from the start.
            memory.cursor = min(memory.cursor, last)
            self._letters = [_Letter(Message(**one["message"]), one["to"], one["at"]) for one in row["letters"]]
        self._memory, self._forgotten = memory, False
        self._written_cursor = memory.cursor
        return memory

    def _forget(self) -> None:
        """Nobody is told: what happens from now on is no news for who is told later."""
        if not self._forgotten:
            self._memory, self._written, self._letters = None, None, []
            if self._ledger.machine.get(ROW) is not None:
                self._ledger.machine.delete(ROW)
            self._forgotten = True

    def _look(self, memory: Memory, now: float) -> None:
        for event in self._ledger.events.since(memory.cursor, PAGE):
            policy.take(memory, event, self._settings.on, now)

    def _send(self, draft: Draft, now: datetime) -> None:
        workspace = self._layout.root.name
        message = Message(
            id=uuid.uuid4().hex, kind=draft.kind, title=f"nightschool, {workspace}: {draft.title}", text=draft.text,
            at=now.astimezone(UTC).isoformat(timespec="seconds"), workspace=str(self._layout.root),
            machine=self._machine, fields=draft.fields,
        )  # fmt: skip
        self._letters.append(_Letter(message, list(self._senders), now.timestamp()))

    def _collect(self) -> None:
        for key, sender in self._senders.items():
            arrived = set(sender.arrived())
            for letter in self._letters:
                if letter.message.id in arrived:
                    letter.to = [other for other in letter.to if other != key]
        self._letters = [letter for letter in self._letters if letter.to]

    def _expire(self, now: float) -> None:
        """Drop what is too old, or too much, and what was for targets that are not set any more."""
        for letter in self._letters:
            letter.to = [key for key in letter.to if key in self._senders]
        old = [letter for letter in self._letters if now - letter.at > LONGEST_TRY]
        old += [letter for letter in self._letters if letter not in old][: max(0, len(self._letters) - MOST_WAITING)]
        for letter in old:
            names = ", ".join(self._senders[key].target.name for key in letter.to)
            for key in letter.to:
                self._senders[key].forget(letter.message.id)
            log.warning("A message of %s was dropped, since it could not be sent to %s.", letter.message.at, names)
            letter.to = []
        self._letters = [letter for letter in self._letters if letter.to]

    def _write(self, at_once: bool) -> None:
        if self._memory is None or not self._senders:
            return
        row = {
            "memory": self._memory.to_row(),
            "letters": [{"message": one.message.to_dict(), "to": list(one.to), "at": one.at} for one in self._letters],
        }
        cursor = row["memory"].pop("cursor")
        lags = cursor - self._written_cursor
        if row == self._written and lags < (1 if at_once else CURSOR_LAG):
            return
        if not at_once and self._clock() < self._write_after:
            return
        self._written, self._written_cursor = row, cursor
        try:
            self._ledger.machine.set(ROW, {**row, "memory": {**row["memory"], "cursor": cursor}})
        except NightschoolError:
            # A full disk. What was handed over is sent all the same; it may come twice after a restart.
            self._written = None
            self._write_after = self._clock() + RETRY_SECONDS

    def _figures(self, memory: Memory, word: str, reason: str) -> Figures:
        status = status_of(self._layout, self._ledger)
        before = status.step if memory.night.step is None else memory.night.step
        losses = [row.loss for row in self._ledger.steps.range(status.step - LOSS_STEPS + 1, status.step)]
        finite = [loss for loss in losses if math.isfinite(loss)]
        return Figures(
            word=word, reason=reason, step=status.step, loss=math.fsum(finite) / len(finite) if finite else None,
            tokens=self._ledger.steps.tokens(before, status.step), waiting=status.queued,
            seconds_left=status.seconds_left,
        )  # fmt: skip


def waiting(ledger: Ledger) -> dict[str, int]:
    """How many messages have not arrived yet, by the key of the target."""
    letters = (ledger.machine.get(ROW) or {}).get("letters", [])
    return dict(Counter(key for letter in letters for key in letter["to"]))


def sample(layout: Layout) -> Message:
    """The message that `nightschool notify --test` sends."""
    return Message(
        id=uuid.uuid4().hex, kind="test", title=f"nightschool, {layout.root.name}: a test",
        text="This is a test. Messages from this machine arrive here.",
        at=datetime.now(UTC).isoformat(timespec="seconds"), workspace=str(layout.root), machine=socket.gethostname(),
    )  # fmt: skip


def trial(targets: list[Target], message: Message, seconds: float) -> list[str | None]:
    """Send a message to each target at once; why it did not arrive for each, or None where it did.

    Args:
        targets, message: what is sent where.
        seconds: those that hang are not waited for any longer.
    """
    late = f"It did not come to an end within {seconds:g} s."
    found: list[str | None] = [late] * len(targets)

    def one(number: int) -> None:
        try:
            targets[number].send(message)
        except NightschoolError as error:
            found[number] = str(error)
        else:
            found[number] = None

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(targets))]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(found)
