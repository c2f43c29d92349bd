"""`nightschool checkpoints`: what was saved."""

from __future__ import annotations

from dataclasses import asdict

import typer

from nightschool.cli.common import Json, local_time, print_json, print_row, workspace_of
from nightschool.words import in_bytes

WIDTHS = (-9, 10, 19, -9, -9, 16, 0)


def checkpoints(ctx: typer.Context, json: Json = False) -> None:
    """List what was saved, and what became of it.

    States: published (there, and used by the next start), retired (removed to keep save_total_limit), damaged,
    undone (no longer part of the run).
    """
    rows = workspace_of(ctx).checkpoints()
    if json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        print("No checkpoints yet.")
        return
    print_row(("STEP", "STATE", "WRITTEN", "SIZE", "TOOK", "LINEAGE", "REASON"), WIDTHS)
    for row in rows:
        size = in_bytes(row.bytes_adapter + row.bytes_optimizer) if row.bytes_adapter else ""
        took = f"{row.seconds:.1f} s" if row.seconds else ""
        print_row(
            (f"{row.step:,}", row.state, local_time(row.written_at), size, took, row.lineage[:16], row.reason), WIDTHS
        )
