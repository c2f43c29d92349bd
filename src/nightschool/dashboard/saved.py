"""The states that can be gone back to: checkpoints, snapshots, and what is due next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightschool import durable, hours, inforce
from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.kept import kept
from nightschool.dashboard.services import Services
from nightschool.errors import CheckpointError, NightschoolError, StorageError
from nightschool.ledger import CheckpointRow, Ledger
from nightschool.record import read_record
from nightschool.settings import Settings, SnapshotSettings, load_settings
from nightschool.snapshots import due, rollback, second
from nightschool.snapshots.listing import listing
from nightschool.snapshots.pruning import room_of
from nightschool.snapshots.verified import Verified, name_of, verified
from nightschool.supervisor.night import DONE
from nightschool.workspace import Layout

KEEP_SECONDS = 5.0
"""However many look, the folders are walked once in so long."""
PLACE_PATIENCE = 2.0
"""A second place that does not answer for so long is said not to."""
PRESENT, PAST = 500, 30
"""Checkpoints that are told: those in use, and those that were taken out of use, the latest ones."""
FOUND = "not recorded"
"""The state of a checkpoint that lies there and that the ledger does not know."""


@dataclass(frozen=True)
class _Told:
    """What the ledger tells: rows of checkpoints newest first, and what decides on the next snapshot."""

    rows: Sequence[CheckpointRow]
    undo: bool
    done: Any
    second: dict[str, Any] | None


async def saved_of(services: Services, now: datetime | None = None) -> shapes.Saved:
    """All states that can be gone back to.

    Args:
        services: the workspace.
        now: an aware local time; the present if not given.
    """
    layout, now = services.layout, now or hours.local_now()
    told = await services.reader.read(lambda ledger: _told(layout, ledger))
    settings = await asyncio.to_thread(settings_of, layout)
    options = settings.snapshots if settings else SnapshotSettings()
    # What is kept was made for these: what has just been saved, taken or verified is to be seen at once, since whoever
    # is told that it changed asks once.
    rows = tuple((row.step, row.generation, row.state) for row in told.rows)
    key = (rows, _written(layout.snapshots), _written(layout.verified), repr(options))
    walked = kept(services, "saved", KEEP_SECONDS)
    try:
        checkpoints, snapshots = await walked.get(
            lambda: (_checkpoints(layout, told.rows), _snapshots(layout, options, now)), key=key
        )
    except OSError as error:
        # Retention, or somebody's hands, while the folders were walked.
        raise StorageError(f"The saved states changed while they were looked at ({error}). Look again.") from error
    done = None if told.done is None else due.from_row(told.done)
    following = due.comes(now, options.at, done)
    return shapes.Saved(
        checkpoints=checkpoints, snapshots=snapshots, undo=told.undo,
        next_snapshot=following.astimezone(UTC).isoformat(timespec="seconds") if following else None,
        second_place=await place_in_words(services, options.copy_to, told.second),
    )  # fmt: skip


def _written(path: Path) -> int:
    """When a file was written, or when something came into a folder or went; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def settings_of(layout: Layout) -> Settings | None:
    """The settings that count: those that the running machine goes by, else those in the file; None without any."""
    try:
        if durable.holder(layout.supervisor_lock) is not None:
            return inforce.read(layout)
        return load_settings(layout.settings_file)
    except (NightschoolError, OSError):
        return None


def _told(layout: Layout, ledger: Ledger) -> _Told:
    rows = ledger.checkpoints.listing("published", PRESENT)
    past = [row for row in ledger.checkpoints.listing(limit=PRESENT) if row.state != "published"][-PAST:]
    every = sorted((*rows, *past), key=lambda row: (row.generation, row.step), reverse=True)
    values = ledger.machine.several((DONE, second.ROW))
    return _Told(every, rollback.can_undo(layout, ledger), values.get(DONE), values.get(second.ROW))


def _checkpoints(layout: Layout, rows: Sequence[CheckpointRow]) -> list[shapes.Checkpoint]:
    marks = verified(layout)
    found = [_checkpoint(layout, row, marks) for row in rows]
    known = {row.step for row in rows if row.state == "published"}
    for step, folder in layout.checkpoints():
        if step not in known:
            found.append(_unknown(layout, step, folder, marks))
    return sorted(found, key=lambda one: (one.generation, one.step), reverse=True)


def _checkpoint(layout: Layout, row: CheckpointRow, marks: dict[str, Verified]) -> shapes.Checkpoint:
    folder = _folder(layout, row)
    own, shared, mark = _looked_at(layout, folder, marks)
    return shapes.Checkpoint(
        step=row.step, generation=row.generation, state=row.state, reason=row.reason or _problem(mark),
        written_at=row.written_at, there=own is not None, own_bytes=own, shared_bytes=shared, seconds=row.seconds,
        stalled=row.stalled_seconds, verified_at=mark.at if mark else None,
    )  # fmt: skip


def _unknown(layout: Layout, step: int, folder: Path, marks: dict[str, Verified]) -> shapes.Checkpoint:
    own, shared, mark = _looked_at(layout, folder, marks)
    try:
        generation, reason = read_record(folder).generation, _problem(mark)
    except CheckpointError as error:
        generation, reason = 0, str(error)
    try:
        written = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    except OSError:
        written = datetime.fromtimestamp(0, UTC)
    return shapes.Checkpoint(
        step=step, generation=generation, state=FOUND, reason=reason, written_at=written.isoformat(timespec="seconds"),
        there=own is not None, own_bytes=own, shared_bytes=shared, seconds=0.0, stalled=0.0,
        verified_at=mark.at if mark else None,
    )  # fmt: skip


def _folder(layout: Layout, row: CheckpointRow) -> Path | None:
    """Where a checkpoint lies now; None where it is gone: only one folder can have the name of a step."""
    if row.state == "published":
        return layout.checkpoint(row.step)
    folder = layout.root / row.path
    # What was moved is in `undone/`, and nothing that a row names is looked at elsewhere.
    return folder if row.state == "undone" and folder.parent.parent == layout.undone else None


def _looked_at(
    layout: Layout, folder: Path | None, marks: dict[str, Verified]
) -> tuple[int | None, int | None, Verified | None]:
    """Own and shared bytes of a folder, and what is known of its content; None where it is not there."""
    if folder is None or not folder.is_dir():
        return None, None, None
    try:
        room = room_of(folder)
    except OSError:
        return None, None, None  # removed while it was looked at
    return room.own, room.shared, marks.get(name_of(layout, folder))


def _problem(mark: Verified | None) -> str | None:
    return mark.problem if mark else None


def _snapshots(layout: Layout, options: SnapshotSettings, now: datetime) -> list[shapes.Snapshot]:
    marks = verified(layout)
    found = []
    for one in reversed(listing(layout, options, now.date())):
        what, mark = one.snapshot, marks.get(name_of(layout, one.snapshot.folder))
        found.append(shapes.Snapshot(
            name=what.name, kind=what.kind, step=what.step, generation=what.generation, taken_at=what.taken_at,
            file=what.file, own_bytes=one.own_bytes, shared_bytes=one.shared_bytes,
            problem=one.problem or _problem(mark), keep=one.keep, why=one.why, verified_at=mark.at if mark else None,
        ))  # fmt: skip
    return found


async def place_in_words(services: Services, place: str | None, row: dict[str, Any] | None) -> str | None:
    """How the second place stands, a clause without a full stop; None where there is none."""
    if not place:
        return None
    problem = await place_problem(services, place, row)
    if problem:
        return problem
    copied = (row or {}).get("copied_at")
    if copied is None:
        return f"{place}: nothing was copied there yet"
    when = f"{datetime.fromisoformat(copied).astimezone(hours.LocalZone()):%Y-%m-%d %H:%M}"
    return f"{place}: last copied {when}{', and a copy is to be made' if (row or {}).get('pending') else ''}"


async def place_problem(services: Services, place: str, row: dict[str, Any] | None) -> str | None:
    """Why nothing can be copied to the second place, a clause without a full stop; a disk may not answer at all."""
    try:
        look = kept(services, "second place", KEEP_SECONDS)
        return await look.get(lambda: second.problem_of(Path(place), row), key=place, patience=PLACE_PATIENCE)
    except TimeoutError:
        return second.silent(Path(place))
    except OSError as error:
        return f"{place} (snapshots.copy_to) cannot be looked at: {error.strerror or error}"


async def saved(call: Call) -> shapes.Saved:
    """GET /api/saved."""
    return await saved_of(call.services)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/api/saved", "Checkpoints and snapshots", saved, shapes.Saved, tag="saved"),
)
