"""The folder that is given away: looked at before, filled beside its place under another name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightschool import basemodel, durable
from nightschool.errors import CheckpointError, StorageError, WorkspaceError
from nightschool.exporting import card
from nightschool.exporting.facts import Facts
from nightschool.ledger import Ledger
from nightschool.snapshots import states
from nightschool.snapshots.serving import ADAPTER
from nightschool.snapshots.states import Saved
from nightschool.words import escape
from nightschool.workspace import Layout

CARD = "README.md"
STATE = "state"
"""Where the weights of the state lie while a model is made of them, inside the unfinished folder."""


def checked(layout: Layout, folder: Path) -> Path:
    """The folder to fill, in full.

    Raises:
        WorkspaceError: something is there, or it would lie among the machine's own files.
    """
    target = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - a link at the end is not followed
    if target.is_symlink() or (os.path.lexists(target) and not target.is_dir()):
        raise WorkspaceError(f"{escape(target)} is no folder. Name one that is empty or not there yet.")
    if target.is_dir() and any(target.iterdir()):
        raise WorkspaceError(f"{escape(target)} is not empty. Name a folder that is empty or not there yet.")
    taken = (
        layout.inbox, layout.archive, layout.rejected, layout.current_model, layout.snapshots, layout.undone,
        layout.state,
    )  # fmt: skip
    for own in taken:
        if target.resolve().is_relative_to(own.resolve()) or target.resolve() == layout.root.resolve():
            raise WorkspaceError(
                f"{escape(target)} belongs to the workspace's own files. Name a folder outside of {own}."
            )
    return target


def find(layout: Layout, ledger: Ledger, at: str | None) -> Saved:
    """The state to give away, every byte of which was read.

    Raises:
        CheckpointError: there is none of that name, or it is damaged or of another run.
    """
    saved = states.find(layout, at or "current")
    problems = states.problems(saved, ledger.machine.get("root") or saved.record.root)
    if problems:
        raise CheckpointError(
            f"{saved.folder} was not exported: {'; '.join(problems)}. Name another state with --at; `nightschool "
            "verify` says which are whole."
        )
    return saved


def is_adapter(saved: Saved) -> bool:
    """Whether the state is an adapter, and not a whole model."""
    return (saved.folder / ADAPTER[0]).is_file()


@contextmanager
def unfinished(layout: Layout, target: Path) -> Iterator[Path]:
    """A folder beside `target` to be filled; removed again if that fails.

    One export of a workspace at a time, so that what an earlier one left when it was killed can be told and removed.
    """
    durable.make_dirs(target.parent)
    with durable.Lock(layout.export_lock, "another `nightschool export`"):
        for left in target.parent.glob(f".tmp-export-{_literal(target.name)}-????????"):
            durable.remove_tree(left)
        staged = durable.staging(target.parent, f"export-{target.name}")
        try:
            yield staged
        except BaseException:
            durable.remove_tree(staged)
            raise


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def take(saved: Saved, names: list[str], into: Path, *, link: bool = False) -> None:
    """Copy files of a state, and make sure that the copies are what its manifest says.

    A copy, because people change what they were given; with `link`, for reading only, another name where that is
    possible. Either way it stays readable when retention takes the state away meanwhile.

    Raises:
        CheckpointError: a file is gone or another.
    """
    listed = durable.read_manifest(saved.folder).files
    for name in names:
        try:
            if link:
                durable.make_dirs(into)
                durable.link_or_copy(saved.folder / name, into / name)
            else:
                durable.copy_file(saved.folder / name, into / name)
        except StorageError as error:
            if (saved.folder / name).exists():
                raise
            raise CheckpointError(f"{saved.folder} was removed while it was exported. Try again.") from error
        if name not in listed or _sha256(into / name) != listed[name].sha256:
            raise CheckpointError(f"{saved.folder / name} changed while it was exported: it is damaged. Use --at.")


def write_adapter(layout: Layout, saved: Saved, facts: Facts, staged: Path) -> None:
    """Adapter, tokenizer and chat template into the unfinished folder."""
    take(saved, list(ADAPTER), staged)
    if facts.hub:
        # A path into the cache of this machine would lead nobody else to the base model.
        config = json.loads((staged / ADAPTER[0]).read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": facts.hub, "revision": facts.revision}
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        durable.write_file(staged / ADAPTER[0], text)
    for path in _tokenizer(layout):
        durable.copy_file(path, staged / path.name)


def _tokenizer(layout: Layout) -> list[Path]:
    """The tokenizer's files as the trainer put them beside the newest adapter; they are the same for the whole run."""
    found = basemodel.tokenizer_files(layout.current_model)
    if not basemodel.has_tokenizer(layout.current_model) or not found:
        raise CheckpointError(
            f"{layout.current_model} holds no tokenizer, which every start of the trainer writes there. Start the "
            "machine once with `nightschool run`, and try again."
        )
    return found


def finish(staged: Path, target: Path, facts: Facts) -> dict[str, Any]:
    """Write the card, seal the folder and give it its name; what `Workspace.export` says of it."""
    durable.write_file(staged / CARD, card.render(facts, target.name))
    manifest = durable.seal(staged, {"lineage": facts.record.lineage, "step": facts.record.step})
    if target.is_dir():
        try:
            target.rmdir()
        except OSError:
            raise WorkspaceError(f"{escape(target)} is not empty any more, so nothing was put there.") from None
    durable.publish(staged, target)
    return {
        "folder": str(target), "kind": facts.kind, "step": facts.record.step, "lineage": facts.record.lineage,
        "bytes": manifest.bytes, "files": sorted(manifest.files),
    }  # fmt: skip


def export_adapter(layout: Layout, saved: Saved, facts: Facts, target: Path) -> dict[str, Any]:
    """The adapter alone, in this process: nothing of it needs torch."""
    with unfinished(layout, target) as staged:
        write_adapter(layout, saved, facts, staged)
        return finish(staged, target, facts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
