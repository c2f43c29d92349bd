"""`nightschool add`: hand over data files."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightschool.cli.common import Json, print_json, workspace_of
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.api import Added

SHOWN = 20
"""Files that are told one by one."""


class Priority(str, Enum):  # noqa: UP042 - as in init.py
    """Place in the queue."""

    high = "high"
    normal = "normal"
    low = "low"


def add(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Data files, folders, patterns in quotes ('data/**/*.jsonl'), or - for rows on standard input. "
            "They stay where they are.",
        ),
    ],
    priority: Annotated[Priority, typer.Option(help="Files of a higher priority go first.")] = Priority.normal,
    now: Annotated[
        bool,
        typer.Option("--now", help="Learn it at once: what is in training is interrupted, and goes on afterwards."),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Passes over these files; default: training.epochs.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train the same bytes once more.")] = False,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=THEIRS", help="The column OURS is called THEIRS there. May be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the file, if it is only one.")
    ] = None,
    json: Json = False,
) -> None:
    """Add data files to the queue, and say what they look like.

    Copies the bytes into the workspace before it returns, whether the machine runs or not. All files are added, or
    after an error none. Settings beside a file, in FILE.toml, are taken with it (`epochs`, `[columns]`).
    """
    options: dict[str, Any] = {
        "priority": "now" if now else priority.value, "epochs": epochs, "again": again,
        "columns": columns_of(columns or []),
    }  # fmt: skip
    if "-" in files and len(files) > 1:
        raise typer.BadParameter("- stands alone: standard input becomes one file.", param_hint="FILE")
    workspace = workspace_of(ctx)
    if files == ["-"]:
        if sys.stdin.isatty():
            print("Reading rows from the terminal; Ctrl-D ends them.", file=sys.stderr)
        added = [workspace.add_stream(sys.stdin.buffer, name=name, **options)]
    else:
        added = workspace.add_files(files, name=name, left_out=_left_out, **options)
    if json:
        print_json([_plain(one) for one in added])
        return
    for one in added if len(added) <= SHOWN + 1 else added[:SHOWN]:
        print(_line(one))
    if len(added) > SHOWN + 1:
        print(f"Added {len(added) - SHOWN:,} more files.")


def columns_of(given: list[str]) -> dict[str, str] | None:
    """What `--map` says, ours to theirs; None where it is not given."""
    columns: dict[str, str] = {}
    for one in given:
        ours, equals, theirs = one.partition("=")
        if not (ours and equals and theirs):
            raise typer.BadParameter(f"{one!r} is not OURS=THEIRS, for instance prompt=ask.", param_hint="--map")
        if columns.setdefault(ours, theirs) != theirs:
            raise typer.BadParameter(f"{ours!r} is given twice.", param_hint="--map")
    return columns or None


def _left_out(path: object, why: str) -> None:
    print(f"Left out {escape(path)}: {why}.", file=sys.stderr)


def _line(one: Added) -> str:
    line = f"Added {escape(one.name)} as file {one.id}"
    found = one.glance
    if found is None:
        return line + "."
    text = str(found)
    line += f": {text}." if text else "."
    if found.problem:
        what = "It will be rejected" if found.container is None else "Look at it"
        line += f" {what}: {escape(found.problem)}."
    return line


def _plain(one: Added) -> dict[str, Any]:
    found = one.glance
    return {
        "id": one.id,
        "name": one.name,
        "container": found and found.container,
        "shape": found and found.shape,
        "rows": found and found.rows,
        "rows_exact": found and found.exact,
        "problem": (found and found.problem) or None,
    }
