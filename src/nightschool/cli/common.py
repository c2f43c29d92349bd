"""What several commands share: finding the workspace, printing JSON, tables and times."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightschool.words import escape
from nightschool.workspace import Layout, find_workspace

if TYPE_CHECKING:
    from nightschool.api import Workspace

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def layout_of(ctx: typer.Context) -> Layout:
    """The workspace that `-C` names, or the one around the current folder; a WorkspaceError if there is none."""
    directory: Path | None = ctx.obj
    return find_workspace(directory)


def workspace_of(ctx: typer.Context) -> Workspace:
    """Like `layout_of`, whole and opened."""
    from nightschool.api import Workspace

    return Workspace.open(layout_of(ctx).root)


def print_json(value: Any) -> None:
    """Print one JSON value. NaN and infinities, which JSON has not, become null."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=2))


def print_json_list(values: Iterable[Any]) -> None:
    """Print a JSON array as its items come: a listing of any length in bounded memory."""
    opening = "["
    for value in values:
        print(f"{opening}\n  {json.dumps(plain(value), ensure_ascii=False)}", end="")
        opening = ","
    print("[]" if opening == "[" else "\n]")


def plain(value: Any) -> Any:
    """`value` with what JSON cannot hold replaced."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_row(cells: Sequence[object], widths: Sequence[int]) -> None:
    """Print one line of a listing. A negative width is for numbers, aligned right; the last cell is never padded."""
    texts = []
    for cell, width in zip(cells, widths, strict=True):
        text = escape("" if cell is None else cell)
        texts.append(text.rjust(-width) if width < 0 else text.ljust(width))
    print("  ".join(texts).rstrip())


def local_time(stamp: str | None) -> str:
    """A UTC time from the ledger in local time, to the second."""
    if not stamp:
        return ""
    from datetime import datetime

    return f"{datetime.fromisoformat(stamp).astimezone():%Y-%m-%d %H:%M:%S}"


def confirm(question: str, yes: bool) -> None:
    """Ask once, on a terminal; a program says --yes. Ends the command where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("Nobody can be asked here: say --yes, or look first with --dry-run.")
    if not typer.confirm(question):
        print("Nothing was changed.")
        raise typer.Exit


def count(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
