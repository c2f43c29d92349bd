"""What is good, to be watched, or in trouble: pure judgements on what was read, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from nightschool import checkup
from nightschool.checkup import around
from nightschool.checkup.finding import Finding as Checked
from nightschool.dashboard.shapes import Finding
from nightschool.hours import in_words
from nightschool.ledger import EventRow
from nightschool.room import GB, room_needed
from nightschool.settings import Settings
from nightschool.status import Status
from nightschool.words import duration, in_bytes

LATELY = timedelta(hours=24)
LATE, VERY_LATE = timedelta(hours=1), timedelta(hours=26)
"""A snapshot that is due for so long: watched, and trouble."""
SAVES = 4
"""A checkpoint that is older than so many of checkpoints.save_minutes is watched while it trains."""
VERDICTS = {"good": "good", "note": "watch", "bad": "trouble"}
NEEDS_DISK, NEEDS_OWNER = "waiting for disk", "failed"
WORKING = ("training", "saving")


@dataclass(frozen=True)
class Seen:
    """What the findings are made from.

    Attributes:
        now: an aware local time.
        status: what the machine does.
        settings: those that count; None where the file cannot be used.
        problem: what is wrong with the settings file.
        disk_free: bytes.
        checkpoint_bytes: size of the newest checkpoint.
        due: when the next snapshot is due, or was; None where none is taken.
        place, place_problem: the second place, and why nothing can be copied there.
        copied_at, copy_waits: when it was last brought up to date, and whether it is to be.
        rejected, accidents: the latest events of these kinds, oldest first.
        restarts: of the trainer since the machine was started.
        gpu_bytes: memory of the GPU; None without one.
        gpu_expected: whether one is named in the settings, or the tool that asks for it is there.
    """

    now: datetime
    status: Status
    settings: Settings | None
    problem: str | None
    disk_free: int | None
    checkpoint_bytes: int | None
    due: datetime | None
    place: str | None
    place_problem: str | None
    copied_at: str | None
    copy_waits: bool
    rejected: Sequence[EventRow]
    accidents: Sequence[EventRow]
    restarts: int
    gpu_bytes: int | None
    gpu_expected: bool = False


def findings(seen: Seen) -> list[Finding]:
    """All findings, in the order in which a person would ask."""
    return [
        machine(seen),
        *_settings(seen),
        *disk(seen),
        *checkpoint(seen),
        *snapshot(seen),
        *second_place(seen),
        *rejected(seen),
        *accidents(seen),
        gpu(seen),
    ]


def notifications(settings: Settings | None) -> Iterator[Finding]:
    """Whether somebody is told of trouble: as the doctor has it, but that nobody chose to be told is no warning. It
    would stand here for ever, and what always warns is not read."""
    if settings is None:
        return
    judged = of_doctor(around.notifications(settings))
    unset = not settings.notify.urls and not settings.notify.webhook
    yield msgspec.structs.replace(judged, verdict="good") if unset else judged


def of_doctor(one: Checked) -> Finding:
    """A finding of the doctor's, in the page's words."""
    return finding(one.what, VERDICTS[one.verdict], one.found, one.advice or None)


def finding(name: str, verdict: str, text: str, advice: str | None = None) -> Finding:
    """A finding; `verdict` is good, watch or trouble."""
    return Finding(name=name, verdict=verdict, text=text, advice=advice)  # type: ignore[arg-type]  # one of the three


def machine(seen: Seen) -> Finding:
    """Whether it runs, and works."""
    status = seen.status
    since = f" since {_when(status.since, seen.now)}" if status.since else ""
    reason = f": {status.reason.rstrip('.')}" if status.reason else ""
    if status.state == NEEDS_OWNER:
        return finding(
            "machine", "trouble", f"it gave up{since}{reason}",
            "Put that right, then let it go on: `nightschool resume`, or `nightschool run` where it does not run.",
        )  # fmt: skip
    if status.pid is None:
        text = f"it has not run{since}" if since else "it does not run"
        return finding("machine", "watch", text, "To start it: `nightschool run`")
    if status.state == NEEDS_DISK:
        return finding("machine", "trouble", f"{status.state}{since}{reason}", "Free some space; it goes on by itself.")
    if status.state in ("waiting", "restarting", "waiting for GPU"):
        return finding("machine", "watch", f"{status.state}{since}{reason}", "It goes on by itself when it can.")
    if status.paused:
        return finding("machine", "good", f"paused{since}{reason}", "To go on: `nightschool resume`")
    return finding("machine", "good", f"{status.state}{since}{reason}")


def _settings(seen: Seen) -> Iterator[Finding]:
    if seen.problem is None:
        yield finding("settings", "good", "nightschool.toml is well-formed")
    elif seen.status.pid is not None:
        yield finding(
            "settings", "watch", f"the file is not taken as it is now: {seen.problem.rstrip('.')}",
            "Put it right; until then the machine goes by the settings it had.",
        )  # fmt: skip
    else:
        yield finding("settings", "trouble", seen.problem.rstrip("."), "Put it right: until then nothing is started.")


def disk(seen: Seen) -> Iterator[Finding]:
    """Whether there is room for the next checkpoint."""
    if seen.disk_free is None:
        yield finding("disk", "trouble", "the disk of the workspace cannot be asked how much is free")
        return
    kept = seen.settings.machine.min_free_gb if seen.settings else 1.0
    needed = room_needed(seen.checkpoint_bytes, int(kept * GB))
    text = f"{in_bytes(seen.disk_free)} free; {in_bytes(needed)} are needed for the next checkpoint and beside it"
    if seen.disk_free < needed:
        yield finding("disk", "trouble", text, "Free some space: until then training waits.")
    elif seen.disk_free < needed + checkup.LITTLE_ROOM:
        yield finding("disk", "watch", text, "It will be full soon: archive and prepared files grow too.")
    else:
        yield finding("disk", "good", text)


def checkpoint(seen: Seen) -> Iterator[Finding]:
    """How much would be lost if the power failed now."""
    last = seen.status.last_checkpoint
    if last is None:
        yield finding("checkpoint", "good", "none yet: the first is saved while the first file is trained")
        return
    age = seen.now - datetime.fromisoformat(last["written_at"])
    text = f"step {last['step']:,} was saved {_ago(age)}"
    minutes = seen.settings.checkpoints.save_minutes if seen.settings else 15.0
    if seen.status.state in WORKING and last["step"] < seen.status.step and age > timedelta(minutes=SAVES * minutes):
        yield finding(
            "checkpoint", "watch", f"{text}, and it has trained since then",
            f"One is saved every {minutes:g} minutes (checkpoints.save_minutes), so the log should say why not.",
        )  # fmt: skip
    else:
        yield finding("checkpoint", "good", text)


def snapshot(seen: Seen) -> Iterator[Finding]:
    """Whether the snapshots of the nights are taken."""
    last = seen.status.last_snapshot
    text = "none was taken yet"
    if last is not None:
        age = seen.now - datetime.fromisoformat(last["taken_at"])
        text = f"{last['name']} (step {last['step']:,}) was taken {_ago(age)}"
    if seen.due is None:
        yield finding(
            "snapshot", "watch", f"{text}, and none is taken by itself: snapshots.at is empty",
            'Set `snapshots.at = "03:00"`, or take one now and then: `nightschool snapshot`',
        )  # fmt: skip
        return
    late = seen.now - seen.due
    if late <= LATE or not seen.status.step:
        following = (
            "one is due now" if late > timedelta() else f"the next is due {_spoken(in_words(seen.due, seen.now))}"
        )
        yield finding("snapshot", "good", f"{text}; {following}")
    else:
        advice = "The log says why." if seen.status.pid is not None else "The machine takes it when it runs again."
        verdict = "trouble" if late > VERY_LATE else "watch"
        yield finding("snapshot", verdict, f"{text}; one has been due for {duration(late.total_seconds())}", advice)


def second_place(seen: Seen) -> Iterator[Finding]:
    """Whether there is a copy on another disk."""
    if not seen.place:
        return
    if seen.place_problem:
        advice = "Until then there is no new second copy of what it has learned."
        yield finding("second place", "trouble", seen.place_problem, advice)
        return
    if seen.copied_at is None:
        yield finding(
            "second place", "watch", f"nothing was copied to {seen.place} yet", "The next snapshot brings it."
        )
        return
    age = seen.now - datetime.fromisoformat(seen.copied_at)
    behind = seen.copy_waits and age > VERY_LATE
    text = f"{seen.place} was brought up to date {_ago(age)}{', and is behind' if seen.copy_waits else ''}"
    yield finding("second place", "watch" if behind else "good", text, "The log says why." if behind else None)


def rejected(seen: Seen) -> Iterator[Finding]:
    """Files that came lately and could not be used."""
    lately = _lately(seen.rejected, seen.now)
    if lately:
        files = "1 file was" if len(lately) == 1 else f"{len(lately):,} files were"
        text = f"{files} rejected in the last 24 hours, the last: {lately[-1].text.rstrip('.')}"
        yield finding("rejected files", "watch", text, "Each lies in rejected/, beside a text that says why.")
    else:
        yield finding("rejected files", "good", "none in the last 24 hours")


def accidents(seen: Seen) -> Iterator[Finding]:
    """What ended by itself lately."""
    lately = _lately(seen.accidents, seen.now)
    restarts = "" if not seen.restarts else f"; the trainer was started again {_times(seen.restarts)} since the start"
    if lately:
        text = f"{len(lately):,} in the last 24 hours, the last: {lately[-1].text.rstrip('.')}{restarts}"
        yield finding("accidents", "watch", text, "Nothing learned is lost: it goes on from the last checkpoint.")
    else:
        yield finding("accidents", "good", f"none in the last 24 hours{restarts}")


def gpu(seen: Seen) -> Finding:
    """What it computes on."""
    if seen.gpu_bytes is None:
        if seen.gpu_expected:
            return finding("GPU", "watch", "it does not answer", "`nightschool doctor` says more.")
        # A computer that never had one is not to be told so every day.
        return finding("GPU", "good", "none found; training works on the CPU, slowly")
    return finding("GPU", "good", f"NVIDIA, {in_bytes(seen.gpu_bytes)}")


def _lately(events: Sequence[EventRow], now: datetime) -> list[EventRow]:
    return [event for event in events if now - datetime.fromisoformat(event.at) <= LATELY]


def _ago(age: timedelta) -> str:
    # A clock that was set back makes ages below nothing.
    return "just now" if age < timedelta(seconds=5) else f"{duration(age.total_seconds())} ago"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _when(at: str, now: datetime) -> str:
    moment = datetime.fromisoformat(at).astimezone(now.tzinfo or UTC)
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"


def _spoken(when: str) -> str:
    return f"at {when}" if when[0].isdigit() and len(when) == 5 else when
