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
        str,
        typer.Option(metavar="NAME_OR_PATH", help="Base model: a folder, or a Hub name in the local cache."),
    ],
    method: Annotated[Method, typer.Option(help="Train a LoRA adapter, or every parameter.")] = Method.lora,
) -> None:
    """Make a workspace for one model.

    Writes nightschool.toml, in which every setting is explained, and the folders. The base model must be on this
    machine already: nothing is downloaded, neither now nor while training.
    """
    from nightschool.creation import create

    settings: dict[str, Any] = {"training": {"method": method.value}} if method is not Method.lora else {}
    layout = create(folder, model, settings)
    print(f"Made the workspace {escape(layout.root)}.")
    print(f"Settings are in {escape(layout.settings_file)}; look through them before the first file.")
    print(f"Drop data files into {escape(layout.inbox)} and start: nightschool -C {escape(folder)} run")
