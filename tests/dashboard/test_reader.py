"""The one connection that reads for all tabs: short looks, never in the trainer's way, none of a file that went."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nightschool.dashboard import curves
from nightschool.dashboard.app import application
from nightschool.dashboard.history import History
from nightschool.dashboard.limits import Limits
from nightschool.dashboard.pages import Templates
from nightschool.dashboard.reader import Reader
from nightschool.dashboard.services import Services
from nightschool.errors import NightschoolError, StorageError
from nightschool.ledger import Ledger
from nightschool.ledger.database import Database
from nightschool.record import write_generation
from nightschool.workspace import Layout
from tests.ledger.support import impatient
from tests.snapshots import made as workspaces

from .made import fill, row

STEPS = 3000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.create()
    with Ledger.create(layout.ledger) as ledger:
        fill(ledger, (row(step, 1.0) for step in range(1, STEPS + 1)))
    return layout


@pytest.fixture
def reader(layout: Layout) -> Iterator[Reader]:
    reader = Reader(layout)
    yield reader
    reader.close()


def ask(reader: Reader, **query: Any) -> Any:
    return asyncio.run(reader.read(lambda ledger: reader.memory.history.curve(ledger, 0, **query)))


def test_a_ledger_that_was_put_in_place_of_another_is_read_anew(layout: Layout, reader: Reader, tmp_path: Path) -> None:
    assert ask(reader).loss_max[-1] == 1.0
    # Another ledger with as many steps and the same revision.
    with Ledger.create(tmp_path / "other.db") as other:
        fill(other, (row(step, 5.0) for step in range(1, STEPS + 1)))
    (tmp_path / "other.db").replace(layout.ledger)
    found = ask(reader)
    assert set(found.loss_max) == {5.0}
    assert set(ask(reader, first=2900).loss) == {5.0}


def test_control_what_was_kept_of_the_other_ledger_would_be_shown(
    layout: Layout, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = reader.memory
    monkeypatch.setattr("nightschool.dashboard.reader.Memory", lambda: kept)
    with pytest.raises(AssertionError):
        test_a_ledger_that_was_put_in_place_of_another_is_read_anew(layout, reader, tmp_path)


def test_c10_a_ledger_that_is_not_there_is_told_and_read_again_when_it_is_back(layout: Layout, reader: Reader) -> None:
    ask(reader)
    away = layout.ledger.with_suffix(".away")
    layout.ledger.rename(away)
    for _ in range(2):
        with pytest.raises(NightschoolError, match="is not there"):
            ask(reader)
    assert not layout.ledger.exists()
    away.rename(layout.ledger)
    assert ask(reader).steps_done == STEPS


def test_a_damaged_ledger_is_told_and_the_connection_let_go(layout: Layout, reader: Reader) -> None:
    ask(reader)
    whole = layout.ledger.read_bytes()
    copy = layout.ledger.with_suffix(".copy")
    shutil.copy(layout.ledger, copy)
    copy.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    copy.replace(layout.ledger)
    with pytest.raises(NightschoolError):
        ask(reader, first=2900)
    copy.write_bytes(whole)
    copy.replace(layout.ledger)
    assert ask(reader, first=2900).steps_done == STEPS


def writing_after_each_read(monkeypatch: pytest.MonkeyPatch, reading: Ledger, write: Callable[[], None]) -> list[int]:
    """Let somebody else write as soon as a read of this ledger returns; the rows of each read."""
    read: list[int] = []
    real = Database.rows

    def rows(self: Database, sql: str, parameters: Any = ()) -> Any:
        found = real(self, sql, parameters)
        if self is reading._database:
            read.append(len(found))
            write()
        return found

    monkeypatch.setattr(Database, "rows", rows)
    return read


@pytest.mark.parametrize("held", [False, True], ids=["short looks", "control"])
def test_h7_between_any_two_reads_of_a_curve_a_commit_goes_through(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    written = iter(range(STEPS + 1, STEPS + 1000))
    with Ledger.open(layout.ledger) as reading, Ledger.open(layout.ledger) as trainer:
        impatient(trainer)
        read = writing_after_each_read(monkeypatch, reading, lambda: trainer.steps.record([row(next(written))]))
        if held:
            # A read transaction that is kept over the whole curve.
            reading._database._connection.execute("BEGIN")
            with pytest.raises(StorageError, match="locked"):
                History().curve(reading, 0)
            return
        history = History()
        for first in (0, 2900, 100):
            found = history.curve(reading, 0, first)
            assert found.steps_done > STEPS
        assert len(read) > 10
        assert max(read) <= 1000


def test_h7_one_who_asks_all_the_time_and_one_who_writes_both_come_to_their_end(layout: Layout) -> None:
    failed: list[BaseException] = []
    stop = threading.Event()
    asked = []

    def hammer() -> None:
        try:
            with Ledger.open(layout.ledger) as ledger:
                history = History()
                while not stop.is_set():
                    for first in (0, 1000, 2990):
                        found = history.curve(ledger, 0, first)
                        assert found.tokens[-1] == found.step[-1] * 100
                    asked.append(found.steps_done)
                    History().curve(ledger, 0)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=hammer)
    thread.start()
    with Ledger.open(layout.ledger) as trainer:
        for step in range(STEPS + 1, STEPS + 151):
            trainer.steps.record([row(step)])
    while not (asked and asked[-1] == STEPS + 150) and not failed:
        thread.join(0.01)
    stop.set()
    thread.join()
    assert failed == []
    assert asked == sorted(asked)


Asks = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Layout:
    layout = workspaces.workspace(tmp_path / "run")
    write_generation(layout, 3)
    return layout


@pytest.fixture
def get(run: Layout) -> Iterator[Asks]:
    services = Services(run)
    app = application(services, curves.ENDPOINTS, Templates(run.root), Limits())

    with TestClient(app, base_url="http://localhost") as client:

        def ask(path: str, status: int = 200) -> Any:
            answer = client.get(path)
            assert answer.status_code == status, answer.text
            return answer.json() if status == 200 else answer.json()["error"]

        yield ask
    services.close()


def test_the_curve_and_its_marks_are_asked_for_over_the_api(get: Asks) -> None:
    curve = get("/api/curve")
    assert (curve["generation"], curve["span"], curve["steps_done"]) == (3, 1, 40)
    assert len({len(column) for column in curve.values() if isinstance(column, list)}) == 1
    assert get("/api/curve?first=11&last=20")["step"] == list(range(11, 21))
    assert len(get("/api/curve?points=10")["step"]) <= 10
    marks = get("/api/marks?first=11&last=25")
    assert [(one["name"], one["first"], one["last"]) for one in marks["files"]] == [
        ("2.jsonl", 11, 20),
        ("3.jsonl", 21, 30),
    ]


@pytest.mark.parametrize("query", ["points=9", "points=5001", "first=-1", "last=x", "first=1.5"])
def test_what_cannot_be_asked_for_is_said(get: Asks, query: str) -> None:
    assert get(f"/api/curve?{query}", 422)
    assert get("/api/curve?first=99999999999999999&last=3")["step"] == []


def test_a_ledger_in_trouble_is_503_with_a_sentence(get: Asks, run: Layout) -> None:
    run.ledger.rename(run.ledger.with_suffix(".away"))
    assert "is not there" in get("/api/curve", 503)
    assert "is not there" in get("/api/marks", 503)


def test_sqlite_itself_is_what_holds_the_lock_in_the_control(layout: Layout) -> None:
    """What the control above relies on: a reader in a transaction keeps the lock after its rows were fetched."""
    with Ledger.open(layout.ledger) as ledger:
        raw = sqlite3.connect(layout.ledger, isolation_level=None)
        raw.execute("BEGIN")
        raw.execute("SELECT count(*) FROM steps").fetchall()
        with pytest.raises(StorageError, match="locked"):
            impatient(ledger).steps.record([row(STEPS + 1)])
        raw.execute("COMMIT")
        raw.close()
        ledger.steps.record([row(STEPS + 1)])
