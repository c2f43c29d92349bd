"""What the machine stands on: cheap looks only. What takes longer is for `nightschool doctor`."""

from __future__ import annotations

import asyncio
import heapq
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from nightschool import checkup, hardware, hours
from nightschool.checkup import around, night
from nightschool.dashboard import findings, shapes
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.findings import Seen
from nightschool.dashboard.kept import kept
from nightschool.dashboard.looks import event_of, waiting_of
from nightschool.dashboard.saved import place_problem, settings_of
from nightschool.dashboard.services import Services
from nightschool.errors import SettingsError
from nightschool.hardware import Hardware
from nightschool.ledger import EventRow, Ledger
from nightschool.settings import WHEN, Settings
from nightschool.settings.changes import masked, shown
from nightschool.snapshots import due, second
from nightschool.standing import Setting, standing_of
from nightschool.status import Status, status_of
from nightschool.supervisor.night import DONE
from nightschool.telling.targets import targets_of
from nightschool.words import without_passwords
from nightschool.workspace import Layout

HARDWARE_SECONDS = 2.0
EVENTS = 200
"""Events of a kind that are looked at, the latest ones."""
TROUBLE = ("accident", "checkpoint-damaged", "checkpoint-foreign", "snapshot-failed", "copy-failed", "settings-refused")
TOLD = 10
"""Troubles that are told, the latest ones."""
NOTICES = {
    "learned": "files that were learned", "rejected": "files that were rejected", "morning": "the night's summary",
    "trouble": "trouble",
}  # fmt: skip
MORE = "the base model, the libraries, the service, who else is on the GPU: `nightschool doctor` looks at them"


@dataclass(frozen=True)
class _Told:
    """What the ledger tells."""

    status: Status
    values: dict[str, Any]
    checkpoint_bytes: int | None
    rejected: list[EventRow]
    troubles: dict[str, list[EventRow]]
    restarts: int
    newest: datetime | None


async def health_of(services: Services, now: datetime | None = None) -> shapes.Health:
    """How the machine stands.

    Args:
        services: the workspace.
        now: an aware local time; the present if not given.
    """
    layout, now = services.layout, now or hours.local_now()
    told = await services.reader.read(lambda ledger: _told(layout, ledger))
    listed, problem = await services.reader.read(lambda ledger: _standing(layout, ledger))
    settings = await asyncio.to_thread(settings_of, layout)
    probe = kept(services, "hardware", HARDWARE_SECONDS)
    under, memory = await probe.get(lambda: (_probe(services).look(), hardware.memory()))
    place = settings.snapshots.copy_to if settings else None
    row = told.values.get(second.ROW)
    seen = _seen(now, told, settings, problem, under, place, row, await _place_problem(services, place, row))
    found = findings.findings(seen) + await asyncio.to_thread(_checked, layout, settings, now, told)
    disk_used = under.disk_total - under.disk_free if under.disk_total and under.disk_free is not None else None
    return shapes.Health(
        findings=found, disk=shapes.Amount(used=disk_used, total=under.disk_total),
        gpu=shapes.Amount(used=under.gpu_used, total=under.gpu_total),
        memory=shapes.Amount(used=memory[0] if memory else None, total=memory[1] if memory else None),
        trainer_bytes=under.trainer_bytes, restarts=told.restarts, hours=_hours(settings, now),
        notify=notify_in_words(settings), last_trouble=_latest(told.troubles), settings=listed,
    )  # fmt: skip


def _seen(
    now: datetime, told: _Told, settings: Settings | None, problem: str | None, under: Hardware, place: str | None,
    row: dict[str, Any] | None, place_problem: str | None,
) -> Seen:  # fmt: skip
    done = told.values.get(DONE)
    at = settings.snapshots.at if settings else ""
    return Seen(
        now=now, status=told.status, settings=settings, problem=problem, disk_free=under.disk_free,
        checkpoint_bytes=told.checkpoint_bytes, due=due.comes(now, at, None if done is None else due.from_row(done)),
        place=place, place_problem=place_problem, copied_at=(row or {}).get("copied_at"),
        copy_waits=bool((row or {}).get("pending")), rejected=told.rejected, accidents=told.troubles["accident"],
        restarts=told.restarts, gpu_bytes=under.gpu_total,
        gpu_expected=shutil.which("nvidia-smi") is not None or "cuda" in (settings.model.device if settings else ""),
    )  # fmt: skip


def _told(layout: Layout, ledger: Ledger) -> _Told:
    troubles = {kind: ledger.events.of_kind(kind, EVENTS) for kind in TROUBLE}
    started = ledger.events.of_kind("started", 1)
    since = started[0].id if started else 0
    restarts = sum(
        row.id > since and row.fields.get("child") == "trainer" and row.fields.get("then") == "restart"
        for row in troubles["accident"]
    )
    return _Told(
        status_of(layout, ledger, waiting_of(ledger)), ledger.machine.several((DONE, second.ROW)),
        ledger.checkpoints.newest_bytes(), ledger.events.of_kind("file-rejected", EVENTS), troubles, restarts,
        night.newest_time(layout, ledger),
    )  # fmt: skip


def _standing(layout: Layout, ledger: Ledger) -> tuple[list[shapes.Setting], str | None]:
    """The settings for people, and what is wrong with the file."""
    try:
        found = standing_of(layout, ledger)
    except SettingsError as error:
        return [], str(error)
    return [setting_of(one) for one in found.settings], found.problem


def setting_of(one: Setting) -> shapes.Setting:
    """A setting as the page gets it: of a secret only whether it is set."""
    effect = WHEN[one.kind]
    if one.differs:
        effect += f"; until then {one.by} goes by {_plain(one.name, one.in_force)}"
    return shapes.Setting(name=one.name, value=_plain(one.name, one.value), source=one.source, effect=effect)


def _plain(name: str, value: Any) -> str:
    return without_passwords(shown(masked(name, value)))


_probes: WeakKeyDictionary[Services, hardware.Probe] = WeakKeyDictionary()


def _probe(services: Services) -> hardware.Probe:
    """It remembers what the GPU's tool said last: that is asked seldom."""
    if services not in _probes:
        _probes[services] = hardware.Probe(services.layout)
    return _probes[services]


async def _place_problem(services: Services, place: str | None, row: dict[str, Any] | None) -> str | None:
    return await place_problem(services, place, row) if place else None


def _checked(layout: Layout, settings: Settings | None, now: datetime, told: _Told) -> list[shapes.Finding]:
    """The doctor's checks that take no time."""
    found = [*checkup.permissions(layout), *night.clock(now, night.zone_name(), night.local_offset, told.newest)]
    if settings is not None:
        found += [*around.secrets(layout, settings), around.open_hours(settings, now)]
    judged = [*map(findings.of_doctor, found), *findings.notifications(settings)]
    return [*judged, findings.finding("not looked at here", "good", MORE)]


def _hours(settings: Settings | None, now: datetime) -> str:
    return "not known: the settings cannot be read" if settings is None else around.open_hours(settings, now).found


def notify_in_words(settings: Settings | None) -> str:
    """What is told, and where it goes, a clause without a full stop. Addresses without what is secret in them."""
    if settings is None:
        return "not known: the settings cannot be read"
    notify = settings.notify
    names = [without_passwords(one.name) for one in targets_of(notify)]
    if not names:
        return "nobody is told: neither notify.urls nor notify.webhook is set"
    what = [NOTICES[kind] + (f" at {notify.morning}" if kind == "morning" else "") for kind in notify.on]
    if not what:
        return "nothing is told: notify.on is empty"
    return f"{_listed(what)} go to {_listed(names)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _latest(troubles: dict[str, list[EventRow]]) -> list[shapes.Event]:
    every = (row for rows in troubles.values() for row in rows)
    return [event_of(row) for row in heapq.nlargest(TOLD, every, key=lambda row: row.id)]


async def health(call: Call) -> shapes.Health:
    """GET /api/health."""
    return await health_of(call.services)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/api/health", "What the machine stands on", health, shapes.Health, tag="health"),
)
