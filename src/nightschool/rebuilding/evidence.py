"""What lies on the disk of a workspace besides its ledger. Reads only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable
from nightschool.curriculum import Entry
from nightschool.errors import CheckpointError, DataError, NightschoolError
from nightschool.intake import sidecar
from nightschool.intake.containers import kind_named
from nightschool.intake.prepare import folder_name
from nightschool.intake.prepared import read_meta
from nightschool.intake.rejected import WHY
from nightschool.ledger import FileRow, Ledger
from nightschool.ledger.order import natural_key
from nightschool.record import RECORD, entries_of, read_generation, root_digest
from nightschool.snapshots import states
from nightschool.snapshots.states import Saved
from nightschool.workspace import Layout

REBUILT = "ledger-rebuilt"
"""Kind of the event that a rebuilt ledger begins with; its field `generation` is that of the history in it."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_WHY_END = re.compile(r"\(file (\d+), arrived (\S+?)(?:, SHA-256 ([0-9a-f]{64}))?\)")


@dataclass(frozen=True)
class Copy:
    """A whole copy of the ledger.

    Attributes:
        path: where it is.
        age: (id of its last event, its last step, its last file): the higher, the newer.
        generation: number of cuts it knows of.
        files: its rows.
        entries: its curriculum.
        step: the last one with a row.
    """

    path: Path
    age: tuple[int, int, int]
    generation: int
    files: list[FileRow]
    entries: list[Entry]
    step: int


@dataclass(frozen=True)
class State:
    """A saved state whose record is consistent. `problem` says what is damaged in it; None where nothing is."""

    saved: Saved
    problem: str | None


@dataclass(frozen=True)
class Archived:
    """A file in the archive: its place relative to the workspace, its name, the day, and the settings beside it."""

    place: str
    name: str
    day: str
    sha256: str
    bytes: int
    options: dict[str, Any]

    @property
    def order(self) -> tuple[str, str]:
        """By day, then by natural name."""
        return (self.day, natural_key(self.name))


@dataclass(frozen=True)
class Prepared:
    """A whole folder of tokens."""

    folder: str
    sha256: str | None
    data_digest: str
    meta: dict[str, Any]

    def is_of(self, sha256: str, name: str) -> bool:
        """Whether it is what intake would look for under this name: the same bytes are read by what the name says."""
        if self.sha256 != sha256:
            return False
        return folder_name(sha256, self.meta.get("recipe") or {}, kind_named(name)) == self.folder


@dataclass(frozen=True)
class Refused:
    """A file in `rejected/`, from the text beside it."""

    id: int
    name: str
    reason: str
    arrived_at: str
    sha256: str | None
    place: str | None


@dataclass(frozen=True)
class Evidence:
    """All of it.

    Attributes:
        generation: what the file outside the ledger says; None where it is gone or damaged.
        copy: the newest whole copy of the ledger.
        states: every saved state, those that were undone too.
        archived, prepared, refused: what is in the archive, in `prepared/`, in `rejected/`.
        handed: what `add` has handed over and nobody has taken.
        taken: SHA-256, by number, of what was being taken in.
        sources: of the files that had only arrived, those that are still where they were dropped.
        notes: what is to be said of it.
    """

    generation: int | None
    copy: Copy | None
    states: list[State]
    archived: list[Archived]
    prepared: list[Prepared]
    refused: list[Refused]
    handed: list[Path]
    taken: dict[int, str]
    sources: frozenset[str]
    notes: list[str] = field(default_factory=list)


def gather(layout: Layout) -> Evidence:
    """Look at everything. Reads the whole archive once, and every byte of the present checkpoints."""
    notes: list[str] = []
    try:
        generation = read_generation(layout) if layout.generation_file.exists() else None
    except CheckpointError:
        generation = None
        notes.append(f"{layout.generation_file} is damaged.")
    copy = _newest_copy(layout, notes)
    arrived = [row.source for row in copy.files if row.state == "arrived"] if copy else []
    return Evidence(
        generation, copy, list(_states(layout)), _archive(layout, notes), _prepared(layout), _refused(layout),
        _handed(layout), _taken(layout), frozenset(source for source in arrived if os.path.lexists(source)), notes,
    )  # fmt: skip


@contextmanager
def opened(layout: Layout, path: Path) -> Iterator[Ledger]:
    """A ledger's file and its journal, copied and opened: SQLite finishes what was interrupted in the copy only."""
    layout.tmp.mkdir(parents=True, exist_ok=True)
    scratch = layout.tmp / f"past-{os.urandom(4).hex()}.db"
    both = [
        (one, scratch.with_name(scratch.name + one.name.removeprefix(path.name))) for one in (path, journal_of(path))
    ]
    try:
        for source, target in both:
            if source.is_file():
                shutil.copyfile(source, target)
        with Ledger.open(scratch) as found:
            yield found
    finally:
        for _, target in both:
            target.unlink(missing_ok=True)


def journal_of(path: Path) -> Path:
    """Where SQLite keeps what it needs to take an interrupted change back."""
    return path.with_name(f"{path.name}-journal")


def _newest_copy(layout: Layout, notes: list[str]) -> Copy | None:
    """The newest whole copy, the ledger itself among them: it may be whole, and only older than the checkpoints."""
    places = [layout.ledger, *sorted(layout.snapshots.glob(f"*/{states.LEDGER}"))]
    places += sorted(layout.undone.glob(f"*/{states.LEDGER}"))
    found: list[Copy] = []
    for path in places:
        if not path.is_file() or (path != layout.ledger and path.parent.name.startswith(".")):
            continue
        try:
            with opened(layout, path) as ledger:
                problems = ledger.check()
                if not problems:
                    found.append(read_copy(path, ledger))
        except (NightschoolError, OSError, ValueError, KeyError, TypeError) as error:
            problems = [str(error)]
        if problems and path != layout.ledger:
            notes.append(f"{path} is damaged and was not used.")
    return max(found, key=lambda copy: copy.age, default=None)


def read_copy(path: Path, ledger: Ledger) -> Copy:
    """All of a ledger that is needed to go on from it."""
    events = ledger.events
    told = [event.fields.get("generation") for kind in ("cut", REBUILT) for event in events.of_kind(kind)]
    last, step = events.latest(1), ledger.steps.last()
    done = step.step if step else 0
    generation = max((number for number in told if isinstance(number, int)), default=0)
    files = list(ledger.files.each())
    age = (last[0].id if last else 0, done, files[-1].id if files else 0)
    return Copy(path, age, generation, files, entries_of(ledger), done)


def _states(layout: Layout) -> Iterator[State]:
    """Every saved state whose curriculum, cut at its step, hashes to the lineage that it carries."""
    for saved in states.each(layout):
        try:
            record = saved.record
            if curriculum.lineage(root_digest(record.root), record.entries, record.step) != record.lineage:
                continue
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            continue
        # What was undone gives names and numbers only, so its weights need not be read.
        problems = durable.check(saved.folder, deep=saved.where != "undone")
        if problems and not _record_is_whole(saved.folder):
            continue
        yield State(saved, "; ".join(problems) or None)


def _record_is_whole(folder: Path) -> bool:
    """Whether the record of a damaged checkpoint is what its manifest says."""
    try:
        listed = durable.read_manifest(folder).files.get(RECORD)
        return listed is not None and _sha256(folder / RECORD) == listed.sha256
    except (NightschoolError, OSError):
        return False


def _archive(layout: Layout, notes: list[str]) -> list[Archived]:
    found = []
    for day in sorted(layout.archive.iterdir()):
        if not day.is_dir() or not _DAY.fullmatch(day.name):
            continue
        for path in sorted(day.rglob("*")):
            inner = path.relative_to(day)
            if (
                path.is_symlink()
                or not path.is_file()
                or any(part.startswith((".tmp-", ".trash-")) for part in inner.parts)
            ):
                continue
            if path.name.endswith(sidecar.ENDING):
                continue
            options: dict[str, Any] = {}
            beside = path.with_name(path.name + sidecar.ENDING)
            if beside.is_file():
                with suppress(DataError, OSError):
                    options = sidecar.read(beside, path.name)
            place = f"{layout.archive.name}/{day.name}/{inner.as_posix()}"
            try:
                found.append(Archived(place, inner.as_posix(), day.name, _sha256(path), path.stat().st_size, options))
            except OSError as error:
                notes.append(f"{place} cannot be read: {error.strerror}.")
    return sorted(found, key=lambda one: one.order)


def _prepared(layout: Layout) -> list[Prepared]:
    found = []
    for folder in sorted(layout.prepared.iterdir()) if layout.prepared.is_dir() else []:
        if folder.name.startswith(".") or not folder.is_dir() or durable.check(folder, deep=False):
            continue
        try:
            meta = read_meta(folder)
            found.append(Prepared(folder.name, meta.get("sha256"), str(meta["data_digest"]), meta))
        except (DataError, KeyError):
            continue
    return found


def _refused(layout: Layout) -> list[Refused]:
    found = []
    for path in sorted(layout.rejected.rglob(f"*{WHY}")) if layout.rejected.is_dir() else []:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        end = _WHY_END.search(text)
        name = re.match(r"(.*) was not learned\.\n", text)
        why = re.search(r"^Why: (.*)$", text, re.MULTILINE)
        if not (end and name and why):
            continue
        data = path.with_name(path.name.removesuffix(WHY))
        place = data.relative_to(layout.root).as_posix() if data.is_file() else None
        found.append(Refused(int(end[1]), name[1], why[1], end[2], end[3], place))
    return found


def _handed(layout: Layout) -> list[Path]:
    """What `add` has handed over and nobody has taken yet."""
    if not layout.incoming.is_dir():
        return []
    return sorted(
        path for path in layout.incoming.iterdir()
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(sidecar.ENDING)
    )  # fmt: skip


def _taken(layout: Layout) -> dict[int, str]:
    """SHA-256, by the file's number, of what was being taken in when the machine ended."""
    folder = layout.incoming / "taken"
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.isdecimal() and path.is_file():
            with suppress(OSError):
                found[int(path.name)] = _sha256(path)
    return found


def history_in(folder: Path) -> list[dict[str, Any]]:
    """The last steps' losses that a checkpoint holds, as the Hugging Face Trainer keeps them."""
    try:
        log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        return [row for row in log if isinstance(row.get("step"), int) and isinstance(row.get("loss"), float)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
