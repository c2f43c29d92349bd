"""`nightschool files`: every data file and how far it has come."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from nightschool.cli.common import Json, print_json_list, print_row, workspace_of
from nightschool.words import in_bytes

WIDTHS = (-5, 9, -9, -7, -12, 30, 0)


def files(
    ctx: typer.Context,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only files in this state, for instance learned.")
    ] = None,
    json: Json = False,
) -> None:
    """List every data file and how far it has come.

    States: arrived, archived, ready, training, trained, learned (a checkpoint holds it), duplicate, rejected,
    set_aside.
    """
    from nightschool.ledger.files import STATES

    if state is not None and state not in STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(STATES)}.", param_hint="--state")
    workspace = workspace_of(ctx)
    rows = (row for row in workspace.files() if state is None or row.state == state)
    if json:
        print_json_list(asdict(row) for row in rows)
        return
    first = True
    for row in rows:
        if first:
            print_row(("ID", "STATE", "ROWS", "BAD", "TOKENS", "NAME", "REASON"), WIDTHS)
            first = False
        good, tokens = (None if n is None else f"{n:,}" for n in (row.rows_good, row.tokens))
        print_row((row.id, row.state, good, row.rows_bad or None, tokens, row.name, row.reason), WIDTHS)
    if first:
        print("No files yet." if state is None else f"No files are {state}.")
        return
    size = workspace.status().prepared_bytes
    if size:
        print(f"Prepared data: {in_bytes(size)}.")
