"""Making a workspace. `nightschool.toml` is written last: a folder without it is no workspace yet."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool import basemodel, durable, fetching
from nightschool.errors import ModelError, SettingsError, WorkspaceError
from nightschool.fetching import Progress, Remote
from nightschool.ledger import Ledger
from nightschool.settings import parse_settings, render_default_toml
from nightschool.workspace import SETTINGS_NAME, Layout


def create(folder: Path, model: str, settings: Mapping[str, Mapping[str, Any]], say: Fetching | None = None) -> Layout:
    """Make a workspace in `folder`; see `Workspace.create`. Nothing is made unless all is well.

    Args:
        folder, model, settings: where, of what, and how.
        say: is told of a model that is fetched; None: nothing is fetched.
    """
    root = folder.expanduser().absolute()
    layout = Layout(root)
    must_be_free(layout)
    model_settings = dict(settings.get("model", {}))
    values = {section: set_values(content) for section, content in settings.items()}
    values["model"] = set_values({"name": model, **model_settings})
    # Before gigabytes are fetched.
    parse_settings(values, "settings")
    base, commit = find_model(model, model_settings.get("revision"), say)
    # A folder is named in full: the settings are read from another place than this command was typed in.
    name = str(base) if Path(model).expanduser().is_dir() else model
    values["model"] = set_values({"name": name, **model_settings, **({"revision": commit} if commit else {})})
    text = rendered(values, root)

    durable.make_dirs(root)
    layout.create()
    if not layout.ledger.exists():
        Ledger.create(layout.ledger).close()
    durable.write_file(layout.settings_file, text)
    return layout


@dataclass(frozen=True)
class Fetching:
    """Who is told of a model that is fetched: `begins` of what comes, then `progress`, as often as there is news."""

    begins: Callable[[Remote], Any] = lambda _: None
    progress: Progress | None = None


def find_model(name: str, revision: str | None, say: Fetching | None) -> tuple[Path, str | None]:
    """The folder of a base model, fetched where it has to be, and the commit of a model of the Hub.

    Raises:
        ModelError: it is not there and cannot be fetched, or lacks something.
        StorageError: the disk has no room for it.
    """
    try:
        folder = check_model(name, revision)
    except ModelError:
        # Where the environment forbids the network, what the cache lacks is all there is to say.
        if say is None or not fetching.is_hub_name(name) or fetching.offline():
            raise
        remote = fetching.look(name, revision)
        say.begins(remote)
        fetching.fetch(remote, say.progress)
        folder = check_model(name, remote.commit)
    return folder, fetching.pinned(folder)


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
    missing = basemodel.missing_parts(folder)
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of its weight files, such as {missing[0]}: it was not fetched or copied to "
            "its end. Do that again."
        )
    files = [path.name for path in basemodel.model_files(folder)]
    if not any(name.endswith((".safetensors", ".bin")) for name in files):
        raise ModelError(f"{folder} holds no weights (*.safetensors). Save the base model there, or name another one.")
    if not basemodel.has_tokenizer(folder):
        raise ModelError(
            f"{folder} holds no tokenizer (tokenizer.json or tokenizer.model). Save the tokenizer beside the model, "
            "with `tokenizer.save_pretrained(...)`."
        )
    return folder
