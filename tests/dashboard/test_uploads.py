"""Files sent from the browser: whole or not at all (H8), under names that lead nowhere (H5), within bounds (H6)."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nightschool import adding, room
from nightschool.dashboard import staged as staging
from nightschool.dashboard.endpoints import NotThere
from nightschool.dashboard.services import Services
from nightschool.dashboard.staged import KEPT_SECONDS, SCRATCH, Uploads
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.dashboard.asking import ENDPOINTS, Asked, asking
from tests.dashboard.served import served
from tests.dashboard.serving import answer, sending, steadily, until
from tests.snapshots import made

ROWS = b"".join(b'{"text": "row %d"}\n' % number for number in range(500))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made.workspace(tmp_path / "ws", toml=f"{made.TOML}[machine]\nmin_free_gb = 0\n", steps=20)


@pytest.fixture
def page(layout: Layout) -> Iterator[Asked]:
    with asking(layout) as asked:
        yield asked


@pytest.fixture
def services(layout: Layout) -> Iterator[Services]:
    found = Services(layout)
    yield found
    found.close()


def scratch(layout: Layout) -> list[Path]:
    return sorted(layout.tmp.glob("*"))


def nothing_came(layout: Layout) -> bool:
    """Neither in the scratch, nor in the inbox, nor in what `add` keeps, nor in the ledger."""
    with Ledger.open(layout.ledger) as ledger:
        files = list(ledger.files.each())
    inbox = [path for path in layout.inbox.rglob("*") if path.is_file()]
    return not scratch(layout) and not inbox and not list(layout.incoming.iterdir()) and len(files) == made.FILES


def test_a_file_is_sent_looked_at_and_added(page: Asked, layout: Layout) -> None:
    sent = page.send("rows.jsonl", ROWS)
    assert (sent["name"], sent["bytes"]) == ("rows.jsonl", len(ROWS))
    assert (sent["looks_like"], sent["warnings"]) == ("jsonl, text, 500 rows", [])
    left = datetime.fromisoformat(sent["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=50) < left <= timedelta(hours=1)
    with Ledger.open(layout.ledger) as ledger:
        assert len(list(ledger.files.each())) == made.FILES  # it only waits
    how = {"priority": "high", "epochs": 3, "again": True}
    added = page.post(f"/api/uploads/{sent['id']}/add", how)
    assert added["said"] == "Added rows.jsonl as file 5: jsonl, text, 500 rows."
    with Ledger.open(layout.ledger) as ledger:
        row = ledger.files.get(added["id"])
    assert (row.name, row.state, row.options) == ("rows.jsonl", "arrived", {"epochs": 3, "again": True})
    (kept,) = layout.incoming.iterdir()
    assert kept.read_bytes() == ROWS
    assert scratch(layout) == []
    assert "not here any more" in page.post(f"/api/uploads/{sent['id']}/add", status=404)


def test_what_add_warns_of_is_told_before_and_after(page: Asked) -> None:
    sent = page.send("odd.jsonl", b'{"unknown": 1}\n')
    (warning,) = sent["warnings"]
    assert warning.startswith("Look at it: row 1")
    assert warning in page.post(f"/api/uploads/{sent['id']}/add")["said"]
    sent = page.send("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(range(256)))
    assert sent["warnings"][0].startswith("It will be rejected: ")
    assert sent["looks_like"]


def test_a_file_is_thrown_away(page: Asked, layout: Layout) -> None:
    sent = page.send("rows.jsonl", ROWS)
    assert page.delete(f"/api/uploads/{sent['id']}")["said"] == "rows.jsonl was thrown away."
    assert nothing_came(layout)
    page.delete(f"/api/uploads/{sent['id']}", 404)
    page.get(f"/api/uploads/{sent['id']}/preview", 404)


def test_what_cannot_be_added_is_still_there(page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightschool.errors import StorageError

    def full(*_: object) -> Path:
        raise StorageError("The disk is full.", errno.ENOSPC)

    sent = page.send("rows.jsonl", ROWS)
    with monkeypatch.context() as patched:
        patched.setattr(adding, "keep", full)
        assert page.post(f"/api/uploads/{sent['id']}/add", status=503) == "The disk is full."
    assert page.post(f"/api/uploads/{sent['id']}/add")["id"] == 5


@pytest.mark.parametrize("name", [
    "../x.jsonl", "/etc/passwd", "..", ".", "a/b.jsonl", "nul\0.jsonl", "line\nbreak.jsonl", "rows.jsonl.toml",
    "nightschool.toml", "x" * 250 + ".jsonl", "turned\u202earound.jsonl",
])  # fmt: skip
def test_h5_names_that_lead_elsewhere_are_refused(page: Asked, layout: Layout, name: str) -> None:
    page.send(name, ROWS, 422)
    assert nothing_came(layout)


def test_h5_the_control_without_the_check_of_names_it_would_lie_elsewhere(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "checked_name", lambda name: name)
    page.send("../x.jsonl", ROWS)
    assert (layout.tmp / "x.jsonl").exists()


@pytest.mark.parametrize("id", ["..", "%2e%2e%2fledger.db", "x", "a" * 5000])
def test_h5_ids_are_looked_up_and_never_a_path(page: Asked, id: str) -> None:
    for answered in (page.client.delete(f"/api/uploads/{id}"), page.client.get(f"/api/uploads/{id}/preview")):
        assert answered.status_code in (404, 405)


def test_odd_names_that_are_none_the_less_names(page: Asked, layout: Layout) -> None:
    for name in ("-rf.jsonl", "[a]*.jsonl", "Überstunden und mehr.jsonl", "<script>.jsonl", ".hidden.jsonl", "~"):
        sent = page.send(name, ROWS)
        assert page.post(f"/api/uploads/{sent['id']}/add")["name"] == name


def test_the_length_is_needed(page: Asked, layout: Layout) -> None:
    assert "Content-Length" in page.send("rows.jsonl", iter([ROWS]), 422)  # sent in chunks, without one
    for length in ("-1", "many", "1e3", "9" * 40):
        page.send("rows.jsonl", ROWS, 422, length=length)
    assert "is empty" in page.send("rows.jsonl", b"", 422)
    assert nothing_came(layout)


@pytest.mark.parametrize(("promised", "problem"), [(len(ROWS) - 1, "more came"), (len(ROWS) + 1, "only")])
def test_h8_other_than_was_promised_stays_nowhere(page: Asked, layout: Layout, promised: int, problem: str) -> None:
    assert problem in page.send("rows.jsonl", ROWS, 422, length=str(promised))
    assert nothing_came(layout)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [0, 1, 3000, len(ROWS) - 1])
def test_h8_a_connection_that_is_cut_leaves_nothing(services: Services, reset: bool, after: int) -> None:
    layout = services.layout
    with served(services, ENDPOINTS) as at:
        client = sending(at, "rows.jsonl", len(ROWS), ROWS[:after])
        until(lambda: bool(scratch(layout)))
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        until(lambda: not scratch(layout))
        until(lambda: not services.uploads._coming)
    assert services.uploads._staged == {}
    assert nothing_came(layout)


def test_h8_the_control_whole_it_is_there(services: Services) -> None:
    with served(services, ENDPOINTS) as at, sending(at, "rows.jsonl", len(ROWS), ROWS[:3000]) as client:
        until(lambda: bool(scratch(services.layout)))
        client.sendall(ROWS[3000:])
        status, body = answer(client)
    sent = msgspec.json.decode(body)
    assert status == 200
    assert services.uploads.get(sent["id"]).path.read_bytes() == ROWS


def test_h8_the_control_without_the_count_half_a_file_could_be_added(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would become of it: `_fill` alone stands between a file cut short and the queue."""

    async def careless(self: Uploads, path: Path, promised: int, body: Any) -> None:
        with path.open("xb") as file:
            async for piece in body:
                file.write(piece)

    monkeypatch.setattr(Uploads, "_fill", careless)
    sent = page.send("rows.jsonl", ROWS[:100], length=str(len(ROWS)))
    assert page.post(f"/api/uploads/{sent['id']}/add")["id"] == 5
    assert not nothing_came(layout)


def test_h8_the_server_ends_in_the_middle_and_the_next_start_clears(layout: Layout) -> None:
    first = Services(layout)
    with served(first, ENDPOINTS) as at:
        client = sending(at, "rows.jsonl", len(ROWS), ROWS[:3000])
        until(lambda: bool(scratch(layout)))
    client.close()
    left = layout.tmp / f"{SCRATCH}of-a-process-that-was-killed"
    left.mkdir()
    (left / "rows.jsonl").write_bytes(ROWS)
    other = layout.tmp / f"{adding.SCRATCH}of-an-add-at-work"
    other.mkdir()
    second = Services(layout)
    until(lambda: scratch(layout) == [other])
    other.rmdir()
    assert nothing_came(layout)
    first.close()
    second.close()


def test_h6_a_sender_that_stalls_is_let_go(services: Services) -> None:
    services.uploads.stalled = 0.2
    with served(services, ENDPOINTS) as at, sending(at, "rows.jsonl", len(ROWS), ROWS[:3000]) as client:
        status, body = answer(client)  # and the connection is closed
    assert status == 422
    assert b"nothing more came" in body
    assert nothing_came(services.layout)


def test_h6_a_sender_that_is_slow_but_sends_is_not_let_go(services: Services) -> None:
    services.uploads.stalled = longest = 3.0
    status = 0
    with served(services, ENDPOINTS) as at:
        while longest >= services.uploads.stalled:  # once more where the computer was busy, and it did not send
            with sending(at, "rows.jsonl", 8, b"") as client:
                longest = steadily(client, b"x", 8, 0.5)
                status, _ = answer(client)
        assert status == 200


def test_h6_two_at_once_and_the_third_is_told(services: Services) -> None:
    with served(services, ENDPOINTS) as at:
        clients = [sending(at, "rows.jsonl", len(ROWS), ROWS[:100]) for _ in range(2)]
        until(lambda: len(services.uploads._coming) == 2)
        with sending(at, "third.jsonl", len(ROWS), ROWS) as third:
            status, body = answer(third)
        assert status == 429
        assert b"are being sent already" in body
        clients[0].sendall(ROWS[100:])
        assert answer(clients[0])[0] == 200
        with sending(at, "third.jsonl", len(ROWS), ROWS) as third:
            assert answer(third)[0] == 200
        for client in clients:
            client.close()


def test_h6_files_that_nobody_adds_are_not_heaped_up(page: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST_WAITING", 2)
    sent = [page.send(name, ROWS)["id"] for name in ("a.jsonl", "b.jsonl")]
    assert "throw them away" in page.send("c.jsonl", ROWS, 429)
    page.delete(f"/api/uploads/{sent[0]}")
    page.send("c.jsonl", ROWS)


def test_after_an_hour_it_is_gone(layout: Layout) -> None:
    now = [0.0]
    with asking(layout) as page:
        page.services.uploads.clock = lambda: now[0]
        sent = page.send("rows.jsonl", ROWS)
        now[0] = KEPT_SECONDS - 1
        assert page.services.uploads.get(sent["id"]).name == "rows.jsonl"
        now[0] = KEPT_SECONDS
        with pytest.raises(NotThere):
            page.services.uploads.get(sent["id"])
        until(lambda: nothing_came(layout))


def test_what_waited_goes_with_the_page(layout: Layout) -> None:
    with asking(layout) as page:
        page.send("rows.jsonl", ROWS)
        assert not nothing_came(layout)
    until(lambda: nothing_came(layout))


def test_a_disk_without_room_refuses_before_a_byte_is_taken(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.checkpoint(layout, 20)
    with Ledger.open(layout.ledger) as ledger:
        checkpoint = ledger.checkpoints.newest_bytes()
    assert checkpoint
    monkeypatch.setattr(room, "free_bytes", lambda _: 2 * len(ROWS) + checkpoint - 1)
    said = page.send("rows.jsonl", ROWS, 413)
    assert "There is no room for rows.jsonl" in said
    assert nothing_came(layout)
    monkeypatch.setattr(room, "free_bytes", lambda _: 2 * len(ROWS) + checkpoint)
    page.send("rows.jsonl", ROWS)


def test_what_must_stay_free_is_what_the_settings_say(page: Asked, layout: Layout, monkeypatch: Any) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda _: 5_000_000_000)
    page.send("rows.jsonl", ROWS)
    layout.settings_file.write_text(f"{made.TOML}[machine]\nmin_free_gb = 5\n")
    assert "5 GB must stay free" in page.send("rows.jsonl", ROWS, 413)


def test_h8_a_disk_that_fills_meanwhile_keeps_nothing(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 1000:
            return real(fd, data[:1000])  # as a disk does that has a little left
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(staging.os, "write", full)
        assert "No space left" in page.send("rows.jsonl", ROWS, 503)
    assert nothing_came(layout)


def test_h6_the_bytes_of_a_large_file_are_never_in_memory(services: Services) -> None:
    """64 MiB through a real socket; the control keeps them, and is seen by the same measure."""
    size, piece = 64 << 20, b"x" * (1 << 16)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # begin anew: a test before this may have taken more
    before = _peak()
    with served(services, ENDPOINTS) as at, sending(at, "large.jsonl", size, b"") as client:
        for _ in range(size // len(piece)):
            client.sendall(piece)
        status, body = answer(client)
    assert status == 200
    sent = msgspec.json.decode(body)
    assert services.uploads.get(sent["id"]).path.stat().st_size == size
    assert _peak() - before < size // 2
    kept = bytearray(size)
    assert len(kept) == size
    assert _peak() - before > size // 2


def _peak() -> int:
    """The most memory that this process ever had, bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_an_upload_is_added_once_however_often_it_is_asked(page: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = page.send("rows.jsonl", ROWS)
    reached, go_on = threading.Event(), threading.Event()
    real = adding.keep

    def slow(*arguments: Any) -> Path:
        reached.set()
        assert go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(adding, "keep", slow)
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(page.post(f"/api/uploads/{sent['id']}/add")))
    thread.start()
    assert reached.wait(30)
    assert "already" in page.post(f"/api/uploads/{sent['id']}/add", status=409)
    assert "already" in page.delete(f"/api/uploads/{sent['id']}", 409)
    go_on.set()
    thread.join(30)
    assert first[0]["id"] == 5


def test_h8_more_than_promised_is_no_part_of_the_file_on_a_real_connection(services: Services) -> None:
    """There the rest is another request, and one that makes no sense."""
    with served(services, ENDPOINTS) as at, sending(at, "rows.jsonl", 100, ROWS) as client:
        status, body = answer(client)
    assert status == 200
    assert services.uploads.get(msgspec.json.decode(body)["id"]).path.read_bytes() == ROWS[:100]


def test_a_refusal_is_read_also_by_a_browser_that_sends_all_first(services: Services) -> None:
    data = b"x" * (8 << 20)
    with served(services, ENDPOINTS) as at, sending(at, "rows.jsonl.toml", len(data), data) as client:
        status, body = answer(client)
    assert status == 422
    assert b"holds settings" in body
