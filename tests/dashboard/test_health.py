"""What the machine stands on, judged and told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.checkup import around
from nightschool.dashboard import findings, health, shapes
from nightschool.dashboard.findings import Seen
from nightschool.dashboard.services import Services
from nightschool.ledger import EventRow, Ledger
from nightschool.ledger.machine import SETTINGS_PROBLEM
from nightschool.settings import parse_settings
from nightschool.status import read_status
from nightschool.workspace import Layout
from tests.dashboard.looking import ask, services_of
from tests.snapshots import made

EAST = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 24, 22, 0, tzinfo=EAST)
PASSWORD = "hunter2-geheim"
GB = 1_000_000_000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = made.workspace(tmp_path / "ws", steps=35)
    made.checkpoint(found, 30)
    return found


@pytest.fixture
def services(layout: Layout) -> Iterator[Services]:
    with services_of(layout) as found:
        yield found


@pytest.fixture
def running(layout: Layout) -> Iterator[None]:
    """The machine runs, so far as others can tell."""
    lock = durable.Lock(layout.supervisor_lock, "a nightschool run")
    lock.acquire()
    yield
    lock.release()


def look(services: Services) -> dict[str, Any]:
    return ask(services, health.ENDPOINTS, "/api/health")


def named(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [one for one in found["findings"] if one["name"] == name]
    return one


# --- judging -----------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(layout: Layout) -> Seen:
    """A machine that trains and wants for nothing."""
    status = replace(
        read_status(layout), state="training", pid=7, step=35, reason="", since="2026-11-24T19:00:00.000+00:00",
        last_checkpoint={"step": 30, "path": "p", "written_at": "2026-11-24T19:50:00.000+00:00"},
        last_snapshot={"name": "2026-11-24", "step": 30, "path": "p", "taken_at": "2026-11-24T01:00:00+00:00"},
    )  # fmt: skip
    return Seen(
        now=NOW, status=status, settings=parse_settings({"model": {"name": "base"}}, "x"), problem=None,
        disk_free=100 * GB, checkpoint_bytes=GB, due=datetime(2026, 11, 25, 3, 0, tzinfo=EAST), place=None,
        place_problem=None, copied_at=None, copy_waits=False, rejected=[], accidents=[], restarts=0,
        gpu_bytes=24 * GB,
    )  # fmt: skip


def judged(seen: Seen, name: str) -> shapes.Finding:
    (one,) = [one for one in findings.findings(seen) if one.name == name]
    return one


def test_a_machine_that_wants_for_nothing_is_good_throughout(seen: Seen) -> None:
    found = findings.findings(seen)
    assert {one.verdict for one in found} == {"good"}
    assert judged(seen, "machine").text == "training since 21:00"
    assert judged(seen, "checkpoint").text == "step 30 was saved 10 min ago"
    assert judged(seen, "snapshot").text.endswith("; the next is due tomorrow at 03:00")
    assert "second place" not in {one.name for one in found}


@pytest.mark.parametrize(
    ("state", "pid", "verdict", "advice"),
    [
        ("failed", None, "trouble", "nightschool resume"),
        ("failed", 7, "trouble", "nightschool resume"),
        ("stopped", None, "watch", "nightschool run"),
        ("waiting for disk", 7, "trouble", "Free some space"),
        ("waiting", 7, "watch", "by itself"),
        ("restarting", 7, "watch", "by itself"),
        ("waiting for GPU", 7, "watch", "by itself"),
        ("outside hours", 7, "good", None),
    ],
)
def test_states_of_the_machine(seen: Seen, state: str, pid: int | None, verdict: str, advice: str | None) -> None:
    seen = replace(seen, status=replace(seen.status, state=state, pid=pid, reason="it says why."))
    found = judged(seen, "machine")
    assert (found.verdict, advice is None) == (verdict, found.advice is None)
    assert advice is None or (found.advice is not None and advice in found.advice)
    assert pid is None or found.text == f"{'it gave up' if state == 'failed' else state} since 21:00: it says why"


def test_a_pause_is_no_trouble_and_says_how_it_ends(seen: Seen) -> None:
    found = judged(replace(seen, status=replace(seen.status, state="paused", paused=True)), "machine")
    assert (found.verdict, found.advice) == ("good", "To go on: `nightschool resume`")


@pytest.mark.parametrize(
    ("free", "verdict"), [(2 * GB, "watch"), (2 * GB - 1, "trouble"), (4 * GB - 1, "watch"), (4 * GB, "good")]
)
def test_room_is_judged_by_the_next_checkpoint(seen: Seen, free: int, verdict: str) -> None:
    assert judged(replace(seen, disk_free=free), "disk").verdict == verdict


def test_a_disk_that_cannot_be_asked_is_trouble(seen: Seen) -> None:
    assert judged(replace(seen, disk_free=None), "disk").verdict == "trouble"


def test_a_checkpoint_that_is_overdue_while_it_trains_is_watched(seen: Seen) -> None:
    old = {"step": 30, "path": "p", "written_at": "2026-11-24T18:59:00.000+00:00"}
    late = replace(seen, status=replace(seen.status, last_checkpoint=old))
    assert judged(late, "checkpoint").verdict == "watch"
    for status in (replace(late.status, state="idle"), replace(late.status, step=30)):
        assert judged(replace(late, status=status), "checkpoint").verdict == "good"
    assert judged(replace(seen, status=replace(seen.status, last_checkpoint=None)), "checkpoint").verdict == "good"


@pytest.mark.parametrize(
    ("hours_late", "verdict"), [(-1, "good"), (0.5, "good"), (2, "watch"), (26, "watch"), (27, "trouble")]
)
def test_a_snapshot_that_is_late_is_watched_and_then_trouble(seen: Seen, hours_late: float, verdict: str) -> None:
    due = NOW - timedelta(hours=hours_late)
    assert judged(replace(seen, due=due), "snapshot").verdict == verdict
    # Before anything was learned there is nothing to take one of.
    assert judged(replace(seen, due=due, status=replace(seen.status, step=0)), "snapshot").verdict == "good"


def test_no_snapshots_by_themselves_are_watched(seen: Seen) -> None:
    assert "snapshots.at is empty" in judged(replace(seen, due=None), "snapshot").text


def test_the_second_place_is_told_where_there_is_one(seen: Seen) -> None:
    there = replace(seen, place="/mnt/disk", copied_at="2026-11-24T01:00:00+00:00")
    assert judged(there, "second place").verdict == "good"
    assert judged(replace(there, copy_waits=True), "second place").verdict == "good"
    old = replace(there, copied_at="2026-11-20T01:00:00+00:00")
    assert judged(old, "second place").verdict == "good", "nothing was learned since"
    assert judged(replace(old, copy_waits=True), "second place").verdict == "watch"
    assert judged(replace(there, copied_at=None), "second place").verdict == "watch"
    assert judged(replace(there, place_problem="it is not there"), "second place").verdict == "trouble"


def event(id: int, hours_ago: float, text: str, **fields: Any) -> EventRow:
    at = (NOW - timedelta(hours=hours_ago)).astimezone(UTC).isoformat(timespec="milliseconds")
    return EventRow(id, at, "accident", text, fields)


def test_rejected_files_and_accidents_count_for_a_day(seen: Seen) -> None:
    events = [event(1, 25, "old"), event(2, 23, "a.jsonl: no row"), event(3, 1, "<b>.jsonl: no row.")]
    lately = replace(seen, rejected=events, accidents=events, restarts=2)
    assert (
        judged(lately, "rejected files").text
        == "2 files were rejected in the last 24 hours, the last: <b>.jsonl: no row"
    )
    assert judged(lately, "accidents").text == (
        "2 in the last 24 hours, the last: <b>.jsonl: no row; the trainer was started again 2 times since the start"
    )
    assert judged(lately, "accidents").verdict == judged(lately, "rejected files").verdict == "watch"
    old = replace(seen, rejected=events[:1], accidents=events[:1], restarts=1)
    assert judged(old, "accidents").text.endswith(
        "none in the last 24 hours; the trainer was started again once since the start"
    )
    assert judged(old, "accidents").verdict == judged(old, "rejected files").verdict == "good"


def test_without_a_gpu_it_says_so(seen: Seen) -> None:
    assert judged(seen, "GPU").text == "NVIDIA, 24 GB"
    none = replace(seen, gpu_bytes=None)
    assert judged(none, "GPU").verdict == "good", "a computer that never had one is not warned every day"
    assert judged(replace(none, gpu_expected=True), "GPU").verdict == "watch"


def test_what_is_to_be_typed_is_code_and_a_stop_is_told_in_the_right_tense(seen: Seen) -> None:
    found = judged(replace(seen, status=replace(seen.status, state="stopped", pid=None)), "machine")
    assert (found.text, found.advice) == ("it has not run since 21:00", "To start it: `nightschool run`")


def test_a_settings_file_with_a_mistake_is_worse_before_the_start(seen: Seen) -> None:
    wrong = replace(seen, problem="nightschool.toml: no.")
    assert judged(wrong, "settings").verdict == "watch"
    assert judged(replace(wrong, status=replace(seen.status, pid=None)), "settings").verdict == "trouble"


# --- reading -----------------------------------------------------------------------------------------------------


def test_a_workspace_that_rests_is_told_as_it_is(services: Services) -> None:
    found = look(services)
    assert named(found, "machine")["verdict"] == "watch"
    assert named(found, "permissions")["verdict"] == "good"
    assert {"settings", "disk", "checkpoint", "snapshot", "clock", "notifications", "hours"} <= {
        one["name"] for one in found["findings"]
    }
    assert 0 < found["disk"]["used"] < found["disk"]["total"]
    assert 0 < found["memory"]["used"] < found["memory"]["total"]
    assert (found["trainer_bytes"], found["restarts"], found["last_trouble"]) == (None, 0, [])
    assert "nightschool doctor" in found["findings"][-1]["text"], "what is not looked at here is named"


@pytest.mark.usefixtures("running")
def test_a_running_machine_is_told_with_its_state(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set(
            "state", {"word": "waiting for disk", "reason": "it is full", "since": "2026-11-24T19:00:00+00:00"}
        )
        ledger.machine.set(SETTINGS_PROBLEM, "nightschool.toml: `training.epochs` is wrong.")
    found = look(services)
    assert named(found, "machine")["verdict"] == "trouble"
    assert "`training.epochs` is wrong" in named(found, "settings")["text"]


def test_accidents_are_told_newest_first_and_restarts_since_the_start(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.events.add("accident", "before the start", child="trainer", then="restart")
        ledger.events.add("started", "Started.", pid=1)
        for number in range(12):
            ledger.events.add("accident", f"<script>{number}</script>", child="trainer", then="restart")
            ledger.events.add("state", "training")
        ledger.events.add("accident", "intake", child="intake", then="restart")
        ledger.events.add("snapshot-failed", "no room", date="2026-11-24")
    found = look(services)
    assert found["restarts"] == 12
    texts = [one["text"] for one in found["last_trouble"]]
    assert texts[:3] == ["no room", "intake", "<script>11</script>"]
    assert len(texts) == health.TOLD
    assert named(found, "accidents")["text"].startswith("14 in the last 24 hours")


def test_passwords_are_nowhere_in_what_is_told(layout: Layout) -> None:
    layout.settings_file.write_text(
        f'{made.TOML}[notify]\nurls = ["mailtos://me:{PASSWORD}@example.org"]\n'
        f'webhook = "https://user:{PASSWORD}@example.org/{PASSWORD}"\non = ["trouble", "morning"]\nmorning = "06:30"\n'
        f'[page]\ntoken = "{PASSWORD}-{PASSWORD}"\n'
    )
    with services_of(layout) as services:
        found = look(services)
    assert PASSWORD not in str(found)
    assert found["notify"].startswith("trouble and the night's summary at 06:30 go to notify.urls")
    told = {one["name"]: one["value"] for one in found["settings"]}
    assert {told[name] for name in ("notify.urls", "notify.webhook", "page.token")} == {"(set, not shown)"}


def test_control_a_secret_that_is_not_known_as_one_is_found(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.settings_file.write_text(f'{made.TOML}[page]\ntoken = "{PASSWORD}-{PASSWORD}"\n')
    monkeypatch.setattr(health, "masked", lambda name, value: value)
    with services_of(layout) as services:
        assert PASSWORD in str(look(services))


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", "nobody is told: neither notify.urls nor notify.webhook is set"),
        ('[notify]\nwebhook = "https://x.org/y"\non = []', "nothing is told: notify.on is empty"),
        ('[notify]\nwebhook = "https://x.org/y"\non = ["learned"]',
         "files that were learned go to notify.webhook (https://x.org/...)"),
    ],
)  # fmt: skip
def test_who_is_told_what_is_said_in_words(layout: Layout, toml: str, expected: str) -> None:
    layout.settings_file.write_text(made.TOML + toml)
    with services_of(layout) as services:
        assert look(services)["notify"] == expected


def test_hours_are_said_in_words(layout: Layout, services: Services) -> None:
    layout.settings_file.write_text(made.TOML + '[machine]\nhours = "22:00-07:00"\n')
    found = asyncio.run(health.health_of(services, datetime(2026, 11, 24, 21, 0, tzinfo=EAST)))
    assert found.hours == "22:00-07:00: training begins at 22:00"


def test_settings_are_told_with_their_source_and_when_a_change_counts(layout: Layout, services: Services) -> None:
    layout.settings_file.write_text(made.TOML + '[training]\nlearning_rate = 0.5\n[snapshots]\nat = "04:00"\n')
    told = {one["name"]: one for one in look(services)["settings"]}
    assert told["snapshots.at"] == {
        "name": "snapshots.at", "value": "04:00", "source": "nightschool.toml", "effect": "now",
    }  # fmt: skip
    assert told["model.name"]["effect"] == "new run"
    assert told["training.epochs"]["source"] == "default"
    assert told["training.learning_rate"]["effect"] == "next file; until then the file in training goes by 0.001"


def test_a_settings_file_that_cannot_be_read_is_a_finding_and_no_failure(layout: Layout, services: Services) -> None:
    layout.settings_file.write_text("[training]\nlearningrate = 1\n")
    found = look(services)
    assert named(found, "settings")["verdict"] == "trouble"
    assert found["settings"] == []
    assert found["hours"] == found["notify"] == "not known: the settings cannot be read"


def test_a_settings_file_that_is_changed_while_it_is_looked_at_is_no_failure(
    layout: Layout, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it is looked at, it is another one the next time, as when somebody saves it half written."""
    real, good = Path.read_text, layout.settings_file.read_text()

    def changed(path: Path, *arguments: Any, **more: Any) -> str:
        text = real(path, *arguments, **more)
        if path == layout.settings_file:
            path.write_text("[training\n" if text == good else good)
        return text

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", changed)
        for _ in range(4):
            # What is told of one look is of one file: all of it, or that it cannot be used.
            with Ledger.open(layout.ledger) as ledger:
                listed, problem = health._standing(layout, ledger)
            assert bool(listed) != bool(problem)
            look(services)
    assert named(look(services), "settings")["verdict"] == "good"


def test_a_settings_file_that_may_not_be_read_is_a_finding_and_no_failure(
    layout: Layout, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_text

    def closed(path: Path, *arguments: Any, **more: Any) -> str:
        if path == layout.settings_file:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", closed)
    assert "cannot be read: Permission denied" in named(look(services), "settings")["text"]


@pytest.mark.parametrize(
    ("toml", "verdict"),
    [("", "good"), ('[notify]\nwebhook = "https://x.org/y"\n', "good"),
     ('[notify]\nwebhook = "https://x.org/y"\non = ["learned"]\n', "watch")],
)  # fmt: skip
def test_that_nobody_chose_to_be_told_is_no_warning(layout: Layout, toml: str, verdict: str) -> None:
    layout.settings_file.write_text(made.TOML + toml)
    with services_of(layout) as services:
        found = named(look(services), "notifications")
    assert found["verdict"] == verdict
    assert toml or "nobody is told" in found["text"]


def test_that_others_can_read_the_token_is_worth_a_look(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "_on_the_way", lambda path: [])
    layout.settings_file.write_text(f'{made.TOML}[page]\ntoken = "{PASSWORD}-{PASSWORD}"\n')
    for mode, verdict in ((0o644, "watch"), (0o600, "good")):
        layout.settings_file.chmod(mode)
        with services_of(layout) as services:
            assert named(look(services), "secrets")["verdict"] == verdict


def test_nothing_that_takes_long_is_asked(services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No program is started but the GPU's, and that seldom; the base model and the prepared data are not looked at."""
    import subprocess

    from nightschool import basemodel, checkup

    started: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda command, *_, **__: started.append(command))
    monkeypatch.setenv("PATH", str(tmp_path))
    for module, name in ((basemodel, "resolve"), (checkup, "size_below"), (checkup, "ledger"), (checkup, "machine")):
        monkeypatch.setattr(module, name, lambda *_, name=name: pytest.fail(f"{name} takes too long"))
    look(services)
    look(services)
    assert started == []
