"""`nightschool init`: make a workspace."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from nightschool.words import escape


class Method(str, Enum):  # noqa: UP042 - typer shows a StrEnum's members, not their values, in older releases
    """How to train."""

    lora = "lora"
    full = "full"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; empty or not there yet.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="Base model: a folder, or a Hub name in the local cache. With --from: if it is another than the one "
            "named there.",
        ),
    ] = None,
    method: Annotated[
        Method | None, typer.Option(help="Train a LoRA adapter (the default), or every parameter.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Go on from the output folder of a Hugging Face Trainer, or learn the files of another workspace "
            "again.",
        ),
    ] = None,
) -> None:
    """Make a workspace for one model.

    Writes nightschool.toml, in which every setting is explained, and the folders. The base model must be on this
    machine already: nothing is downloaded, neither now nor while training.

    With --from, the run begins with the newest whole checkpoint in FOLDER: its weights, optimizer moments, step number
    and loss curve; a copy of that state stays as the snapshot `origin`. Of another workspace, all its files are queued
    again, in the order in which it learned them, for another base model or adapter. FOLDER is not changed.
    """
    settings: dict[str, Any] = {"training": {"method": method.value}} if method is not None else {}
    if source is not None:
        from nightschool.adoption import adopt

        layout = adopt(folder, source, model, settings, lambda text: print(escape(text), flush=True)).layout
    elif model is None:
        raise typer.BadParameter("name a base model with --model, or what to go on from with --from.")
    else:
        from nightschool.creation import create

        layout = create(folder, model, settings if method is not Method.lora else {})
    print(f"Made the workspace {escape(layout.root)}.")
    print(f"Settings are in {escape(layout.settings_file)}; look through them before the first file.")
    print(f"Drop data files into {escape(layout.inbox)} and start: nightschool -C {escape(folder)} run")
