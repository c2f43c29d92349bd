"""Which weights `current_model/` itself holds, for those who load it as it stands.

Usually those of the newest checkpoint. After a file was forgotten the model in use stays until the new one has learned
as much: the machine row `serving` names the step from which on the folder follows the run again.
"""

from __future__ import annotations

from pathlib import Path

from nightschool import durable
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
LATEST = "latest"
"""Name of the link to a fully trained model: a copy of it would be as large as the model."""
KEEP = "serving"
"""The machine row with the step at which the run has caught up; there is none while the folder follows the run."""


def keep(ledger: Ledger, until: int | None) -> None:
    """Let `current_model/` keep its weights until the run has done so many steps; None: it follows the run."""
    if until is None:
        ledger.machine.delete(KEEP)
    else:
        ledger.machine.set(KEEP, until)


def update(layout: Layout, ledger: Ledger, step: int, folder: Path) -> bool:
    """Point `current_model/` at a new checkpoint, unless it keeps what it has; whether it was pointed there."""
    until = ledger.machine.get(KEEP)
    if until is not None and step < until:
        return False
    point_at(layout, folder)
    if until is not None:
        with ledger.transaction():
            ledger.machine.delete(KEEP)
            ledger.events.add("caught-up", f"The model in use is that of step {step} now.", step=step)
    return True


def point_at(layout: Layout, folder: Path) -> None:
    """Make `current_model/` hold the weights of the checkpoint in `folder`: a copy of an adapter, a link to a model."""
    root = layout.current_model
    if not (folder / ADAPTER[0]).exists():
        name = folder.name if folder.parent == root else f"../{folder.relative_to(layout.root)}"
        durable.replace_link(root / LATEST, name)
        return
    for name in ADAPTER:
        scratch = root / f".tmp-{name}"
        durable.remove_file(scratch)
        durable.copy_file(folder / name, scratch)
        durable.replace_file(scratch, root / name)


def follow(layout: Layout, moved_to: Path) -> None:
    """Mend the link to a fully trained model whose checkpoint was moved to another folder."""
    link = layout.current_model / LATEST
    if link.is_symlink() and not link.exists():
        found = moved_to / link.readlink().name
        if found.exists():
            point_at(layout, found)


def point_at_nothing(layout: Layout) -> None:
    """Let `current_model/` hold no weights: the run stands at its base model again."""
    for name in (*reversed(ADAPTER), LATEST):
        durable.remove_file(layout.current_model / name)
