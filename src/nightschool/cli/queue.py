"""`nightschool queue`: what waits to be learned, how long it takes, and changing its order."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from nightschool.cli.common import Json, count, layout_of, print_json, print_row, workspace_of
from nightschool.forecast import Queue, Queued, read_queue
from nightschool.words import duration, escape

if TYPE_CHECKING:
    from nightschool.api import Workspace

WIDTHS = (-5, 11, 8, -9, -9, -12, 0)
EVERYTHING = 1_000_000_000
LEVELS = ("high", "normal", "low")


class Verb(str, Enum):  # noqa: UP042 - as in init.py
    """What to do with the queue."""

    list = "list"
    move = "move"
    priority = "priority"
    now = "now"
    remove = "remove"
    put_back = "put-back"


def queue(
    ctx: typer.Context,
    verb: Annotated[Verb, typer.Argument(help="What to do; see below.")] = Verb.list,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="FILE...", help="Names or numbers, as in `nightschool files`.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="With move: to the head of the queue.")] = False,
    last: Annotated[bool, typer.Option("--last", help="With move: behind all that wait with its priority.")] = False,
    before: Annotated[str | None, typer.Option(metavar="FILE", help="With move: right before this one.")] = None,
    lines: Annotated[
        int, typer.Option("-n", min=0, metavar="N", help="Waiting files to list; 0: all. The sums are over all.")
    ] = 50,
    json: Json = False,
) -> None:
    """List what waits, in the order in which it will be learned, with steps and time; or change it.

    `again` are files that a rollback or a forgetting has undone: they are trained once more, before what waits.
    `interrupted` is what goes on after a file that is learned at once; of `skipped` files the rest of their steps
    waits. A ~ marks what is estimated from the size of files that are not prepared yet. Times come from the measured
    speed.

    move FILE changes the order. priority FILE... LEVEL sets high, normal or low. now FILE... has it learned at once:
    what is in training is interrupted, and goes on afterwards. remove FILE... takes it out of the queue, its bytes
    kept; put-back FILE... puts what is set aside to the end of the queue. Only what waits can be changed.
    """
    if verb is not Verb.list:
        said = _change(workspace_of(ctx), verb, words or [], first, last, before)
        if json:
            print_json({"done": said})
        else:
            print(escape(said))
        return
    if words or first or last or before:
        raise typer.BadParameter("Say what to do with it: move, priority, now, remove or put-back.", param_hint="FILE")
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
    shown = sum(file.state not in ("training", "again", "interrupted") for file in found.files)
    if found.waiting > shown:
        print(f"and {found.waiting - shown:,} more")
    print(_total(found))


def _change(workspace: Workspace, verb: Verb, words: list[str], first: bool, last: bool, before: str | None) -> str:
    where = [word for word, given in (("first", first), ("last", last), ("before", before)) if given]
    if where and verb is not Verb.move:
        raise typer.BadParameter(f"goes with move, not with {verb.value}", param_hint=f"--{where[0]}")
    if not words:
        raise typer.BadParameter("Name a file, or several.", param_hint="FILE")
    if verb is Verb.move:
        if len(words) != 1 or len(where) != 1:
            raise typer.BadParameter("move FILE takes one file, and one of --first, --last and --before FILE.")
        return workspace.move(words[0], where[0], before)  # type: ignore[arg-type]  # one of the three
    if verb is Verb.priority:
        *files, level = words
        if level not in LEVELS or not files:
            raise typer.BadParameter(f"priority FILE... LEVEL ends with one of {', '.join(LEVELS)}.")
        return workspace.set_priority(files, level)  # type: ignore[arg-type]
    if verb is Verb.now:
        return workspace.set_priority(words, "now")
    return workspace.remove(words) if verb is Verb.remove else workspace.put_back(words)


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
