"""`nightschool files`: every data file and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightschool.cli.common import Json, print_json_list, print_row, workspace_of
from nightschool.words import in_bytes

if TYPE_CHECKING:
    from nightschool.api import Workspace
    from nightschool.ledger import FileRow, HoldoutRow

WIDTHS = (-5, 9, -9, -7, -12, -14, 30, 0)
PAGE = 500


def files(
    ctx: typer.Context,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only files in this state, for instance learned.")
    ] = None,
    json: Json = False,
) -> None:
    """List every data file and how far it has come.

    States: arrived, archived, ready, training, skipped (its rest waits), trained, learned (a checkpoint holds it),
    duplicate, rejected, set_aside, forgotten. HELD OUT is the loss on rows of the file that are never trained on,
    before its first step and after its last.
    """
    from nightschool.ledger.files import STATES

    if state is not None and state not in STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(STATES)}.", param_hint="--state")
    workspace = workspace_of(ctx)
    rows = _measured(workspace, (row for row in workspace.files() if state is None or row.state == state))
    if json:
        print_json_list({**asdict(row), **_losses(held)} for row, held in rows)
        return
    first = True
    for row, held in rows:
        if first:
            print_row(("ID", "STATE", "ROWS", "BAD", "TOKENS", "HELD OUT", "NAME", "REASON"), WIDTHS)
            first = False
        good, tokens = (None if n is None else f"{n:,}" for n in (row.rows_good, row.tokens))
        cells = (row.id, row.state, good, row.rows_bad or None, tokens, _shown(held), row.name, row.reason)
        print_row(cells, WIDTHS)
    if first:
        print("No files yet." if state is None else f"No files are {state}.")
        return
    size = workspace.status().prepared_bytes
    if size:
        print(f"Prepared data: {in_bytes(size)}.")


def _measured(workspace: Workspace, rows: Iterator[FileRow]) -> Iterator[tuple[FileRow, HoldoutRow | None]]:
    """Each file with what was measured on its held-out rows, looked up a page at a time."""
    while page := list(islice(rows, PAGE)):
        found = workspace.holdouts(page[0].id, page[-1].id)
        yield from ((row, found.get(row.id)) for row in page)


def _losses(held: HoldoutRow | None) -> dict[str, Any]:
    return {
        "holdout_rows": held and held.rows,
        "holdout_loss_before": held and held.loss_before,
        "holdout_loss_after": held and held.loss_after,
    }


def _shown(held: HoldoutRow | None) -> str | None:
    if held is None:
        return None
    before, after = ("?" if loss is None else f"{loss:.3f}" for loss in (held.loss_before, held.loss_after))
    return f"{before} → {after}"
