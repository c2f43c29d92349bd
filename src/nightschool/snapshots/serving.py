"""Which weights `current_model/` itself holds, for those who load it as it stands."""

from __future__ import annotations

from pathlib import Path

from nightschool import durable
from nightschool.workspace import Layout

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
LATEST = "latest"
"""Name of the link to a fully trained model: a copy of it would be as large as the model."""


def point_at(layout: Layout, folder: Path) -> None:
    """Make `current_model/` hold the weights of the checkpoint in `folder`: a copy of an adapter, a link to a model."""
    root = layout.current_model
    if not (folder / ADAPTER[0]).exists():
        durable.replace_link(root / LATEST, _relative(folder, root))
        return
    for name in ADAPTER:
        scratch = root / f".tmp-{name}"
        durable.remove_file(scratch)
        durable.copy_file(folder / name, scratch)
        durable.replace_file(scratch, root / name)


def point_at_nothing(layout: Layout) -> None:
    """Let `current_model/` hold no weights: the run stands at its base model again."""
    for name in (*reversed(ADAPTER), LATEST):
        durable.remove_file(layout.current_model / name)


def _relative(folder: Path, root: Path) -> str:
    return folder.name if folder.parent == root else f"../{folder.relative_to(root.parent)}"
