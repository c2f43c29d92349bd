"""`nightschool init`: make a workspace."""

from __future__ import annotations

import sys
import tomllib
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.creation import Fetching
    from nightschool.fetching import Remote


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
            help="Base model: a folder, or a name on the Hub. With --from: if it is another than the one named there.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a model of the Hub; the commit is what is written down."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing: the model must be here. So does HF_HUB_OFFLINE=1.")
    ] = False,
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
    given: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE",
            help="TOML with settings to begin with, by section as in nightschool.toml.",
        ),
    ] = None,
) -> None:
    """Make a workspace for one model.

    Writes nightschool.toml, in which every setting is explained, and the folders.

    A base model that is named by its place on the Hub is fetched, if it is not in the local cache: weights,
    configuration, tokenizer and template, and no second format of the same. The commit it is of is written down as
    model.revision. Nothing is ever fetched later. Of a fetch that was cut off, files that came whole are kept; until
    it is done there is no workspace.

    With --from, the run begins with the newest whole checkpoint in FOLDER: its weights, optimizer moments, step number
    and loss curve; a copy of that state stays as the snapshot `origin`. Of another workspace, all its files are queued
    again, in the order in which it learned them, for another base model or adapter. FOLDER is not changed.
    """
    settings = _read(given) if given is not None else {}
    model = model or settings.get("model", {}).pop("name", None)
    if revision is not None:
        settings["model"] = {**settings.get("model", {}), "revision": revision}
    if method is not None and (source is not None or method is not Method.lora or "training" in settings):
        settings["training"] = {**settings.get("training", {}), "method": method.value}
    if source is not None:
        from nightschool.adoption import adopt

        if model is not None and not offline:
            from nightschool.creation import find_model, must_be_free
            from nightschool.workspace import Layout

            must_be_free(Layout(folder.expanduser().absolute()))
            _, commit = find_model(model, settings.get("model", {}).get("revision"), _fetching())
            if commit is not None:
                settings["model"] = {**settings.get("model", {}), "revision": commit}
        layout = adopt(folder, source, model, settings, lambda text: print(escape(text), flush=True)).layout
    elif model is None:
        raise typer.BadParameter("name a base model with --model, or what to go on from with --from.")
    else:
        from nightschool.creation import create

        layout = create(folder, model, settings, None if offline else _fetching())
    print(f"Made the workspace {escape(layout.root)}.")
    print(f"Settings are in {escape(layout.settings_file)}; look through them before the first file.")
    print(f"Drop data files into {escape(layout.inbox)} and start: nightschool -C {escape(folder)} run")


def _fetching() -> Fetching:
    """Tells of a fetch: on a terminal in a line that changes, elsewhere at each tenth."""
    from nightschool.creation import Fetching
    from nightschool.words import in_bytes

    told = -1

    def begins(remote: Remote) -> None:
        size = in_bytes(sum(remote.files.values()))
        print(f"Fetching {escape(remote.name)} at {remote.commit[:12]}: {len(remote.files)} files, {size}.", flush=True)

    def progress(there: int, total: int) -> None:
        nonlocal told
        tenth = 10 * there // max(1, total)
        text = f"{in_bytes(there)} of {in_bytes(total)}"
        if sys.stdout.isatty():
            print(f"\r\x1b[K  {text}", end="\n" if there == total else "", flush=True)
        elif tenth > told:
            told = tenth
            print(f"  {text}", flush=True)

    return Fetching(begins, progress)


def _read(path: Path) -> dict[str, Any]:
    """The sections in a settings file; what they say is checked with all the rest."""
    from nightschool.errors import SettingsError

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{escape(path)} cannot be read: {error}.") from None
    loose = [key for key, value in found.items() if not isinstance(value, dict)]
    if loose:
        raise SettingsError(f"{escape(path)}: `{loose[0]}` stands in no section. Write it below its [section].")
    return found
