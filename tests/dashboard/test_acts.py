"""The commands of the page: each against a ledger, over HTTP."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.dashboard import looks, plans, shapes
from nightschool.dashboard.endpoints import NotThere
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.dashboard.asking import ENDPOINTS, Asked, asking
from tests.snapshots import made


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two files learned, the third and fourth waiting."""
    return made.workspace(tmp_path / "ws", steps=20)


@pytest.fixture
def page(layout: Layout) -> Iterator[Asked]:
    with asking(layout) as asked:
        yield asked


def row(layout: Layout, key: str) -> object:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get(key)


def state(layout: Layout, file: int) -> str:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.files.get(file).state


def _queue(page: Asked) -> list[int]:
    return [one.id for one in page.services.workspace.queue().files]


def test_pause_for_a_time_and_resume(page: Asked, layout: Layout) -> None:
    assert "for 60 min" in page.post("/api/pause", {"seconds": 3600})["said"]
    paused = row(layout, "paused")
    assert isinstance(paused, dict)
    assert paused["until"] is not None
    assert "until it is resumed" in page.post("/api/pause")["said"]
    assert row(layout, "paused") == {"until": None}
    assert "does not run" in page.post("/api/resume")["said"]
    assert row(layout, "paused") is False


def test_what_is_said_of_a_pause_tells_whether_the_machine_runs(page: Asked, layout: Layout) -> None:
    assert "does not run" in page.post("/api/pause")["said"]
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        assert "frees the GPU" in page.post("/api/pause")["said"]
        assert page.post("/api/resume")["said"] == "Going on."


@pytest.mark.parametrize("body", [{"seconds": 0}, {"seconds": -1}, {"seconds": 1e12}, {"seconds": "soon"}])
def test_a_pause_of_no_sensible_length_is_refused(page: Asked, layout: Layout, body: dict) -> None:
    page.post("/api/pause", body, 422)
    assert row(layout, "paused") is None


def test_skip_needs_a_file_in_training(page: Asked, tmp_path: Path) -> None:
    assert "No file is in training" in page.post("/api/skip", status=422)
    half = made.workspace(tmp_path / "half", steps=15)
    with asking(half) as other:
        assert "2.jsonl" in other.post("/api/skip", {"shelve": True})["said"]
        orders = row(half, "orders")
        assert isinstance(orders, list)
        assert [(one["what"], one["file"], one["aside"]) for one in orders] == [("skip", 2, True)]


def test_another_file_than_was_shown_is_not_skipped(tmp_path: Path) -> None:
    half = made.workspace(tmp_path / "half", steps=15)
    with asking(half) as other:
        with Ledger.open(half.ledger) as ledger:
            assert looks.now_of(half, ledger).file == 2
        assert "2.jsonl is in training, and not file 1" in other.post("/api/skip", {"shelve": True, "file": 1}, 422)
        assert row(half, "orders") is None
        assert "2.jsonl" in other.post("/api/skip", {"file": 2})["said"]


def test_stop_asks_the_machine_and_does_not_wait(page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: asked.append((pid, number)))
    assert page.post("/api/stop")["said"] == "No machine runs here."
    assert not asked
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        assert "saves a checkpoint first" in page.post("/api/stop")["said"]
    assert asked == [(os.getpid(), signal.SIGTERM)]


def test_stopping_what_cannot_be_reached_is_told(page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", unknown)
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        assert "another container" in page.post("/api/stop", status=409)


def test_the_queue_is_moved_prioritised_emptied_and_filled(page: Asked, layout: Layout) -> None:
    assert _queue(page) == [3, 4]
    assert "first of the queue" in page.post("/api/queue/move", {"file": 4, "where": "first"})["said"]
    assert _queue(page) == [4, 3]
    page.post("/api/queue/move", {"file": 4, "where": "last"})
    assert _queue(page) == [3, 4]
    page.post("/api/queue/move", {"file": 4, "where": "before", "other": 3})
    assert _queue(page) == [4, 3]
    assert "priority high" in page.post("/api/queue/priority", {"files": [3], "priority": "high"})["said"]
    assert _queue(page) == [3, 4]
    page.post("/api/queue/remove", {"files": [3, 4]})
    assert (_queue(page), state(layout, 3)) == ([], "set_aside")
    assert "Back in the queue" in page.post("/api/queue/put-back", {"files": [4]})["said"]
    assert _queue(page) == [4]


@pytest.mark.parametrize("body", [
    {"file": 4, "where": "before"}, {"file": 4, "where": "first", "other": 3}, {"file": 4, "where": "aside"},
    {"file": "4.jsonl", "where": "first"}, {"file": 0, "where": "first"}, {"where": "first"},
])  # fmt: skip
def test_a_move_that_makes_no_sense_changes_nothing(page: Asked, body: dict) -> None:
    page.post("/api/queue/move", body, 422)
    assert _queue(page) == [3, 4]


def test_what_is_learned_cannot_be_moved_and_says_what_can_be_done(page: Asked) -> None:
    assert "nightschool forget" in page.post("/api/queue/move", {"file": 1, "where": "first"}, 422)
    assert "nightschool forget" in page.post("/api/queue/remove", {"files": [3, 1]}, 422)
    assert _queue(page) == [3, 4]


def test_h5_files_are_meant_by_number_alone_also_where_a_name_is_one(layout: Layout) -> None:
    """`find` takes a number that no file has for a name: 77 is such a name here, of file 4."""
    with sqlite3.connect(layout.ledger) as ledger:
        ledger.execute("UPDATE files SET name = '77' WHERE id = 4")
    ledger.close()
    with asking(layout) as other:
        for path, body in [
            ("/api/queue/remove", {"files": [77]}),
            ("/api/queue/put-back", {"files": [77]}),
            ("/api/queue/priority", {"files": [77], "priority": "low"}),
            ("/api/queue/move", {"file": 77, "where": "first"}),
            ("/api/queue/move", {"file": 3, "where": "before", "other": 77}),
            ("/api/forget/plan", {"files": [77]}),
            ("/api/forget", {"files": [77], "digest": ""}),
        ]:
            assert "no file 77" in other.post(path, body, 404)
        # The control: asked by the same word, the queue itself would have taken the file of that name.
        assert "77" in other.services.workspace.remove(["77"])


def test_a_snapshot_is_a_job_and_a_bad_name_is_told_at_once(page: Asked, layout: Layout) -> None:
    made.checkpoint(layout, 20)
    assert "cannot be called" in page.post("/api/snapshot", {"name": "../x"}, 422)
    job = page.post("/api/snapshot", {"name": "before-the-holidays"}, 202)
    ended = page.ended(job)
    assert (ended["state"], ended["what"]) == ("done", "The snapshot before-the-holidays")
    assert "step 20" in ended["said"]
    assert (layout.snapshots / "before-the-holidays" / "checkpoint-20").is_dir()
    again = page.ended(page.post("/api/snapshot", {"name": "before-the-holidays"}, 202))
    assert again["state"] == "failed"
    assert "already" in again["said"]


def test_verify_reads_every_byte_and_keeps_what_it_found(page: Asked, layout: Layout) -> None:
    from nightschool.snapshots.verified import verified

    assert "Nothing has been saved" in page.ended(page.post("/api/verify", status=202))["said"]
    made.checkpoint(layout, 10)
    folder = made.checkpoint(layout, 20)
    made.snapshot(layout)
    ended = page.ended(page.post("/api/verify", status=202))
    assert (ended["state"], ended["told"][0]) == ("done", "Reading checkpoint-10, 1 of 2 checkpoints.")
    assert "3 saved states: all are whole" in ended["said"]
    known = verified(layout)
    assert {name: one.problem for name, one in known.items()} == {
        "current_model/checkpoint-10": None, "current_model/checkpoint-20": None, "snapshots/2026-11-22": None,
    }  # fmt: skip
    # One byte, as a tired disk would: linked into the snapshot too.
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o600)
    data = bytearray(weights.read_bytes())
    data[3] ^= 1
    with weights.open("r+b") as file:
        file.write(data)
    ended = page.ended(page.post("/api/verify", status=202))
    assert ended["state"] == "failed"
    assert "2 cannot be relied on" in ended["said"]
    assert [name for name, one in verified(layout).items() if one.problem] == [
        "current_model/checkpoint-20", "snapshots/2026-11-22",
    ]  # fmt: skip


def test_a_long_verify_holds_up_neither_a_snapshot_nor_a_rollback_and_is_given_up(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightschool.durable import files
    from nightschool.snapshots.verified import verified

    made.checkpoint(layout, 10)
    made.checkpoint(layout, 20)
    reached, go_on = threading.Event(), threading.Event()
    real = os.readv

    def slow(fd: int, buffers: Any) -> int:
        if threading.current_thread().name == "reading jobs":
            reached.set()
            assert go_on.wait(30)
        return real(fd, buffers)

    monkeypatch.setattr(files.os, "readv", slow)
    verify = page.post("/api/verify", status=202)
    assert reached.wait(30)
    assert page.ended(page.post("/api/snapshot", {"name": "meanwhile"}, 202))["state"] == "done"
    plan = page.post("/api/rollback/plan", {"to": "10"})
    back = page.ended(page.post("/api/rollback", {"to": "10", "digest": plan["digest"]}, 202))
    assert back["state"] == "done"
    assert "half done" not in page.delete(f"/api/jobs/{back['id']}")["said"]  # it has ended, as it ended
    assert page.get(f"/api/jobs/{verify['id']}")["can_give_up"]
    page.delete(f"/api/jobs/{verify['id']}")
    go_on.set()
    ended = page.ended(verify)
    assert (ended["state"], ended["said"]) == ("given up", "Reading every saved state was given up.")
    assert verified(layout) == {}


def test_only_verify_is_done_beside_other_jobs(page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    made.checkpoint(layout, 10)
    made.checkpoint(layout, 20)
    begun: list[tuple[str, bool]] = []
    real = page.services.jobs.start

    def start(what: str, act: Any, *, reads: bool = False) -> shapes.Job:
        begun.append((what.split()[0], reads))
        return real(what, act, reads=reads)

    monkeypatch.setattr(page.services.jobs, "start", start)
    for path, ask in (("/api/rollback", {"to": "10"}), ("/api/forget", {"files": [1]})):
        plan = page.post(f"{path}/plan", ask)
        page.ended(page.post(path, {**ask, "digest": plan["digest"]}, 202))
    page.ended(page.post("/api/snapshot", status=202))
    page.ended(page.post("/api/verify", status=202))
    assert begun == [("Rollback", False), ("Forgetting", False), ("A", False), ("Reading", True)]


def test_what_is_changed_is_not_given_up_half_way(page: Asked, layout: Layout) -> None:
    made.checkpoint(layout, 10)
    plan = page.post("/api/rollback/plan", {"to": "10"})
    with durable.Lock(layout.trainer_lock, "the trainer"):
        job = page.post("/api/rollback", {"to": "10", "digest": plan["digest"]}, 202)
        while not page.get(f"/api/jobs/{job['id']}")["told"]:
            pass
        assert "half done" in page.delete(f"/api/jobs/{job['id']}", 409)
    assert page.ended(job)["state"] == "done"


def test_there_is_no_job_of_that_name(page: Asked) -> None:
    assert "no such job" in page.get("/api/jobs/none", 404)
    assert "no such job" in page.delete("/api/jobs/none", 404)


def test_a_workspace_whose_ledger_is_gone_is_told_not_raised(page: Asked, layout: Layout) -> None:
    layout.ledger.rename(layout.ledger.with_suffix(".away"))
    for path in ("/api/pause", "/api/resume", "/api/skip"):
        assert "ledger" in page.post(path, status=503)
    assert "ledger" in page.post("/api/rollback/plan", {"to": "10"}, 503)
    ended = page.ended(page.post("/api/verify", status=202))
    assert ended["state"] == "failed"
    assert "Traceback" not in ended["said"]


def test_every_endpoint_of_the_contract_is_there() -> None:
    assert {(one.method, one.path) for one in ENDPOINTS} == {
        ("POST", "/api/pause"), ("POST", "/api/resume"), ("POST", "/api/skip"), ("POST", "/api/stop"),
        ("POST", "/api/queue/move"), ("POST", "/api/queue/priority"), ("POST", "/api/queue/remove"),
        ("POST", "/api/queue/put-back"), ("POST", "/api/rollback/plan"), ("POST", "/api/rollback"),
        ("POST", "/api/forget/plan"), ("POST", "/api/forget"), ("POST", "/api/snapshot"), ("POST", "/api/verify"),
        ("GET", "/api/jobs/{id}"), ("DELETE", "/api/jobs/{id}"), ("POST", "/api/uploads"),
        ("GET", "/api/uploads/{id}/preview"), ("POST", "/api/uploads/{id}/add"), ("DELETE", "/api/uploads/{id}"),
    }  # fmt: skip
    assert {one.path for one in ENDPOINTS if one.status == 202} == {
        "/api/rollback", "/api/forget", "/api/snapshot", "/api/verify",
    }  # fmt: skip
    assert {one.gives for one in ENDPOINTS if one.status == 202} == {shapes.Job}


def test_a_slow_plan_holds_up_neither_a_pause_nor_the_page(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> object:
        reached.set()
        assert go_on.wait(30)
        raise NotThere("At last.")

    monkeypatch.setattr(plans, "of_rollback", slow)
    said: list[str] = []
    asker = threading.Thread(target=lambda: said.append(page.post("/api/rollback/plan", {"to": "10"}, 404)))
    asker.start()
    assert reached.wait(30)
    assert "Paused" in page.post("/api/pause")["said"]
    assert not said
    go_on.set()
    asker.join(30)
    assert said == ["At last."]
