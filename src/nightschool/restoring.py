"""`restore`: a workspace in a new folder, from a snapshot; on another machine, if need be.

Everything is looked at before anything is made: the snapshot, every byte of it, and whether the base model there is the
one that the run stands on, by content and not by name. What is made is staged beside its place and renamed at the end:
it is there as a whole, or it is not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool import basemodel, curriculum, durable
from nightschool.creation import must_be_free
from nightschool.errors import CheckpointError, ModelError, NightschoolError, SettingsError, StorageError
from nightschool.ledger import EntryRow, FileRow, Ledger
from nightschool.ledger.files import REST
from nightschool.record import entries_of, write_generation
from nightschool.settings import load_settings, parse_settings
from nightschool.snapshots import cut, second, serving, states, take
from nightschool.snapshots.holding import held
from nightschool.snapshots.inspection import KEPT, bytes_problem
from nightschool.snapshots.states import Saved
from nightschool.words import escape, in_bytes
from nightschool.workspace import SETTINGS_NAME, Layout

STAGED = ".tmp-restore-"
OTHERS = (
    "supervisor",
    "state",
    "trainer",
    "hold",
    "intake_attempts",
    "save_asked",
    "paused",
    "snapshots_done",
    "orders",
)
"""Machine rows that speak of the machine the snapshot was taken on."""
PATIENCE = 60.0


@dataclass
class Restored:
    """What came back.

    Attributes:
        layout: the new workspace.
        name: of the snapshot.
        step: where the run stands.
        files: archived files that came along.
        lost: names of files that were waiting or in training, and whose bytes are not there; set aside.
        unknown: archived files that came after the snapshot: they are in the archive, and not in the queue.
        notes: what else people should know, in sentences.
    """

    layout: Layout
    name: str
    step: int
    files: int = 0
    lost: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def restore(source: Path, target: Path, model: str | None, told: Callable[[str], Any] = lambda _: None) -> Restored:
    """Make a workspace in `target` from a snapshot.

    Args:
        source: a snapshot's folder; or a second place, or a workspace, of which the newest snapshot is taken.
        target: the new workspace; empty or not there.
        model: where the base model is now, if it is not where it was.
        told: told what is done, in sentences.

    Raises:
        CheckpointError: there is no snapshot, or it is damaged.
        ModelError: the base model is not there, or another.
        WorkspaceError, StorageError: the target is taken, or the disk refuses. Nothing is left behind.
    """
    layout = Layout(target.expanduser().absolute())
    must_be_free(layout)
    folder = find(source.expanduser().absolute())
    with reading(folder):
        told(f"Looking at every byte of {folder}.")
        saved = whole(folder)
        text = settings_text(folder, saved, model, layout.root)
        archive = folder.parent.parent / "archive"
        _enough_room(layout.root, folder, archive)
        durable.make_dirs(layout.root.parent)
        for left in layout.root.parent.glob(f"{STAGED}{layout.root.name}-*"):
            durable.remove_tree(left)
        staged = durable.staging(layout.root.parent, f"restore-{layout.root.name}")
        done = Restored(layout, folder.name, saved.step)
        try:
            _fill(Layout(staged), folder, saved, archive, text, done, told)
            durable.remove_tree(layout.root)  # empty, or what an `init` that was cut off has left
            durable.publish(staged, layout.root)
        except BaseException:
            with suppress(OSError, NightschoolError):
                durable.remove_tree(staged)
            raise
    return done


def find(source: Path) -> Path:
    """The snapshot that is meant: the folder itself, or the newest in it."""
    if (source / durable.MANIFEST).exists():
        return states.read_snapshot(source).folder
    if not source.is_dir():
        raise CheckpointError(f"{source} is not there. If it is on another disk, mount it.")
    found = states.snapshots(source / "snapshots") or states.snapshots(source)
    if not found:
        raise CheckpointError(
            f"{source} is no snapshot, and holds none. Name a folder like snapshots/2026-11-22, the folder that "
            "snapshots.copy_to names, or a workspace."
        )
    return found[-1].folder


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep those away who remove snapshots: of the workspace that this one lies in, or of the second place."""
    home = folder.parent.parent
    locks = [Layout(home).way_back_lock] if Layout(home).state.is_dir() else []
    if (home / second.MARK).exists():
        locks.append(home / second.LOCK)
    with ExitStack() as stack:
        for path in locks:
            try:
                stack.enter_context(held(path, "the work on saved states", patience=PATIENCE))
            except StorageError as error:
                # On a disk that is mounted read-only nobody removes anything.
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
        yield


def whole(folder: Path) -> Saved:
    """The state in a snapshot, read to its last byte.

    Raises:
        CheckpointError: something is wrong with it.
    """
    problems = durable.check(folder, deep=True)
    found = [] if problems else states.of_snapshot(states.read_snapshot(folder))
    if found:
        problems = states.problems(found[0], found[0].record.root, deep=False)
    elif not problems:
        problems = ["what it says about itself cannot be read"]
    if problems:
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}. Nothing was made; use another snapshot.")
    return found[0]


def settings_text(folder: Path, saved: Saved, model: str | None, target: Path) -> str:
    """The settings as they shall be in the new workspace, once the base model is known to be the run's.

    Raises:
        ModelError: the base model is not there, or is another one.
        SettingsError: the settings in the snapshot cannot be used.
    """
    settings = load_settings(folder / SETTINGS_NAME)
    text = (folder / SETTINGS_NAME).read_text(encoding="utf-8")
    name = model or settings.model.name
    try:
        base = basemodel.resolve(name, settings.model.revision)
    except ModelError as error:
        raise ModelError(f"{error} If the base model is elsewhere on this machine, say where with --model.") from None
    root = saved.record.root
    differs = _differences(root, base)
    if differs:
        raise ModelError(
            f"The base model in {base} is not the one that this run stands on: {', '.join(differs)}. What was learned "
            "fits only that one. Name the right one with --model. Nothing was made."
        )
    if model is not None:
        text = replaced(text, "name", str(base) if Path(model).expanduser().is_dir() else model)
    wanted = root.get("chat_template")
    if wanted is not None and not _is(settings.model.chat_template, wanted):
        kept = folder / take.TEMPLATE
        if not _is(kept, wanted):
            raise SettingsError(
                f"The chat template of this run (model.chat_template, {settings.model.chat_template}) is not there, or "
                "another one. Put it back at that path. Nothing was made."
            )
        text = replaced(text, "chat_template", str(target / take.TEMPLATE))
    return text


def _differences(root: Mapping[str, Any], base: Path) -> list[str]:
    there, wanted = basemodel.fingerprint(basemodel.model_files(base)), root.get("base") or {}
    names = sorted(set(there) | set(wanted))
    found = [
        f"{name} is missing" if name not in there else f"{name} differs"
        for name in names
        if there.get(name) != wanted.get(name)
    ]
    if basemodel.tokenizer_digest(base) != root.get("tokenizer"):
        found.append("its tokenizer differs")
    return found


def _is(path: Path | str | None, sha256: str) -> bool:
    try:
        return path is not None and hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def replaced(text: str, key: str, value: str) -> str:
    """Settings with another value for `key` of [model], and everything else, comments too, as it was."""
    raw = tomllib.loads(text)
    begin = re.search(r"(?m)^[ \t]*\[[ \t]*model[ \t]*\].*$", text)
    end = re.search(r"(?m)^[ \t]*\[", text[begin.end() :]) if begin else None
    if begin is not None:
        stop = begin.end() + end.start() if end else len(text)
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        section, count = re.subn(rf"(?m)^[ \t]*{key}[ \t]*=.*$", lambda _: line, text[begin.end() : stop], count=1)
        text = text[: begin.end()] + (section if count else f"\n{line}{section}") + text[stop:]
    with suppress(tomllib.TOMLDecodeError):
        if tomllib.loads(text) == {**raw, "model": {**raw["model"], key: value}}:
            parse_settings(tomllib.loads(text))
            return text
    raise SettingsError(
        f"model.{key} in the snapshot's {SETTINGS_NAME} is written in a way that cannot be changed from here. Put the "
        f"base model where it was ({raw.get('model', {}).get('name')!r})."
    )


def _enough_room(target: Path, folder: Path, archive: Path) -> None:
    needed = sum(path.stat().st_size for place in (folder, archive) for path in place.rglob("*") if path.is_file())
    there = target
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"There are {in_bytes(free)} free at {there}, and {in_bytes(needed)} are needed. Nothing was made.",
            errno.ENOSPC,
        )


def _fill(
    layout: Layout, folder: Path, saved: Saved, archive: Path, text: str, done: Restored, told: Callable[[str], Any]
) -> None:
    layout.create()
    told(f"Bringing back step {saved.step:,} and {'the archive' if archive.is_dir() else 'no archive'}.")
    inner = durable.staging(layout.current_model, str(saved.step))
    for name in (*durable.read_manifest(saved.folder).files, durable.MANIFEST):
        durable.copy_file(saved.folder / name, inner / name)
    problems = durable.check(inner)
    if problems:
        raise StorageError(f"What was written to {inner} is not what was read: {'; '.join(problems)}.", errno.EIO)
    durable.publish(inner, layout.checkpoint(saved.step))
    for path in [*basemodel.tokenizer_files(folder), *sorted(folder.glob("chat_template*"))]:
        if path.name != take.TEMPLATE and not (layout.current_model / path.name).exists():
            durable.copy_file(path, layout.current_model / path.name)
    if (folder / take.TEMPLATE).exists():
        durable.copy_file(folder / take.TEMPLATE, layout.root / take.TEMPLATE)
    serving.point_at(layout, layout.checkpoint(saved.step))
    _bring_archive(layout, archive, done)
    durable.copy_file(folder / states.LEDGER, layout.ledger)
    with Ledger.open(layout.ledger) as ledger:
        generations = [saved.record.generation, *(row.generation for row in ledger.checkpoints.listing())]
        write_generation(layout, max(generations))
        with ledger.transaction():
            _set_right(layout, ledger, saved, done)
    durable.write_file(layout.root / SETTINGS_NAME, text, like=folder / SETTINGS_NAME)


def _bring_archive(layout: Layout, archive: Path, done: Restored) -> None:
    if not archive.is_dir():
        done.notes.append(
            f"There is no archive at {archive}. What was learned is learned; but files that were waiting cannot be "
            "trained, and forgetting a file, or a new run on another base, needs the bytes again."
        )
        return
    for path in second.files_in(archive):
        durable.copy_file(path, layout.archive / path.relative_to(archive))
        done.files += 1


def _set_right(layout: Layout, ledger: Ledger, saved: Saved, done: Restored) -> None:
    """Make the copy of the ledger that of this workspace: what it says of progress is set right at the first start."""
    for key in (*OTHERS, take.LAST, second.ROW, cut.PENDING, cut.REPLACING):
        ledger.machine.delete(key)
    serving.keep(ledger, None)
    for row in ledger.checkpoints.listing("published"):
        if row.step != saved.step:
            ledger.checkpoints.retire(row.step, f"not in the snapshot {done.name}", generation=row.generation)
    missing = {row.id: why for row in ledger.files.each() if (why := _missing(layout, row)) is not None}
    _end_before(ledger, saved.step, set(missing), done)
    begun = {file for entry in entries_of(ledger) for file in entry.file_ids}
    for id, why in missing.items():
        row = ledger.files.get(id)
        if row.state == "skipped":
            ledger.files.set_option(id, REST, None)
        if row.state == "skipped" or (row.state in ("arrived", "archived", "ready") and id not in begun):
            ledger.files.set_aside(id, why)
            done.lost.append(row.name)
    learned = sum(id in begun for id in missing)
    if learned and done.files:
        done.notes.append(
            f"Of {learned:,} files that were learned the bytes are not in the archive: what they taught is there, but "
            "a run on another base would need them."
        )
    known = {row.archive for row in ledger.files.each() if row.archive}
    there = (path.relative_to(layout.root).as_posix() for path in second.files_in(layout.archive))
    # Settings beside a file (NAME.toml) belong to it.
    done.unknown = [name for name in there if name not in known and name.removesuffix(".toml") not in known]
    text = f"Restored from the snapshot {done.name}, at step {saved.step}."
    ledger.events.add("restored", text, step=saved.step, snapshot=done.name, lost=done.lost)


def _missing(layout: Layout, row: FileRow) -> str | None:
    """Why a file that was to be trained cannot be, or None."""
    if row.state == "arrived":
        return "its bytes were not archived yet when the snapshot was taken: drop it again"
    if row.state not in KEPT or row.archive is None:
        return None
    problem = bytes_problem(layout.root / row.archive, row)
    return problem and f"{problem}: {row.archive} did not come with the snapshot; drop it again"


def _end_before(ledger: Ledger, step: int, missing: set[int], done: Restored) -> None:
    """End the history before the first file that is still to be trained and cannot be. Learned ones need no bytes."""
    entries = entries_of(ledger)
    for at, entry in enumerate(entries):
        begin = curriculum.first_step(entries, at)
        if begin + entry.steps > step and missing & set(entry.file_ids):
            kept = curriculum.cut(entries, max(step, begin))
            break
    else:
        return
    began = [row.began_at for row in ledger.entries.all()]
    ledger.entries.replace_all([
        EntryRow(number, one.parts, one.recipe, one.length, one.start, one.stop, began[number])
        for number, one in enumerate(kept)
    ])  # fmt: skip
    still = {file for one in kept[:at] for file in one.file_ids}
    for file in {file for one in entries[at:] for file in one.file_ids} - still:
        if file in missing:
            ledger.files.set_aside(file, "it was in training, and its bytes did not come with the snapshot")
            done.lost.append(ledger.files.get(file).name)
        else:
            ledger.files.set_state(file, "archived")


def describe(done: Restored) -> list[str]:
    """What came back, in sentences for people."""
    lines = [
        f"Restored the snapshot {escape(done.name)} to {escape(done.layout.root)}: step {done.step:,}, "
        f"{done.files:,} archived files."
    ]
    if done.lost:
        lines.append(f"Set aside, because their bytes are not there: {_listed(done.lost)}. Drop them again.")
    if done.unknown:
        lines.append(
            f"In the archive, and dropped after the snapshot: {_listed(done.unknown)}. `nightschool add` learns them."
        )
    return [*lines, *done.notes]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f"{', '.join(escape(name) for name in names[:10])}{more}"
