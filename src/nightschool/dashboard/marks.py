"""What is marked on the curve: which file was trained where, and what happened. Read on from where it was read to."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nightschool.dashboard.shapes import FileMark, Mark, Marks
from nightschool.ledger import EventRow, Ledger

FILES = 300
"""Files that are told at once."""
MARKS = 200
PAGE = 1000
TRIES = 3

Kind = Literal["resumed", "cut", "snapshot", "numerics"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of events that are marked."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps `first` to `last` on one file or several; `position` is the (first) entry, `key` tells files apart."""

    first: int
    last: int
    position: int
    key: tuple[int, int]


class Marked:
    """The marks of one ledger. For one thread."""

    def __init__(self) -> None:
        self._revision: int | None = None
        self._stretches: list[Stretch] = []
        self._ends: list[int] = []
        self._position = -1
        self._names: dict[int, tuple[str, list[int]]] = {}
        self._event = 0
        self._marks: list[Mark] = []

    def marks(self, ledger: Ledger, first: int = 0, last: int | None = None) -> Marks:
        """The marks in the steps `first` to `last` (default: the last one done)."""
        newest = ledger.steps.last()
        done = newest.step if newest else 0
        last = done if last is None else min(last, done)
        files, left_out = self._files(ledger, first, last, done)
        for _ in range(TRIES - 1):
            if ledger.entries.revision() == self._revision:
                break
            files, left_out = self._files(ledger, first, last, done)
        self._read_events(ledger)
        marks = [mark for mark in self._marks if first <= mark.step <= last]
        told = sorted(marks[-MARKS:], key=lambda mark: mark.step)
        return Marks(files=files, files_left_out=left_out, marks=told, marks_left_out=len(marks) - len(told))

    def _files(self, ledger: Ledger, first: int, last: int, done: int) -> tuple[list[FileMark], int]:
        self._read_entries(ledger)
        stretches = _overlapping(self._stretches, self._ends, first, last)
        chosen = longest(stretches, first, last)
        return [self._told(ledger, one, done) for one in chosen], len(stretches) - len(chosen)

    def _read_entries(self, ledger: Ledger) -> None:
        revision = ledger.entries.revision()
        if revision != self._revision:
            self._revision, self._stretches, self._ends, self._position = revision, [], [], -1
            self._names = {}
        while True:
            page = ledger.entries.extents(self._position, PAGE)
            for one in page:
                end = self._ends[-1] if self._ends else 0
                self._position = one.position
                if not one.steps:
                    continue
                stretch = Stretch(end + 1, end + one.steps, one.position, (one.file, one.files))
                if self._stretches and self._stretches[-1].key == stretch.key:
                    # One file, whose settings changed in the middle of it.
                    before = self._stretches.pop()
                    self._ends.pop()
                    stretch = Stretch(before.first, stretch.last, before.position, before.key)
                self._stretches.append(stretch)
                self._ends.append(stretch.last)
            if len(page) < PAGE:
                return

    def _told(self, ledger: Ledger, one: Stretch, done: int) -> FileMark:
        found = self._names.get(one.position)
        if found is None:
            ids = list(ledger.entries.file_ids(one.position))
            try:
                name = ledger.called(ids) if ids else ""
            except KeyError:
                name = f"file {ids[0]}"
            found = self._names[one.position] = (name, ids)
        return FileMark(first=one.first, last=min(one.last, done), name=found[0], ids=found[1])

    def _read_events(self, ledger: Ledger) -> None:
        newest = ledger.events.latest(1)
        if not newest or newest[-1].id <= self._event:
            return
        until = newest[-1].id
        found: list[EventRow] = []
        for kind in KINDS:
            after = self._event
            while True:
                page = ledger.events.since(after, PAGE, kind)
                found += [event for event in page if event.id <= until]
                if len(page) < PAGE or page[-1].id > until:
                    break
                after = page[-1].id
        found.sort(key=lambda event: event.id)
        self._marks = followed(self._marks, found)
        self._event = until


def followed(marks: Sequence[Mark], events: Iterable[EventRow]) -> list[Mark]:
    """The marks, in the order in which they happened, after these events too. Pure.

    A cut takes the marks behind it away: what comes there now is another past.
    """
    found = list(marks)
    for event in events:
        step = event.fields.get("step")
        if event.kind not in KINDS or not isinstance(step, int):
            continue
        if event.kind == "cut":
            found = [mark for mark in found if mark.step <= step]
        found.append(Mark(kind=event.kind, step=step, at=event.at, text=event.text))
    return found


def longest(stretches: Sequence[Stretch], first: int, last: int, most: int = FILES) -> list[Stretch]:
    """At most so many stretches, those that have the most steps within `first` to `last`, in order of steps. Pure."""
    if len(stretches) <= most:
        return list(stretches)

    def seen(one: Stretch) -> tuple[int, int]:
        return (min(one.last, last) - max(one.first, first), one.first)

    return sorted(heapq.nlargest(most, stretches, key=seen), key=lambda one: one.first)


def _overlapping(stretches: Sequence[Stretch], ends: Sequence[int], first: int, last: int) -> Sequence[Stretch]:
    """Those that share a step with `first` to `last`; `ends` are their last steps."""
    if first > last:
        return []
    low = bisect_left(ends, first)
    high = low
    for at in range(low, len(stretches)):
        if stretches[at].first > last:
            break
        high = at + 1
    return stretches[low:high]
