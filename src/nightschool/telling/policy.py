"""What is told, and when. Pure: events, the state of the machine and the wall clock come in, messages come out.

Many things of a kind go into one message: the first waits a moment for others, and the next message of that kind comes
no sooner than `GAP` after it. All that is remembered is in `Memory`, which the ledger keeps, so that a restart neither
repeats nor forgets. Wall clock times are only ever subtracted; where the clock was set back they count for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from nightschool.ledger import EventRow
from nightschool.telling.message import MOST_LINES, Draft, files, line, listed

GATHER = 15.0
"""Seconds for which the first of a kind waits for others."""
GAP = 600.0
"""Seconds between two messages of a kind."""
PATIENCE = 600.0
"""Seconds of waiting for a disk, a GPU or a restart that are not worth a message."""

WAITS = ("waiting for disk", "waiting for GPU", "waiting", "restarting")
WELL = ("training", "idle")
"""States that end a trouble. Starting, saving and others say nothing: a trainer that crashes at once starts too."""
RESTS = ("paused", "outside hours", "stopped")
"""States in which nothing is waited for; what was in the way before them may be in the way after them."""

INCIDENTS = ("checkpoint-damaged", "checkpoint-foreign", "data-changed")
"""Events that the owner should know of, and that nothing ends."""
OPENS = {"snapshot-failed": "snapshot", "copy-failed": "copy"}
PREFIXES = {"copy": "The second place is not up to date: "}


@dataclass
class Held:
    """Things of one kind that wait to be told: the first lines, how many there are, and since when."""

    lines: list[str] = field(default_factory=list)
    count: int = 0
    since: float = 0.0

    def add(self, text: str, now: float) -> None:
        """One more."""
        if not self.count:
            self.since = now
        self.count += 1
        if len(self.lines) < MOST_LINES:
            self.lines.append(line(text))


@dataclass
class Trouble:
    """Something that lasts: what, since when, whether a message told it."""

    text: str
    since: float
    told: bool = False


@dataclass
class Night:
    """What happened since the last summary, and where the run stood then."""

    step: int | None = None
    loss: float | None = None
    learned: Held = field(default_factory=Held)
    rejected: Held = field(default_factory=Held)
    snapshots: Held = field(default_factory=Held)
    trouble: Held = field(default_factory=Held)
    restarts: int = 0


@dataclass
class Memory:
    """All that is remembered.

    Attributes:
        cursor: number of the last event that was looked at.
        settled: the dates whose summary is settled, as `snapshots.due` keeps them.
        held: what waits to be told, by kind.
        last: when the last message of a kind was written, and its text.
        troubles: what lasts, by what it is.
        ended: troubles that a message told and that have ended since.
        waiting: since when the machine has waited; None while it does not.
        night: for the summary.
    """

    cursor: int
    settled: list[list[str]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    last: dict[str, tuple[float, str]] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    waiting: float | None = None
    night: Night = field(default_factory=Night)

    def to_row(self) -> dict[str, Any]:
        """The form in which the ledger keeps it."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Memory:
        """What `to_row` made."""
        return msgspec.convert(row, cls)

    def hold(self, kind: str, text: str, now: float) -> None:
        """Have one more thing of this kind told."""
        self.held.setdefault(kind, Held()).add(text, now)

    def open(self, key: str, text: str, now: float) -> None:
        """A trouble that lasts has begun, or goes on with another reason."""
        known = self.troubles.get(key)
        if known is None:
            self.troubles[key] = Trouble(line(text), now, told=key in self.ended)
            self.ended = [other for other in self.ended if other != key]
            self.night.trouble.add(text, now)
        elif not known.told:
            known.text = line(text)

    def close(self, key: str) -> None:
        """A trouble is over. One that no message told is forgotten."""
        gone = self.troubles.pop(key, None)
        if gone is not None and gone.told:
            self.ended.append(key)


def take(memory: Memory, event: EventRow, on: Collection[str], now: float) -> None:
    """Look at the next event. `on` are the kinds that are told."""
    memory.cursor = event.id
    night = memory.night
    if event.kind == "file-learned":
        name = str(event.fields.get("name", event.text))
        night.learned.add(name, now)
        _hold(memory, "learned", name, on, now)
    elif event.kind == "file-rejected":
        night.rejected.add(event.text, now)
        _hold(memory, "rejected", event.text, on, now)
    elif event.kind in INCIDENTS or (event.kind == "cut" and event.fields.get("set_aside")):
        night.trouble.add(event.text, now)
        _hold(memory, "trouble", event.text, on, now)
    elif event.kind in OPENS:
        key = OPENS[event.kind]
        memory.open(key, PREFIXES.get(key, "") + event.text, now)
    elif event.kind == "snapshot":
        night.snapshots.add(str(event.fields.get("name", event.text)), now)
        memory.close("snapshot")
    elif event.kind == "accident":
        night.restarts += event.fields.get("then") in ("restart", "blame")


def _hold(memory: Memory, kind: str, text: str, on: Collection[str], now: float) -> None:
    if kind in on:
        memory.hold(kind, text, now)


def look(memory: Memory, word: str, reason: str, copy_pending: bool, now: float, turn: bool = False) -> None:
    """Look at what the machine is doing.

    `copy_pending`: the second place still waits for its copy. `turn`: what it waits for is only another's turn.
    """
    text = f"{word}: {reason}" if reason else word
    if word == "failed":
        memory.open("failed", text, now)
    elif turn or word in RESTS:
        memory.waiting = None
    elif word in WAITS:
        # A clock that was set back begins the wait anew.
        if memory.waiting is None or now < memory.waiting:
            memory.waiting = now
        if now - memory.waiting >= PATIENCE:
            memory.open("waiting", text, now)
    elif word in WELL:
        memory.waiting = None
        memory.close("failed")
        memory.close("waiting")
    if not copy_pending:
        memory.close("copy")


def compose(memory: Memory, on: Collection[str], now: float, *, ending: bool = False) -> list[Draft]:
    """The messages that are to be sent now; what they tell is noted in `memory` as told.

    Args:
        memory: is changed.
        on: the kinds that are told.
        now: seconds of the wall clock.
        ending: the machine stops: nothing is held back for company, nor for the gap between two messages, unless it
            would say the very same once more, which a machine that starts and stops over and over would do.
    """
    drafts = []
    for kind in ("learned", "rejected"):
        held = memory.held.get(kind)
        if held is not None and held.count:
            draft = _of_files(kind, held)
            if _due(memory, draft, held.since, now, ending):
                del memory.held[kind]
                drafts.append(draft)
    drafts += _trouble(memory, on, now, ending)
    return drafts


def _due(memory: Memory, draft: Draft, since: float, now: float, ending: bool) -> bool:
    """Whether a message may go now; if so, notes that it went."""
    at, text = memory.last.get(_bucket(draft), (now - GAP, ""))
    soon = 0 <= now - at < GAP
    held_back = soon and text == draft.text if ending else soon or 0 <= now - since < GATHER
    if not held_back:
        memory.last[_bucket(draft)] = (now, draft.text)
    return not held_back


def _bucket(draft: Draft) -> str:
    return "trouble" if draft.kind == "well" else draft.kind


def _of_files(kind: str, held: Held) -> Draft:
    text, fields = listed(held.lines, held.count), {"count": held.count, "files": held.lines}
    if kind == "learned":
        what = held.lines[0] if held.count == 1 else files(held.count)
        return Draft("learned", f"learned {what}", f"Learned: {text}", fields)
    return Draft("rejected", f"could not use {files(held.count)}", f"Rejected: {text}", fields)


def _trouble(memory: Memory, on: Collection[str], now: float, ending: bool) -> list[Draft]:
    if "trouble" not in on:
        memory.held.pop("trouble", None)
        memory.ended = []
        return []
    held = memory.held.get("trouble", Held())
    fresh = {key: trouble for key, trouble in memory.troubles.items() if not trouble.told}
    if held.count or fresh:
        lines = [*(trouble.text for trouble in fresh.values()), *held.lines]
        times = [trouble.since for trouble in fresh.values()] + [held.since] * bool(held.count)
        fields = {"count": len(fresh) + held.count, "open": sorted(memory.troubles), "lines": lines}
        title = "needs you" if memory.troubles else "had trouble, and goes on"
        draft = Draft("trouble", title, listed(lines, len(fresh) + held.count), fields)
        if not _due(memory, draft, min(times), now, ending):
            return []
        memory.held.pop("trouble", None)
        for trouble in fresh.values():
            trouble.told = True
        return [draft]
    if memory.ended and not memory.troubles:
        draft = Draft("well", "all is well again", "What was told as trouble is over.", {"ended": sorted(memory.ended)})
        if _due(memory, draft, now - GATHER, now, ending):
            memory.ended = []
            return [draft]
    return []
