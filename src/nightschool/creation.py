"""Making a workspace. `nightschool.toml` is written last: a folder without it is no workspace yet."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightschool import basemodel, durable
from nightschool.errors import ModelError, SettingsError, WorkspaceError
from nightschool.ledger import Ledger
from nightschool.settings import parse_settings, render_default_toml
from nightschool.workspace import SETTINGS_NAME, Layout


def create(folder: Path, model: str, settings: Mapping[str, Mapping[str, Any]]) -> Layout:
    """Make a workspace in `folder`; see `Workspace.create`. Nothing is made unless all is well."""
    root = folder.expanduser().absolute()
    layout = Layout(root)
    must_be_free(layout)
    model_settings = dict(settings.get("model", {}))
    base = check_model(model, model_settings.get("revision"))
    # A folder is named in full: the settings are read from another place than this command was typed in.
    name = str(base) if Path(model).expanduser().is_dir() else model
    values = {section: set_values(content) for section, content in settings.items()}
    values["model"] = set_values({"name": name, **model_settings})
    parse_settings(values, "settings")
    text = rendered(values, root)

    durable.make_dirs(root)
    layout.create()
    if not layout.ledger.exists():
        Ledger.create(layout.ledger).close()
    durable.write_file(layout.settings_file, text)
    return layout


def set_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is set: TOML has no word for None, and leaving a key out means the same."""
    return {
        key: set_values(value) if isinstance(value, Mapping) else value
        for key, value in content.items()
        if value is not None
    }


def rendered(values: dict[str, dict[str, Any]], root: Path) -> str:
    """The text of `nightschool.toml`, once it is known to be read back as it was meant."""
    text = render_default_toml(values)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"The settings cannot be written as TOML ({error}). Use numbers, texts, true and false, lists and tables."
        ) from None
    parse_settings(raw, "settings", base=root)
    return text


def must_be_free(layout: Layout) -> None:
    """Raise WorkspaceError unless a workspace may be made there."""
    root = layout.root
    if layout.settings_file.exists():
        raise WorkspaceError(f"{root} is a workspace already. Use it, or name another folder.")
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"{root} is a file. Name a folder that is empty or not there yet.")
    for above in root.parents:
        if (above / SETTINGS_NAME).is_file():
            raise WorkspaceError(f"{root} lies inside the workspace {above}. Name a folder outside of it.")
    # An `init` that was cut off leaves empty folders and an empty ledger, and may be done again.
    mine = {layout.ledger, layout.ledger.with_name(f"{layout.ledger.name}-journal")}
    if root.is_dir():
        for path in root.rglob("*"):
            known = path in mine or path.relative_to(root).parts[0].startswith(".tmp-")
            if not path.is_dir() and not known:
                found = path.relative_to(root)
                if any(root.glob(".tmp-init-*")):
                    raise WorkspaceError(
                        f"{root} holds the parts of a workspace whose `nightschool init` was cut off. Nothing was "
                        "trained there: remove the folder and begin again."
                    )
                raise WorkspaceError(
                    f"{root} is not empty: it holds {found}. Name a folder that is empty or not there yet."
                )
    if layout.ledger.exists() and layout.ledger.stat().st_size:
        with Ledger.open(layout.ledger) as ledger:
            if any(ledger.files.counts().values()):
                raise WorkspaceError(
                    f"{root} holds the remains of a workspace: {layout.ledger.relative_to(root)} lists files, but "
                    f"{SETTINGS_NAME} is missing. Put {SETTINGS_NAME} back, or name another folder."
                )


def check_model(name: str, revision: str | None = None) -> Path:
    """The folder of a base model that has all it takes.

    Raises:
        ModelError: it is not there, or lacks its configuration, weights or tokenizer.
    """
    folder = basemodel.resolve(name, revision)
    files = [path.name for path in basemodel.model_files(folder)]
    if not any(name.endswith((".safetensors", ".bin")) for name in files):
        raise ModelError(f"{folder} holds no weights (*.safetensors). Save the base model there, or name another one.")
    if not basemodel.has_tokenizer(folder):
        raise ModelError(
            f"{folder} holds no tokenizer (tokenizer.json or tokenizer.model). Save the tokenizer beside the model, "
            "with `tokenizer.save_pretrained(...)`."
        )
    return folder
