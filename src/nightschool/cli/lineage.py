"""`nightschool lineage`: what the model has learned, and the hash that proves it."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool import curriculum
from nightschool.cli.common import Json, layout_of, print_json, print_row
from nightschool.errors import NightschoolError
from nightschool.forecast import steps_done
from nightschool.ledger import Ledger
from nightschool.record import entries_of, root_digest

WIDTHS = (-9, -9, 34, 16, 16)


def lineage(
    ctx: typer.Context,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Up to this step; default: the newest.")] = None,
    json: Json = False,
) -> None:
    """Show the history of the run as a chain of hashes.

    Two runs with the same lineage at a step trained the same base on the same data in the same order with the same
    settings: with equal numerics their weights are equal to the last bit.
    """
    layout = layout_of(ctx)
    layout.require()
    with Ledger.open(layout.ledger) as ledger:
        root = ledger.machine.get("root")
        entries = entries_of(ledger)
        newest = steps_done(ledger)
        names = {entry.parts: ledger.called(entry.file_ids) for entry in entries}
    done = step if step is not None else newest
    if done > curriculum.total_steps(entries):
        raise NightschoolError(
            f"There is no step {done}: the run has {curriculum.total_steps(entries)} steps. Name an earlier one."
        )
    if root is None:
        if json:
            print_json({"step": 0, "lineage": None, "root": None, "files": []})
        else:
            print("Nothing has been trained yet, so there is no lineage.")
        return
    digest = root_digest(root)
    chain = []
    reached = 0
    for entry in curriculum.cut(entries, done):
        chain.append({
            "first_step": reached + 1,
            "last_step": reached + entry.steps,
            "file": names[entry.parts],
            "files": list(entry.file_ids),
            "data": entry.data_digest,
            "lineage": curriculum.lineage(digest, entries, reached + entry.steps),
        })  # fmt: skip
        reached += entry.steps
    here = curriculum.lineage(digest, entries, done)
    if json:
        print_json({"step": done, "lineage": here, "root": root, "root_digest": digest, "files": chain})
        return
    print(f"root {digest[:16]}: {root['method']}, {root['optimizer']}, {root['dtype']}, seed {root['seed']}")
    print_row(("FROM", "TO", "FILE", "DATA", "LINEAGE"), WIDTHS)
    for link in chain:
        cells = (f"{link['first_step']:,}", f"{link['last_step']:,}", link["file"], link["data"][:16])
        print_row((*cells, link["lineage"][:16]), WIDTHS)
    print(f"lineage at step {done:,}: {here}")
