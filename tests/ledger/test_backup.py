"""A copy of the ledger while others write: of one moment, sound, and no writer waits for long."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Ledger, database

from .support import child, output, step


def filled(ledger: Ledger, steps: int) -> None:
    ledger.steps.record([step(number) for number in range(1, steps + 1)])


def test_the_copy_is_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    filled(ledger, 500)
    ledger.machine.set("a", 1)
    ledger.backup_to(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db-journal").exists()
    with Ledger.open(tmp_path / "copy.db") as copy:
        assert (copy.steps.count(), copy.machine.get("a"), copy.check()) == (500, 1, [])


def test_what_is_not_committed_is_not_in_it(ledger: Ledger, tmp_path: Path) -> None:
    ledger.machine.set("a", 1)
    with ledger.transaction():
        ledger.machine.set("a", 2)
        ledger.backup_to(tmp_path / "copy.db")
    with Ledger.open(tmp_path / "copy.db") as copy:
        assert copy.machine.get("a") == 1


@pytest.mark.parametrize("patience", [0.5, 0.0])
def test_a_writer_goes_on_and_the_copy_is_of_one_moment(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    # Every portion is followed by a write of another connection, so that it is begun again and again.
    monkeypatch.setattr(database, "COPY_PAGES", 4)
    filled(ledger, 2000)
    # A look at the clock takes a twentieth of a second, so that patience ends however fast the computer is.
    looks, stop = count(), threading.Event()
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 20, sleep=time.sleep)
    monkeypatch.setattr(database, "time", clock)

    def write() -> None:
        with Ledger.open(ledger.path) as other:
            number = 2000
            while not stop.is_set():
                number += 1
                with other.transaction():
                    other.steps.record([step(number)])
                    other.machine.set("steps", number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while ledger.machine.get("steps") is None:
            time.sleep(0.005)
        ledger.backup_to(tmp_path / "copy.db", patience=patience)
        assert next(looks) <= patience * 20 + 3
    finally:
        stop.set()
        writer.join()
    with Ledger.open(tmp_path / "copy.db") as copy:
        assert copy.steps.count() == copy.machine.get("steps")
        assert copy.check() == []


def test_locks_of_this_process_survive_it(ledger: Ledger, tmp_path: Path) -> None:
    with ledger.transaction():
        ledger.machine.set("a", 1)
        ledger.backup_to(tmp_path / "copy.db")
        other = child(
            "connection = sqlite3.connect(sys.argv[1], timeout=0.05)\n"
            "try:\n    connection.execute('BEGIN IMMEDIATE'); say('got in')\n"
            "except sqlite3.OperationalError as error:\n    say(error)",
            ledger.path,
        )
        assert "database is locked" in output(other)


def test_a_damaged_ledger_is_no_copy(ledger: Ledger, tmp_path: Path) -> None:
    filled(ledger, 2000)
    ledger.close()
    data = bytearray(ledger.path.read_bytes())
    data[40_000:90_000] = b"\xff" * 50_000
    ledger.path.write_bytes(data)
    with Ledger.open(ledger.path) as opened, pytest.raises(StorageError, match="damaged"):
        opened.backup_to(tmp_path / "copy.db")
