"""`nightschool add`: hand over data files."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nightschool.cli.common import Json, print_json, workspace_of
from nightschool.words import escape


class Priority(str, Enum):  # noqa: UP042 - as in init.py
    """Place in the queue."""

    high = "high"
    normal = "normal"
    low = "low"


def add(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", readable=False, help="Data files. They stay where they are.")
    ],
    priority: Annotated[Priority, typer.Option(help="Files of a higher priority go first.")] = Priority.normal,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Passes over these files; default: training.epochs.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train the same bytes once more.")] = False,
    json: Json = False,
) -> None:
    """Add data files to the queue.

    Copies the bytes into the workspace before it returns, whether the machine runs or not. All files are added, or
    after an error none.
    """
    workspace = workspace_of(ctx)
    ids = workspace.add_files(files, priority=priority.value, epochs=epochs, again=again)
    if json:
        print_json([{"id": id, "name": path.name} for id, path in zip(ids, files, strict=True)])
        return
    for id, path in zip(ids, files, strict=True):
        print(f"Added {escape(path.name)} as file {id}.")
