"""Taking a snapshot: the newest whole checkpoint under a second name, with all that is needed to go on from it.

    snapshots/2026-11-22/
      checkpoint-1250/      every file of the checkpoint, also its own manifest: hard links where there can be some
      adapter_model…        the model, so that the folder loads as it stands: further links to the same files
      tokenizer…            tokenizer and chat template, copied from `current_model/`
      ledger.db             the ledger, through SQLite's backup
      nightschool.toml      the settings, and the chat template if they name one
      MANIFEST.json         written last: sizes, hashes and what the snapshot is

It is staged under a temporary name and renamed: complete or absent. What is linked costs no room until the trainer's
own retention lets go of the checkpoint; linked files are made read-only, under all their names.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import basemodel, durable, inforce
from nightschool.errors import BusyError, CheckpointError, NightschoolError, SettingsError, StorageError
from nightschool.record import RECORD, belongs, entries_of, root_digest
from nightschool.snapshots import states
from nightschool.snapshots.cut import PENDING
from nightschool.snapshots.states import Kind, Saved, Snapshot
from nightschool.workspace import SETTINGS_NAME, Layout

if TYPE_CHECKING:
    from nightschool.ledger import Ledger

LAST = "last_snapshot"
"""The machine row for `status`: {"name", "step", "path", "taken_at"} of the one taken last."""
TEMPLATE = "chat_template.source"
"""The chat template that the settings name, where they name one: on another machine it would be missing."""
TRIES = 5
"""How often to begin again because the trainer removed the checkpoint that was being linked."""
TAKEN_WORDS = frozenset({"latest", "current", "undo", "base", "undone", "all", "none"})
"""What names something else wherever a state is asked for."""
LONGEST_NAME = 100

_NOT_THE_MODEL = frozenset({"optimizer.pt", "scheduler.pt", "trainer_state.json", RECORD, durable.MANIFEST})
_NAME = re.compile(r"\w[\w.+-]*")


class _Gone(Exception):
    """The checkpoint was removed while it was looked at or linked."""


def check_name(name: str) -> None:
    """Raise SettingsError unless a snapshot may be called so."""
    problem = None
    if not _NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME:
        problem = f"use letters, digits and . _ + -, up to {LONGEST_NAME}, and a letter or digit first"
    elif name.casefold() in TAKEN_WORDS or name == states.ORIGIN:
        problem = "that word means something else"
    elif re.fullmatch(r"(checkpoint-)?[\d_]+", name):
        problem = "a number means a step"
    elif _is_date(name):
        problem = "a date is for the daily snapshot of that day"
    if problem:
        raise SettingsError(f"A snapshot cannot be called {name!r}: {problem}.")


def _is_date(name: str) -> bool:
    try:
        date.fromisoformat(name)
    except ValueError:
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", name))
    return True


def free_name(layout: Layout, now: datetime) -> str:
    """A name for a snapshot that was given none: the local time, and a number if that is taken."""
    stem = f"{now:%Y-%m-%d-%H%M}"
    name, number = stem, 1
    while (layout.snapshots / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def take(layout: Layout, ledger: Ledger, *, name: str, kind: Kind, day: date, now: datetime) -> Snapshot:
    """Take a snapshot of the newest checkpoint that is whole and belongs to the run.

    To be called with the lock of the way back held (`holding.way_back`).

    Args:
        layout, ledger: the workspace.
        name: of its folder; the date for a daily one.
        kind: daily, named or origin.
        day: the day it stands for.
        now: the present time, with a zone.

    Raises:
        BusyError: a change of the history was interrupted, and is not finished yet.
        CheckpointError: there is no checkpoint that could be used.
        StorageError: the disk refuses, or the name is taken; nothing is left behind.
    """
    if ledger.machine.get(PENDING) is not None:
        raise BusyError(
            "A rollback, or forgetting a file, was interrupted and is not finished yet: the next start of the trainer "
            "does that. Take the snapshot after it."
        )
    _ready(layout, ledger)
    target = layout.snapshots / name
    if target.exists():
        raise StorageError(
            f"There is a snapshot called {name} already ({target}), and nothing is overwritten. Choose another name.",
            errno.EEXIST,
        )
    taken: Snapshot | None = None
    for _ in range(TRIES):
        chosen = newest(layout, ledger)
        staged = durable.staging(layout.snapshots, name)
        try:
            told = Snapshot(
                target, name, kind, day, chosen.step, chosen.record.generation, chosen.record.lineage,
                now.astimezone(UTC).isoformat(timespec="seconds"), chosen.record.file,
            )  # fmt: skip
            _fill(layout, ledger, chosen, staged, told)
            durable.publish(staged, target)
            taken = told
            break
        except BaseException as error:
            with suppress(OSError, NightschoolError):
                durable.remove_tree(staged)
            if not isinstance(error, _Gone):
                raise
    if taken is None:
        raise CheckpointError(
            f"The newest checkpoint was removed {TRIES} times while a snapshot of it was begun: checkpoints come "
            "faster than they can be looked at. Raise checkpoints.save_steps or checkpoints.save_total_limit."
        )
    note(layout, ledger, taken)
    return taken


def note(layout: Layout, ledger: Ledger, taken: Snapshot) -> None:
    """Tell the ledger of a snapshot that is in place."""
    with ledger.transaction():
        ledger.machine.set(LAST, described(layout, taken))
        ledger.events.add(
            "snapshot", f"Took the snapshot {taken.name} of step {taken.step}.", name=taken.name, step=taken.step,
            kind=taken.kind, lineage=taken.lineage,
        )  # fmt: skip


def described(layout: Layout, one: Snapshot) -> dict[str, Any]:
    """A snapshot as `status` tells it."""
    path = one.folder.relative_to(layout.root)
    return {"name": one.name, "step": one.step, "path": str(path), "taken_at": one.taken_at}


def _ready(layout: Layout, ledger: Ledger) -> None:
    """The folder of the snapshots is there, and nothing half-made in it."""
    folder = layout.snapshots
    if not folder.is_dir():
        if folder.is_symlink() or ledger.machine.get(LAST):
            raise StorageError(
                f"{folder} is not there, and it held snapshots: a folder that is not there is never taken for an empty "
                "one. If it lies on another disk, mount it; if all were removed on purpose, make the folder again.",
                errno.ENOENT,
            )
        durable.make_dirs(folder)
    durable.sweep(folder)


def newest(layout: Layout, ledger: Ledger) -> Saved:
    """The newest present checkpoint that is whole, every byte of it, and belongs to the run.

    Raises:
        CheckpointError: there is none; the message says what is wrong with those there are.
    """
    root = ledger.machine.get("root")
    found: list[str] = []
    for _, folder in reversed(layout.checkpoints()):
        saved = states.of_checkpoint(folder)
        if saved is None:
            found.append(f"{folder.name}: it says nothing about itself that can be read")
            continue
        problems = ["the ledger knows of no run yet"] if root is None else states.problems(saved, root)
        if root is not None and not problems:
            foreign = belongs(saved.record, root_digest(root), entries_of(ledger))
            problems = [foreign] if foreign else []
        if not problems:
            return saved
        if folder.exists():  # else retention was faster, and a newer one is there
            found.append(f"{folder.name}: {'; '.join(problems)}")
    if not found:
        raise CheckpointError(
            "Nothing has been saved yet, so there is nothing to take a snapshot of. `nightschool status` says what it "
            "is doing."
        )
    raise CheckpointError(f"There is no checkpoint to take a snapshot of. {'. '.join(found)}.")


def _fill(layout: Layout, ledger: Ledger, chosen: Saved, staged: Path, told: Snapshot) -> None:
    inner = staged / chosen.folder.name
    durable.make_dirs(inner)
    known: dict[str, durable.Copied] = {}
    try:
        listed = durable.read_manifest(chosen.folder).files
        expected: dict[str, durable.Copied | None] = {durable.MANIFEST: None, **listed}
        for name, copied in expected.items():
            _second_name(chosen.folder / name, inner / name, f"{inner.name}/{name}", copied, known)
    except StorageError as error:
        if error.errno == errno.ENOENT and not chosen.folder.exists():
            raise _Gone from error
        raise
    model = {name: copied for name, copied in listed.items() if name not in _NOT_THE_MODEL and "/" not in name}
    for name, copied in model.items():
        _second_name(inner / name, staged / name, name, copied, known)
    before = states.snapshots(layout.snapshots)
    for path, name in _beside(layout):
        if not (staged / name).exists():
            _keep(path, staged / name, before[-1].folder / name if before else None)
    ledger.backup_to(staged / states.LEDGER)
    for path in staged.rglob("*"):
        if path.is_file():
            durable.protect(path)
    made = durable.seal(staged, told.to_manifest(), known)
    durable.protect(staged / durable.MANIFEST)
    _compare(made.files, listed, inner.name)


def _second_name(
    source: Path, target: Path, name: str, copied: durable.Copied | None, known: dict[str, durable.Copied]
) -> None:
    if not target.parent.is_dir():
        durable.make_dirs(target.parent)
    # A copy is read again when the folder is sealed; of a link, the bytes are those that were just looked at.
    if durable.link_or_copy(source, target) and copied is not None:
        known[name] = copied


def _beside(layout: Layout) -> Iterator[tuple[Path, str]]:
    """What makes the folder loadable as it stands, and the settings. The checkpoint's own files count over these."""
    source = layout.current_model
    for path in [*basemodel.tokenizer_files(source), *sorted(source.glob("chat_template*"))]:
        if path.is_file():
            yield path, path.name
    settings, template = _settings(layout)
    yield settings, SETTINGS_NAME
    if template and Path(template).is_file():
        yield Path(template), TEMPLATE


def _settings(layout: Layout) -> tuple[Path, str | None]:
    """The settings file, and the chat template it names; where it is being edited and is broken, the one in force."""
    from nightschool.settings import load_settings

    # Settings that cannot be read now, or a template that is gone, are no reason to have no snapshot.
    with suppress(SettingsError):
        return layout.settings_file, load_settings(layout.settings_file).model.chat_template
    with suppress(SettingsError):
        if layout.accepted_settings.is_file():
            return layout.accepted_settings, inforce.read(layout).model.chat_template
    return layout.settings_file, None


def _keep(source: Path, target: Path, before: Path | None) -> None:
    """A copy of a small file that may still change; the one of the snapshot before where nothing has."""
    source = source.resolve()
    same = before is not None and before.is_file() and durable.hash_file(before) == durable.hash_file(source)
    if before is not None and same and not durable.is_wider(before, source):
        durable.link_or_copy(before, target)
    else:
        durable.copy_file(source, target)


def _compare(made: Mapping[str, durable.Copied], listed: Mapping[str, durable.Copied], inner: str) -> None:
    wrong = [name for name, copied in listed.items() if made.get(f"{inner}/{name}") != copied]
    if wrong:
        raise StorageError(
            f"What was written to the snapshot is not what {inner} holds: {', '.join(wrong)} came out different. The "
            "disk, or memory, is not to be trusted: look at `dmesg`. The snapshot was dropped.",
            errno.EIO,
        )
