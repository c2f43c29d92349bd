"""The clock, the next snapshot, and the room for those to come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from nightschool.checkup import sizes
from nightschool.checkup.finding import Finding
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.settings import Settings
from nightschool.snapshots import due
from nightschool.supervisor.night import DONE
from nightschool.words import duration, in_bytes
from nightschool.workspace import Layout

FIRST_YEAR = 2025
"""No clock that is right says less: a machine without a battery begins in 1970, or in the year of its firmware."""
TOLERATED = timedelta(minutes=5)
DAY = timedelta(days=1)
FEW_NIGHTS = 7

Offset = Callable[[datetime], timedelta]
"""The distance of local time from UTC at a moment."""


def local_offset(moment: datetime) -> timedelta:
    """That of this machine."""
    return moment.astimezone().utcoffset() or timedelta()


def zone_name() -> str | None:
    """The name of the time zone, as in Europe/Helsinki; None where none is set."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if name:
        return name
    link = Path("/etc/localtime")
    if link.is_symlink():
        return str(link.readlink()).rpartition("zoneinfo/")[2]
    return "set by /etc/localtime" if link.exists() else None


def clock(now: datetime, zone: str | None, offset: Offset, newest: datetime | None) -> Iterator[Finding]:
    """Whether the clock can be right, and what it will do tonight.

    Args:
        now: the wall clock, with a zone.
        zone: the name of the zone.
        offset: of local time at a moment.
        newest: the latest time that was ever written down here.
    """
    told = f"{now:%Y-%m-%d %H:%M}, {zone or 'no time zone'} ({_utc(offset(now))})"
    if now.year < FIRST_YEAR:
        yield Finding("clock", "bad", told, "That cannot be. Set the clock: timedatectl set-ntp true")
    elif newest is not None and newest > now + TOLERATED:
        behind = duration((newest - now).total_seconds())
        yield Finding(
            "clock", "bad", f"{told}; that is {behind} before what was written here last",
            "The clock was set back, or was wrong then. Set it: timedatectl set-ntp true. Snapshots are dated by it.",
        )  # fmt: skip
    elif zone is None:
        yield Finding(
            "clock",
            "note",
            f"{told}: times are UTC",
            "Snapshots and hours go by local time: timedatectl set-timezone ZONE",
        )
    else:
        yield Finding("clock", "good", told)
    moved = change(now, offset)
    if moved is not None:
        yield Finding(
            "clock change", "note",
            f"{moved:%Y-%m-%d %H:%M} UTC the clocks go from {_utc(offset(now))} to {_utc(offset(now + DAY))}",
            "Nothing to do: there is one snapshot for each date, and hours go by the clock on the wall.",
        )  # fmt: skip


def change(now: datetime, offset: Offset) -> datetime | None:
    """When local time is moved within a day, in UTC to the minute; None if it is not."""
    start = now.astimezone(UTC).replace(second=0, microsecond=0)
    before = offset(start)
    if offset(start + DAY) == before:
        return None
    return next(at for m in range(24 * 60 + 1) if offset(at := start + timedelta(minutes=m)) != before)


def _utc(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def next_snapshot(now: datetime, at: str, done: Mapping[date, str] | None) -> Finding:
    """When the next snapshot is due; `done` is None before the machine has run for the first time."""
    if not at:
        return Finding(
            "next snapshot", "note", "there is none by itself: snapshots.at is empty",
            'Set snapshots.at = "03:00", or take one now and then: nightschool snapshot',
        )  # fmt: skip
    settled = due.first(now, at) if done is None else done
    wanted = due.due(now, at, settled)
    if wanted is not None:
        return Finding(
            "next snapshot", "note", f"that of {wanted.date} is due: {wanted.why}", "`nightschool run` takes it."
        )
    day = due.stands_for(now, time.fromisoformat(at)) + DAY
    return Finding("next snapshot", "good", f"{day} at {at}, local time, if the machine runs; else when it runs again")


def newest_time(layout: Layout, ledger: Ledger) -> datetime | None:
    """The latest time written down here: of an event, or of the machine's own files."""
    found = [datetime.fromisoformat(row.at) for row in ledger.events.latest(1)]
    for path in (layout.ledger, layout.log_file):
        if path.exists():
            found.append(datetime.fromtimestamp(path.stat().st_mtime, UTC))
    return max(found, default=None)


def tonight_clock(layout: Layout, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The clock and the next snapshot of a workspace."""
    newest, done = None, None
    try:
        with Ledger.open(layout.ledger) as ledger:
            newest = newest_time(layout, ledger)
            row = ledger.machine.get(DONE)
            done = None if row is None else due.from_row(row)
    except (NightschoolError, OSError):
        pass  # said where the ledger is looked at
    yield from clock(now, zone_name(), local_offset, newest)
    yield next_snapshot(now, settings.snapshots.at, done)


def snapshot_room(layout: Layout, settings: Settings, needed: int, measured: int | None) -> Iterator[Finding]:
    """Whether the disk has room for the snapshots that will be kept.

    Args:
        layout, settings: the workspace.
        needed: bytes that the next checkpoints take.
        measured: size of a checkpoint, if a rehearsal has made one.
    """
    options = settings.snapshots
    if not options.at:
        return
    try:
        size, _ = sizes.checkpoint_bytes(layout, settings, measured)
        free = shutil.disk_usage(layout.snapshots).free
        same = layout.snapshots.stat().st_dev == layout.current_model.stat().st_dev
        there = sum(1 for path in layout.snapshots.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (OSError, NightschoolError) as error:
        yield Finding("snapshots", "bad", f"{layout.snapshots} cannot be looked at: {error}")
        return
    kept = options.keep_daily + options.keep_weekly + options.keep_monthly
    if not size:
        yield Finding("snapshots", "note", f"up to {kept} are kept; how large one is will be seen", "doctor --rehearse")
        return
    left = max(0, free - (needed if same else 0))
    nights, coming = left // size, max(0, kept - there)
    found = f"{there} there, up to {kept} are kept; a night of learning takes about {in_bytes(size)}"
    if nights >= coming:
        yield Finding("snapshots", "good", f"{found}, and there is room for all")
        return
    found = f"{found}, and there is room for {nights} more"
    advice = "Free some space, or lower snapshots.keep_daily, keep_weekly or keep_monthly."
    yield Finding("snapshots", "note" if nights >= FEW_NIGHTS else "bad", found, advice)
