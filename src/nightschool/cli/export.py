"""`nightschool export`: give away what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightschool.cli.common import Json, count, print_json, workspace_of
from nightschool.words import escape, in_bytes


def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; empty or not there yet.")],
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="POINT",
            help="Which state: a step, checkpoint-N, a snapshot's date or name; default: the newest checkpoint.",
        ),
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="The base model with the adapter merged into it.")] = False,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Largest file of a whole model.")
    ] = "5GB",
    json: Json = False,
) -> None:  # fmt: skip
    """Put the adapter, or a whole model, into a folder of its own, with a model card.

    The folder holds safetensors, tokenizer, chat template, and a README.md that says what was learned from which files
    in which order, and the lineage that proves it. A run that trains in full gives its model. With --merged the base is
    loaded unquantised in the run's type, also where training quantises it, and the result is compared with base and
    adapter before it is kept. The state is verified to the last byte first; the machine may go on meanwhile.
    """
    made = workspace_of(ctx).export(folder, at, merged, shard_size=shard_size)
    if json:
        print_json(made)
        return
    what = {"adapter": "the adapter", "merged": "the merged model", "model": "the model"}[made["kind"]]
    print(
        f"Exported {what} at step {made['step']:,} to {escape(made['folder'])}: {count(len(made['files']), 'file')}, "
        f"{in_bytes(made['bytes'])}."
    )
    print(f"lineage {made['lineage']}")
