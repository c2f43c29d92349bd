"""`nightschool init DIR --from FOLDER`: what FOLDER is decides how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool.errors import WorkspaceError
from nightschool.workspace import SETTINGS_NAME, Layout


@dataclass(frozen=True)
class Adopted:
    """A workspace that was made, and what there is to say of what was carried and what was not."""

    layout: Layout
    notes: tuple[str, ...]


def adopt(
    root: Path,
    source: Path,
    model: str | None,
    settings: Mapping[str, Mapping[str, Any]],
    say: Callable[[str], Any] | None = None,
) -> Adopted:
    """Make a workspace in `root` from `source`; see `Workspace.adopt`. Whole, or not at all."""
    root = root.expanduser().absolute()
    source = source.expanduser().absolute()
    tell = say or _nothing
    if root.resolve().is_relative_to(source.resolve()):
        raise WorkspaceError(f"{root} lies inside {source}, which is only read. Name a folder outside of it.")
    if (source / SETTINGS_NAME).is_file():
        from nightschool.adoption.from_workspace import queue_again

        made = queue_again(root, Layout(source), model, settings, tell)
    else:
        from nightschool.adoption.from_trainer import take_over

        made = take_over(root, source, model, settings, tell)
    for note in made.notes:
        tell(f"- {note}")
    return made


def _nothing(text: str) -> None:
    del text
