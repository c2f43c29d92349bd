"""What the doctor looks at before the night, each with the clock and the machine passed in."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from nightschool import checkup, durable, gpus, inforce
from nightschool.checkup import around, night, rehearsing, sizes
from nightschool.forecast import Rates, Work
from nightschool.ledger import Ledger
from nightschool.service.manager import Seen
from nightschool.settings import Settings, load_settings
from nightschool.workspace import Layout
from tests.cli.conftest import Run
from tests.cli.conftest import cli as cli
from tests.cli.conftest import here as here
from tests.cli.conftest import layout as layout
from tests.cli.conftest import model as model

HELSINKI = ZoneInfo("Europe/Helsinki")
RESULT: dict[str, Any] = {
    "began_with": "checkpoint-5", "device": "cuda:0", "memory_peak": 10**10, "memory_total": 24 * 10**9, "batch": 8,
    "max_length": 2048, "micro_batch_size": 4, "micro_batch_asked": 4, "seconds_step": 2.0, "seconds_save": 1.0,
    "seconds_load": 0.5, "tokens_per_second": 8192.0, "checkpoint_bytes": 10**8,
}  # fmt: skip


def offset(moment: datetime) -> timedelta:
    return moment.astimezone(HELSINKI).utcoffset() or timedelta()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=HELSINKI)


@pytest.fixture
def settings(layout: Layout) -> Settings:
    return load_settings(layout.settings_file)


def with_(settings: Settings, section: str, **values: Any) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**15, 0, size))


@pytest.mark.parametrize(
    ("now", "zone", "newest", "verdict", "words"),
    [
        ("2026-11-25 22:00", "Europe/Helsinki", None, "good", "Europe/Helsinki (UTC+02:00)"),
        ("2026-07-25 22:00", "Europe/Helsinki", None, "good", "(UTC+03:00)"),
        ("1970-01-01 00:10", "Europe/Helsinki", None, "bad", "1970-01-01"),
        ("2026-11-25 22:00", "Europe/Helsinki", "2026-11-25 22:04", "good", ""),
        ("2026-11-25 22:00", "Europe/Helsinki", "2026-11-28 22:00", "bad", "3 days before what was written here last"),
        ("2026-11-25 22:00", None, None, "note", "times are UTC"),
    ],
)
def test_d3_a_clock_that_cannot_be_right_is_found(
    now: str, zone: str | None, newest: str | None, verdict: str, words: str
) -> None:
    (found,) = night.clock(at(now), zone, offset, None if newest is None else at(newest))
    assert (found.what, found.verdict) == ("clock", verdict)
    assert words in found.found


def test_d1_the_night_on_which_the_clocks_change_is_announced_and_no_other() -> None:
    year = [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]
    nights = [day for day in year if night.change(at(f"{day} 22:00"), offset) is not None]
    assert nights == [date(2026, 3, 28), date(2026, 10, 24)]
    assert night.change(at("2026-10-24 22:00"), offset) == datetime(2026, 10, 25, 1, 0, tzinfo=UTC)
    _, found = night.clock(at("2026-03-28 22:00"), "Europe/Helsinki", offset, None)
    assert "from UTC+02:00 to UTC+03:00" in found.found


def test_d2_the_next_snapshot_is_named_by_its_date() -> None:
    done = {date(2026, 11, 24): "", date(2026, 11, 25): ""}
    assert "2026-11-26 at 03:00" in night.next_snapshot(at("2026-11-25 22:00"), "03:00", done).found
    assert "2026-11-26 at 03:00" in night.next_snapshot(at("2026-11-26 01:00"), "03:00", done).found
    late = night.next_snapshot(at("2026-11-26 04:00"), "03:00", done)
    assert (late.verdict, "that of 2026-11-26 is due" in late.found) == ("note", True)
    assert night.next_snapshot(at("2026-11-25 22:00"), "03:00", None).verdict == "good", "never ran: nothing is due"
    assert night.next_snapshot(at("2026-11-25 22:00"), "", done).verdict == "note"


def test_d3_the_newest_time_comes_from_the_ledger_and_the_files(layout: Layout, settings: Settings) -> None:
    with Ledger.open(layout.ledger, clock=lambda: datetime(2031, 1, 1, tzinfo=UTC)) as ledger:
        ledger.events.add("test", "from the future")
    found = {f.what: f for f in night.tonight_clock(layout, settings, datetime.now().astimezone())}
    assert found["clock"].verdict == "bad"
    assert "timedatectl" in found["clock"].advice


@pytest.mark.parametrize(("nights", "verdict"), [(0, "bad"), (6, "bad"), (7, "note"), (33, "note"), (34, "good")])
def test_c5_room_for_the_snapshots_to_come(
    layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch, nights: int, verdict: str
) -> None:
    size = 1000
    needed = checkup.coming_bytes(layout, settings, size)
    assert needed == 4 * size
    free(monkeypatch, needed + nights * size + size // 2)
    (found,) = night.snapshot_room(layout, settings, needed, size)
    assert found.verdict == verdict, found
    assert "up to 34 are kept" in found.found
    for name in ("2026-11-24", "2026-11-25", ".tmp-2026-11-26"):
        (layout.snapshots / name).mkdir()
    (found,) = night.snapshot_room(layout, settings, needed, size)
    assert ("2 there" in found.found, found.verdict) == (True, "good" if nights >= 32 else verdict)


def test_nothing_is_said_of_snapshots_that_are_not_taken(layout: Layout, settings: Settings) -> None:
    assert not [*night.snapshot_room(layout, with_(settings, "snapshots", at=""), 0, 1000)]


def test_an_adapter_is_told_from_the_shapes_of_the_base(layout: Layout, settings: Settings, model: Path) -> None:
    shapes = {"model.embed_tokens.weight": [100, 8], "model.layers.0.q_proj.weight": [8, 8], "lm_head.weight": [100, 8],
              "model.layers.0.up_proj.weight": [32, 8], "model.norm.weight": [8]}  # fmt: skip
    header = json.dumps({n: {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert sizes.adapter_parameters(model, {"r": 4, "target_modules": "all-linear"}) == 4 * (8 + 8 + 32 + 8)
    assert sizes.adapter_parameters(model, {"r": 4, "target_modules": ["q_proj"]}) == 4 * 16
    assert sizes.adapter_parameters(model, {"r": 4, "target_modules": r".*\.up_proj"}) == 4 * 40
    size, told = sizes.checkpoint_bytes(layout, settings)
    assert size == 12 * int(settings.lora_config()["r"]) * 56
    assert "about" in told
    assert sizes.checkpoint_bytes(layout, settings, 77) == (77, "a checkpoint will take 77 B")
    (model / "model.safetensors").write_bytes(b"\xff" * 100)
    assert sizes.checkpoint_bytes(layout, settings) == (0, "no checkpoint yet"), "control: no shapes, no guess"


SEEN = Seen("nightschool-ws-1.service", "user", Path("/u"), True, True, enabled=True, active="active", linger=True)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "good", "enabled, and active"),
        ({"active": "failed", "details": {"Result": "exit-code"}}, "bad", "has failed (exit-code)"),
        ({"enabled": False}, "bad", "not started at boot"),
        ({"current": False}, "note", "not what would be written today"),
        ({"linger": False}, "note", "only while you are logged in"),
        ({"why_not": "there is no systemd"}, "note", "there is no systemd"),
    ],
)
def test_what_a_service_is_worth(change: dict[str, Any], verdict: str, words: str) -> None:
    found = around.judge(replace(SEEN, **change))
    assert (found.verdict, words in found.found) == (verdict, True), found


def test_a_service_that_is_not_there_is_a_note(
    layout: Layout, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around.manager, "installed", lambda *_: [])
    monkeypatch.setattr(around.manager, "why_not", lambda _: None)
    assert "service install" in around.service(layout, settings).advice
    monkeypatch.setattr(around.manager, "why_not", lambda _: "This machine has none.")
    assert "started by hand" in around.service(layout, settings).advice


def test_notifications(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert around.notifications(settings).verdict == "note"
    hook = with_(settings, "notify", webhook="http://x")
    assert around.notifications(hook).verdict == "good"
    assert "notify --test" in around.notifications(hook).advice
    assert around.notifications(with_(hook, "notify", on=["learned"])).verdict == "note"
    for there, verdict in ((None, "bad"), (object(), "good")):
        monkeypatch.setattr(around, "find_spec", lambda _, there=there: there)
        assert around.notifications(with_(settings, "notify", urls=["mailto://x"])).verdict == verdict


TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(
    ("file", "folder", "readable"),
    [(0o600, 0o755, False), (0o640, 0o755, True), (0o604, 0o755, True), (0o644, 0o700, False), (0o644, 0o701, True),
     (0o640, 0o701, False), (0o640, 0o710, True), (0o620, 0o777, False)],
    ids=lambda value: f"{value:o}" if value > 1 else str(value),
)  # fmt: skip
def test_whether_others_can_read_what_is_secret(
    layout: Layout, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: int, folder: int,
    readable: bool,
) -> None:  # fmt: skip
    # Where the tests' own folders lie is no matter of this: only the workspace's is looked at.
    monkeypatch.setattr(around, "_on_the_way", lambda path: [layout.root])
    layout.settings_file.chmod(file)
    layout.root.chmod(folder)
    secret = with_(settings, "page", token=TOKEN)
    (found,) = around.secrets(layout, secret)
    assert found.verdict == ("note" if readable else "good")
    assert "page.token in nightschool.toml" in found.found
    assert (f"chmod 600 {layout.settings_file}" in found.advice) == readable
    assert TOKEN not in str(found)
    # The control: nothing is said where nothing is secret.
    assert [*around.secrets(layout, settings)] == []


def test_the_copy_that_the_machine_goes_by_is_looked_at_too(
    layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around, "_on_the_way", lambda path: [])
    hook = with_(settings, "notify", webhook="http://x")
    inforce.accept(layout, layout.settings_file.read_bytes())
    layout.accepted_settings.chmod(0o644)
    layout.settings_file.chmod(0o600)
    (found,) = around.secrets(layout, hook)
    assert found.verdict == "note"
    assert f"notify.webhook in {layout.accepted_settings.relative_to(layout.root)}" in found.found
    assert "token" not in found.advice
    layout.accepted_settings.chmod(0o600)
    assert [one.verdict for one in around.secrets(layout, hook)] == ["good"]


def test_every_folder_on_the_way_to_a_file_is_looked_at(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    assert [*around._on_the_way(tmp_path / "link" / "x")][:3] == [inner, tmp_path / "a", tmp_path]


def test_the_doctor_says_when_others_can_read_the_token(here: Run, layout: Layout) -> None:
    text = layout.settings_file.read_text()
    assert "secrets" not in {one["what"] for one in here("doctor", "--json").json}
    layout.settings_file.write_text(text.replace("[page]\n", f'[page]\ntoken = "{TOKEN}"\n'))
    layout.settings_file.chmod(0o600)
    (found,) = [one for one in here("doctor", "--json").json if one["what"] == "secrets"]
    assert found["verdict"] == "good"


def test_another_program_on_the_gpu_is_named_and_our_own_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "programs", lambda: [gpus.Program(7, "steam", 1), gpus.Program(8, "python", 1)])
    (found,) = around.others_on_gpu({8})
    assert (found.verdict, "steam (process 7)" in found.found, "python" in found.found) == ("note", True, False)
    (found,) = around.others_on_gpu({7, 8})
    assert found.verdict == "good"


def test_what_the_rehearsal_found_is_told() -> None:
    found = {f.what: f for f in rehearsing.findings(RESULT, "")}
    assert {f.verdict for f in found.values()} == {"good"}
    assert "from checkpoint-5 on cuda:0" in found["rehearsal"].found
    assert "10 GB of 24 GB" in found["memory"].found
    tight = {f.what: f for f in rehearsing.findings({**RESULT, "memory_peak": 23 * 10**9}, "")}
    assert (tight["memory"].verdict, "max_length" in tight["memory"].advice) == ("note", True)
    split = {f.what: f for f in rehearsing.findings({**RESULT, "micro_batch_size": 2}, "")}
    assert (split["memory"].verdict, "micro_batch_size = 2" in split["memory"].advice) == ("note", True)
    (bad,) = rehearsing.findings(None, "Out of memory.")
    assert (bad.verdict, bad.found) == ("bad", "Out of memory.")


def test_the_end_of_the_queue_is_told_by_the_clock_on_the_wall() -> None:
    work, now = Work(1200, 3.5 * 3600, False), at("2026-11-25 22:00")

    def near(hours: str = "", work: Work = work, now: datetime = now) -> str:
        return rehearsing.done_near(work, now, hours).found

    assert near() == "1,200 steps, about 3 h 30 min: done near tomorrow at 01:30"
    assert "done near 22:10" in near(work=Work(1, 600, False))
    hours = "23:00-01:00"
    assert near(hours) == f"1,200 steps, about 3 h 30 min: done near Friday at 00:30 within {hours}"
    assert "no end can be told" in near("mon 03:00-03:01", work=Work(1, 3e8, False))
    assert "no end can be told" in near(work=Work(1, 1e15, False))
    # The hour that comes twice is an hour more of work.
    assert "done near tomorrow at 04:30" in near(work=Work(1, 7.5 * 3600, False), now=at("2026-10-24 22:00"))
    assert "nothing waits" in near(work=Work(0, 0.0, False))
    assert "not known yet" in near(work=Work(3, None, True))


def test_what_lies_in_the_inbox_is_not_called_nothing(layout: Layout, settings: Settings) -> None:
    now = datetime.now(UTC)
    assert "nothing waits" in rehearsing.queue_done(layout, settings, RESULT, now).found
    (layout.inbox / ".hidden").write_text("")
    assert "nothing waits" in rehearsing.queue_done(layout, settings, RESULT, now).found
    (layout.inbox / "high/a.jsonl").write_text("{}")
    found = rehearsing.queue_done(layout, settings, RESULT, now)
    assert (found.verdict, found.found) == ("note", "1 file in inbox/ is not read yet")


def test_the_rehearsals_speed_counts_only_where_nothing_was_measured(settings: Settings) -> None:
    nothing = Rates(None, 1, 0, None, None, {})
    found = rehearsing.with_speed(nothing, settings, RESULT)
    assert (found.batch, found.speed, found.step_seconds) == (settings.training.train_batch_size, 8192.0, 2.0)
    assert rehearsing.with_speed(nothing, settings, None).speed is None
    measured = replace(nothing, speed=5.0, step_seconds=1.0)
    assert rehearsing.with_speed(measured, settings, RESULT).speed == 5.0


def test_the_doctor_rehearses_when_asked_and_says_when_it_did_not(
    here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {f["what"]: f for f in here("doctor", "--json").json}
    assert {*quick} >= {
        "rehearsal", "disk", "snapshots", "clock", "next snapshot", "service", "notifications", "hours", "tonight",
    }  # fmt: skip
    assert {*quick["clock"]} == {"what", "verdict", "found", "advice"}
    assert "doctor --rehearse" in quick["rehearsal"]["advice"]
    monkeypatch.setattr(rehearsing, "rehearse", lambda _: (RESULT, ""))
    done = {f["what"]: f for f in here("doctor", "--rehearse", "--json").json}
    assert done["rehearsal"]["verdict"] == "good"
    assert "a checkpoint will take 100 MB" in done["disk"]["found"]
    monkeypatch.setattr(rehearsing, "rehearse", lambda _: (None, "It does not fit."))
    assert here("doctor", "--rehearse").code == 1
    assert here("doctor", "--rehearse", "--rebuild-ledger").code == 2


def test_b9_the_child_that_rehearses_says_why_it_did_not(layout: Layout) -> None:
    """The real child, which finds a trainer at work before it loads anything."""
    with durable.Lock(layout.trainer_lock, "the trainer"):
        result, said = rehearsing.rehearse(layout)
    assert result is None
    assert "`nightschool pause`" in said
