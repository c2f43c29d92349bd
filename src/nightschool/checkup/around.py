"""What stands around the machine: what starts it, who is told, who can read its secrets, who else is on the GPU."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from nightschool import gpus, hours
from nightschool.checkup.finding import Finding
from nightschool.errors import NightschoolError
from nightschool.service import manager
from nightschool.settings import Settings
from nightschool.settings.changes import SECRETS, each
from nightschool.workspace import Layout

INSTALL = "nightschool service install"


def service(layout: Layout, settings: Settings) -> Finding:
    """Whether the machine is started by itself after the power was away."""
    try:
        units = manager.installed(layout, settings)
        seen = [manager.look(unit) for unit in units]
        if not seen:
            refused = manager.why_not(manager.default_scope())
            if refused is not None:
                advice = "After a power cut `nightschool run` has to be started by hand, or by what you have instead."
                return Finding("service", "note", refused, advice)
            return Finding(
                "service",
                "note",
                "not installed: after a power cut nobody starts the machine again",
                f"{INSTALL} --now",
            )
    except (NightschoolError, OSError) as error:
        return Finding("service", "note", f"cannot be looked at: {error}")
    return judge(seen[0])


def judge(seen: manager.Seen) -> Finding:
    """What a unit that is installed is worth."""
    if seen.why_not is not None:
        return Finding("service", "note", f"{seen.name} is installed, but {seen.why_not}")
    flag = " --user" if seen.scope == "user" else ""
    if seen.active == "failed":
        return Finding(
            "service", "bad", f"{seen.name} has failed ({seen.details.get('Result', '')})",
            f"nightschool status says why; then: systemctl{flag} restart {seen.name}",
        )  # fmt: skip
    if not seen.enabled:
        return Finding("service", "bad", f"{seen.name} is installed, but not started at boot", INSTALL)
    if not seen.current:
        return Finding("service", "note", f"{seen.name} is not what would be written today", INSTALL)
    if seen.linger is False:
        return Finding(
            "service",
            "note",
            f"{seen.name} runs only while you are logged in",
            "To change that: loginctl enable-linger",
        )
    return Finding("service", "good", f"{seen.name} is enabled, and {seen.active or 'its state is not known'}")


def notifications(settings: Settings) -> Finding:
    """Whether somebody is told in time of trouble."""
    notify = settings.notify
    if not notify.urls and not notify.webhook:
        return Finding(
            "notifications", "note", "nobody is told when the machine needs its owner",
            "Set notify.urls or notify.webhook, and try it: nightschool notify --test",
        )  # fmt: skip
    if notify.urls and find_spec("apprise") is None:
        return Finding(
            "notifications",
            "bad",
            "notify.urls needs apprise, which is not installed",
            "pip install 'nightschool[notify]'",
        )
    where = len(notify.urls) + bool(notify.webhook)
    quiet = "" if "trouble" in notify.on else "; trouble is not among what is told (notify.on)"
    found = f"{where} address{'' if where == 1 else 'es'}{quiet}"
    return Finding("notifications", "note" if quiet else "good", found, "To try it: nightschool notify --test")


def secrets(layout: Layout, settings: Settings) -> Iterator[Finding]:
    """Whether others on this computer can read what is secret in the settings. Nothing where nothing is."""
    names = [name for name, _, value in each(settings) if name in SECRETS and value]
    if not names:
        return
    named = " and ".join(names)
    # The copy that the machine goes by is as private as the file was when it was made.
    copies = [path for path in (layout.settings_file, layout.accepted_settings) if others_can_read(path)]
    if not copies:
        yield Finding("secrets", "good", f"others on this computer cannot read {named} in {layout.settings_file.name}")
        return
    where = " and ".join(str(path.relative_to(layout.root)) for path in copies)
    advice = f"To keep it from them: `chmod 600 {shlex.join(map(str, copies))}`"
    if "page.token" in names:
        advice += ". Who has the token can use the page: if somebody may have read it, choose another one."
    yield Finding("secrets", "note", f"others on this computer can read {named} in {where}", advice)


def others_can_read(path: Path) -> bool:
    """Whether others than the owner and root can, by the rights of a file and of the folders on the way to it."""
    try:
        found, folders = path.stat(), [folder.stat() for folder in _on_the_way(path)]
    except OSError:
        return False
    group = found.st_mode & stat.S_IRGRP and all(
        folder.st_mode & (stat.S_IXGRP if folder.st_gid == found.st_gid else stat.S_IXOTH) for folder in folders
    )
    anybody = found.st_mode & stat.S_IROTH and all(folder.st_mode & stat.S_IXOTH for folder in folders)
    return bool(group or anybody)


def _on_the_way(path: Path) -> Iterable[Path]:
    return path.resolve().parents


def open_hours(settings: Settings, now: datetime) -> Finding:
    """When it may train, and what that means at `now`, an aware local time."""
    text = settings.machine.hours
    if not text:
        return Finding("hours", "good", "at any hour (machine.hours is empty)")
    return Finding("hours", "good", f"{text}: {hours.open_at(now, hours.parse(text)).why}")


def others_on_gpu(ours: Collection[int]) -> Iterator[Finding]:
    """Who else computes on a GPU. To be asked only where there is one; `ours` are this workspace's processes."""
    others = [one for one in gpus.programs() if one.pid not in ours]
    if not others:
        yield Finding("gpu users", "good", "no other program computes on it")
        return
    names = ", ".join(f"{one.name} (process {one.pid})" for one in others[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    yield Finding(
        "gpu users", "note", f"on it now: {names}{more}",
        "End them before the night, or name them in machine.yield_to, if training is to wait for them.",
    )  # fmt: skip
