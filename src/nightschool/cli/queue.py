"""`nightschool queue`: what waits to be learned, and how long it takes."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool.cli.common import Json, count, layout_of, print_json, print_row
from nightschool.forecast import Queue, Queued, read_queue
from nightschool.words import duration

WIDTHS = (-5, 9, 8, -9, -9, -12, 0)
EVERYTHING = 1_000_000_000


def queue(
    ctx: typer.Context,
    lines: Annotated[
        int, typer.Option("-n", min=0, metavar="N", help="Waiting files to list; 0: all. The sums are over all.")
    ] = 50,
    json: Json = False,
) -> None:
    """List what waits, in the order in which it will be learned, with steps and time.

    `again` are files that a rollback or a forgetting has undone: they are trained once more, before what waits. A ~
    marks what is estimated from the size of files that are not prepared yet. Times come from the measured speed.
    """
    layout = layout_of(ctx)
    layout.require()
    found = read_queue(layout, lines or EVERYTHING)
    if json:
        print_json({**found.to_dict(), "done_at": _done_at(found.seconds)})
        return
    if not found.files and not found.waiting:
        print("Nothing waits.")
        return
    print_row(("ID", "STATE", "PRIORITY", "ROWS", "STEPS", "TIME", "NAME"), WIDTHS)
    for file in found.files:
        print_row(_cells(file), WIDTHS)
    shown = sum(file.state not in ("training", "again") for file in found.files)
    if found.waiting > shown:
        print(f"and {found.waiting - shown:,} more")
    print(_total(found))


def _cells(file: Queued) -> tuple[object, ...]:
    rows = None if file.rows is None else f"{file.rows:,}"
    return (file.id, file.state, file.priority, rows, *_work(file.steps, file.seconds, file.estimated), file.name)


def _work(steps: int | None, seconds: float | None, estimated: bool) -> tuple[str, str]:
    mark = "~" if estimated else ""
    return "?" if steps is None else f"{mark}{steps:,}", "?" if seconds is None else f"{mark}{duration(seconds)}"


def _total(found: Queue) -> str:
    verb = "waits" if found.waiting == 1 else "wait"
    parts = [f"{count(found.waiting, 'file')} {verb}"]
    about = "about " if found.estimated else ""
    if found.steps is not None:
        parts.append(f"{about}{count(found.steps, 'step')} to go")
    if found.seconds is not None:
        parts.append(f"about {duration(found.seconds)} of training: done at {_done_at(found.seconds)} if it runs on")
    elif found.steps:
        parts.append("how long that takes is known after the first steps")
    return ", ".join(parts) + "."


def _done_at(seconds: float | None) -> str | None:
    """The local time at which so much will have been trained, to the minute, if training goes on from now."""
    if seconds is None:
        return None
    from datetime import datetime, timedelta

    try:
        return f"{datetime.now().astimezone() + timedelta(seconds=seconds):%Y-%m-%d %H:%M}"
    except OverflowError:
        return None
