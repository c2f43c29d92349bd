"""`nightschool restore`: a workspace back from a snapshot."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nightschool.cli.common import Json, print_json
from nightschool.words import escape


def restore(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A snapshot; or a folder with snapshots in it, of which the newest is taken."
        ),
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The new workspace; empty or not there yet.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_PATH", help="Where the base model is on this machine, if not where it was."),
    ] = None,
    json: Json = False,
) -> None:
    """Bring a workspace back in a new folder, also on another machine.

    FOLDER may be snapshots/NAME of a workspace, or the folder that snapshots.copy_to names. Every byte is looked at
    first, and the base model must be the one of the run, by content. The archive beside the snapshots comes along.
    `nightschool run` goes on from there as if nothing had happened. FOLDER is not changed.
    """
    from nightschool.restoring import describe
    from nightschool.restoring import restore as bring_back

    done = bring_back(folder, directory, model, lambda text: print(escape(text), file=sys.stderr, flush=True))
    if json:
        told = asdict(done)
        del told["layout"]
        print_json({"workspace": done.layout.root, **told})
        return
    for line in describe(done):
        print(line)
    print(f"Go on: nightschool -C {escape(directory)} run")
