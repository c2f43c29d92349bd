"""`nightschool skip`: go on with the next file."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool.cli.common import workspace_of
from nightschool.words import escape


def skip(
    ctx: typer.Context,
    shelve: Annotated[
        bool, typer.Option("--shelve", help="Do not learn the rest of it later: set it aside. What is learned stays.")
    ] = False,
) -> None:
    """Go on with the next file: the one in training goes to the back of the queue, with the steps that are left of it.

    Obeyed at the next step, or, while nothing runs, at the next start. A file set aside with --shelve comes back with
    `nightschool queue put-back`.
    """
    workspace = workspace_of(ctx)
    print(escape(workspace.skip(shelve=shelve)))
    if workspace.status().pid is None:
        print("The machine does not run; it is done when it is started.")
