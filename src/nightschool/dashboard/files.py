"""The files that were dropped: pages of them, newest first, and all that is known of one."""

from __future__ import annotations

import asyncio
import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Call, Endpoint, NotThere
from nightschool.dashboard.reader import Reader
from nightschool.errors import DataError
from nightschool.forecast import CALLED, steps_done
from nightschool.intake import rejected
from nightschool.ledger import EntryRow, FileRow, HoldoutRow, Ledger, StepRow
from nightschool.ledger.files import REST, STATES, TAKEN_OUT, State
from nightschool.words import escape
from nightschool.workspace import Layout

NAMES = 5000
"""Names that a search looks at in one go."""
MOST_NAMES = 200_000
"""And in one request."""
PORTION = 20_000
"""Steps, or entries, that are summed up in one go."""
ENDS = 25
"""Steps at the beginning and at the end of a file whose mean loss is told."""
RANGES = 50
"""Ranges of a file that are told, the first ones."""
BAD_ROWS, LONGEST_LINE, LONGEST_PREVIEW = 100, 64 << 10, 500
LONGEST_TEXT = 4096
"""Bytes of a NAME.why.txt that are looked at."""


# --- pages -------------------------------------------------------------------------------------------------------


async def listing(reader: Reader, query: shapes.FilesQuery) -> shapes.Files:
    """A page of files. Every look at the ledger is short, and others may look in between.

    Raises:
        DataError: there is no such state.
    """
    state = _state(query.state)
    if query.search:
        ids, following = await _search(reader, state, query)
        rows = await reader.read(lambda ledger: ledger.files.several(ids)) if ids else []
    else:
        rows = await reader.read(lambda ledger: ledger.files.newest(state, query.before, query.limit + 1))
        following = rows[query.limit - 1].id if len(rows) > query.limit else None
        rows = rows[: query.limit]
    held, counts = await reader.read(lambda ledger: (ledger.holdouts.of([r.id for r in rows]), ledger.files.counts()))
    return shapes.Files(files=[file_of(row, held.get(row.id)) for row in rows], next=following, counts=counts)


def _state(word: str) -> State | None:
    if not word:
        return None
    for state in STATES:
        if word == state:
            return state
    raise DataError(f"There is no state {escape(word)!r}; there are {', '.join(STATES)}.")


async def _search(reader: Reader, state: State | None, query: shapes.FilesQuery) -> tuple[list[int], int | None]:
    """Numbers of the files whose names hold the text, and where to go on."""
    wanted, found, before = folded(query.search), list[int](), query.before

    def look(ledger: Ledger) -> tuple[list[int], int | None]:
        names = ledger.files.names(state, before, NAMES)
        fitting = [id for id, name in names if wanted in folded(name)]
        return fitting, names[-1][0] if len(names) == NAMES else None

    for _ in range(0, MOST_NAMES, NAMES):
        fitting, before = await reader.read(look)
        found += fitting
        if len(found) > query.limit or before is None:
            break
    if len(found) > query.limit:
        return found[: query.limit], found[query.limit - 1]
    return found, before


def folded(text: str) -> str:
    """Text in which capitals and small letters are the same, and letters with an accent, however that is written."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", text.casefold())


def file_of(row: FileRow, held: HoldoutRow | None) -> shapes.File:
    """A file as the page gets it."""
    return shapes.File(
        id=row.id, name=row.name, state=row.state, reason=row.reason or None, bytes=row.bytes, rows=row.rows_good,
        rows_bad=row.rows_bad, tokens=row.tokens, label_tokens=row.label_tokens,
        priority=CALLED.get(row.priority, str(row.priority)), duplicate_of=row.duplicate_of, arrived_at=row.arrived_at,
        learned_at=row.learned_at, holdout_rows=held.rows if held else None,
        holdout_before=_finite(held.loss_before) if held else None,
        holdout_after=_finite(held.loss_after) if held else None,
    )  # fmt: skip


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


# --- one file ----------------------------------------------------------------------------------------------------


async def detail(layout: Layout, reader: Reader, id: int) -> shapes.FileDetail:
    """All that is known of a file.

    Raises:
        NotThere: there is no file of that number.
    """

    def look(ledger: Ledger) -> tuple[FileRow, HoldoutRow | None, list[EntryRow], int, FileRow | None]:
        found = ledger.files.several([id])
        if not found:
            raise NotThere(f"There is no file {id}.")
        other = ledger.files.several([found[0].duplicate_of]) if found[0].duplicate_of else []
        entries = ledger.entries.of_file(id)
        return found[0], ledger.holdouts.of([id]).get(id), entries, steps_done(ledger), other[0] if other else None

    row, held, entries, done, other = await reader.read(look)
    learnt = await _learnt(reader, entries[:RANGES], done)
    bad_rows, place = await asyncio.to_thread(lambda: (read_bad_rows(layout, row), place_of(layout, row)))
    return shapes.FileDetail(
        file=file_of(row, held), sha256=row.sha256, shape=row.shape, sequences=row.sequences,
        archive=row.archive if row.archive and place is None else None, rejected=place,
        settings={key: value for key, value in row.options.items() if key not in (REST, TAKEN_OUT)}, learnt=learnt,
        bad_rows=bad_rows, bad_rows_left_out=max(0, (row.rows_bad or 0) - len(bad_rows)),
        what_to_do=what_to_do(row, place, other),
    )  # fmt: skip


async def _learnt(reader: Reader, entries: Sequence[EntryRow], done: int) -> list[shapes.Learnt]:
    found, before, position = [], 0, 0
    for entry in entries:
        for first in range(position, entry.position, PORTION):
            stop = min(first + PORTION, entry.position)
            before += await reader.read(lambda ledger, a=first, b=stop: ledger.entries.steps_between(a, b))
        position = entry.position
        first, steps = before + 1, entry.stop - entry.start
        if not steps:
            continue
        last, until = before + steps, min(before + steps, done)
        tokens, seconds = 0, 0.0
        for begin in range(first, until + 1, PORTION):
            end = min(begin + PORTION - 1, until)
            part = await reader.read(lambda ledger, a=begin, b=end: ledger.steps.time(a, b))
            tokens, seconds = tokens + part[0], seconds + part[1]
        begin, end = min(first + ENDS - 1, until), max(first, until - ENDS + 1)
        head, tail = await reader.read(
            lambda ledger, a=first, b=begin, c=end, d=until: (ledger.steps.range(a, b), ledger.steps.range(c, d))
        )
        found.append(shapes.Learnt(
            first=first, last=last, steps=steps, steps_done=max(0, until - before), tokens=tokens,
            seconds=_finite(seconds) if tail else None, loss_first=_mean(head), loss_last=_mean(tail),
            began_at=entry.began_at, alone=len(entry.parts) == 1,
        ))  # fmt: skip
    return found


def _mean(rows: Sequence[StepRow]) -> float | None:
    losses = [row.loss for row in rows if math.isfinite(row.loss)]
    return math.fsum(losses) / len(losses) if losses else None


def what_to_do(row: FileRow, place: str | None, other: FileRow | None) -> str | None:
    """What its owner can do about a file that was not learned; None for the others.

    Args:
        row: the file.
        place: where it lies in `rejected/`.
        other: the file that has the same bytes.
    """
    archive = row.archive or "its file"
    if row.state == "rejected":
        where = "Put it right" if place is None else f"Put {place} right"
        return f"{where} and drop it into inbox/ again. Nothing was learned from it."
    if row.state == "duplicate":
        same = f"the same bytes as {other.name} (file {other.id})" if other else "the same bytes as another file"
        return (
            f"It has {same}, so it was not trained a second time. Should it be, all the same: "
            f"nightschool add --again {archive}"
        )
    if row.state == "set_aside":
        again = f"nightschool queue put-back {row.id}"
        if row.options.get(REST):
            return f"What it has learned stays. To train the rest of it, put it back into the queue: {again}"
        return f"Put it back into the queue when what is wrong with it has been put right: {again}"
    if row.state == "forgotten":
        if row.archive is None:
            return "Its bytes were removed for good. To learn it after all, drop it into inbox/ again."
        return f"Its bytes are kept. To learn it after all: nightschool add --again {row.archive}"
    return None


def place_of(layout: Layout, row: FileRow) -> str | None:
    """Where a rejected file lies, relative to the workspace; None where it is not in `rejected/`."""
    if row.state != "rejected":
        return None
    head = f"{layout.rejected.name}/"
    if row.archive and row.archive.startswith(head):
        return row.archive
    mark = f"(file {row.id}, arrived {row.arrived_at}"
    for name in _names(row):
        path = _inside(layout, name + rejected.WHY)
        if path is not None and mark in _beginning(path):
            return head + name + rejected.WHY
    return None


def read_bad_rows(layout: Layout, row: FileRow) -> list[shapes.BadRow]:
    """The first bad rows of a file, from beside where it was rejected."""
    if not row.rows_bad:
        return []
    # Under its own number first: the plain name may be that of another file which was called the same.
    names = [*reversed(_names(row))]
    place = place_of(layout, row)
    if place is not None:
        names.insert(0, place.partition("/")[2].removesuffix(rejected.WHY))
    for name in names:
        path = _inside(layout, name + rejected.BAD_ROWS)
        if path is not None:
            try:
                return list(islice(_rows(path), BAD_ROWS))
            except OSError:
                return []
    return []


def _names(row: FileRow) -> list[str]:
    """What is tried first when something of a file is put into `rejected/`; none leads out of it."""
    return list(islice(rejected.names(row.name, row.id), 3))


def _inside(layout: Layout, name: str) -> Path | None:
    """A plain file in `rejected/`; None where it is not there, or somebody has led the way out of it."""
    path = layout.rejected / name
    try:
        inside = path.resolve().is_relative_to(layout.rejected.resolve())
        return path if inside and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_TEXT).decode("utf-8", "replace")
    except OSError:
        return ""


def _rows(path: Path) -> Iterator[shapes.BadRow]:
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            try:
                told = json.loads(line)
                yield shapes.BadRow(
                    line=int(told["line"]), reason=_cut(str(told["reason"])), row=_cut(str(told["row"]))
                )
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # how many were left out, or something that is not ours


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_PREVIEW else text[: LONGEST_PREVIEW - 1] + "…"


# --- endpoints ---------------------------------------------------------------------------------------------------


async def files(call: Call) -> shapes.Files:
    """GET /api/files."""
    return await listing(call.services.reader, call.query)


async def file(call: Call) -> shapes.FileDetail:
    """GET /api/files/{id}."""
    word = call.path["id"]
    # Nothing but a number is looked up, and none that SQLite could not hold.
    if not (word.isascii() and word.isdecimal() and len(word) <= 18):
        raise NotThere("There is no such file.")
    return await detail(call.services.layout, call.services.reader, int(word))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/api/files", "Files, newest first", files, shapes.Files, query=shapes.FilesQuery, tag="files"
    ),
    Endpoint("GET", "/api/files/{id}", "All that is known of a file", file, shapes.FileDetail, tag="files"),
)  # fmt: skip
