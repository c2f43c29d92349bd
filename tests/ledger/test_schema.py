"""Creating, opening, migrating, and refusing what is not ours to open."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from nightschool import __version__
from nightschool.errors import StorageError, WorkspaceError
from nightschool.ledger import EntryRow, Ledger, StepRow, schema
from nightschool.ledger.database import Database, utc_now
from nightschool.ledger.schema import MIGRATIONS, Migration

from .support import connection

SECOND = Migration(
    MIGRATIONS[-1].version + 1,
    "notes",
    ("CREATE TABLE notes (text TEXT NOT NULL)", "INSERT INTO notes SELECT 'event ' || text FROM events"),
)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        for statement in statements:
            raw.execute(statement)
        raw.commit()


def migrations(ledger: Ledger) -> list[tuple[int, str, str]]:
    return connection(ledger).execute("SELECT version, name, applied_by FROM migrations ORDER BY version").fetchall()


def test_create_records_its_migrations(ledger: Ledger) -> None:
    assert migrations(ledger) == [(one.version, one.name, __version__) for one in MIGRATIONS]
    assert connection(ledger).execute("PRAGMA user_version").fetchone() == (MIGRATIONS[-1].version,)


def test_migrations_count_up_from_one() -> None:
    assert [one.version for one in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_create_refuses_a_ledger_that_is_there(ledger: Ledger, path: Path) -> None:
    ledger.machine.set("a", 1)
    with pytest.raises(WorkspaceError, match="exists already"):
        Ledger.create(path)
    assert ledger.machine.get("a") == 1


def test_b1_a_create_that_was_killed_can_be_done_again(path: Path) -> None:
    path.touch()
    with pytest.raises(StorageError, match="is empty"):
        Ledger.open(path)
    with Ledger.create(path) as ledger:
        ledger.machine.set("a", 1)


@pytest.mark.parametrize("folder_too", [False, True])
def test_c10_a_missing_ledger_is_never_created(path: Path, folder_too: bool) -> None:
    if folder_too:
        path.parent.rmdir()
    with pytest.raises(WorkspaceError, match="is not there") as caught:
        Ledger.open(path)
    assert "mount it" in str(caught.value)
    assert not path.exists()


def test_f6_a_newer_ledger_is_refused_with_the_version_that_reads_it(ledger: Ledger, path: Path) -> None:
    ledger.close()
    change(path, "INSERT INTO migrations VALUES (99, 'x', 'later', '9.8.7')", "PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"has format 99.*reads formats up to \d+\. Use nightschool 9\.8\.7"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_f6_an_older_ledger_is_migrated_and_keeps_what_it_knows(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.events.add("began", "one")
    ledger.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, SECOND))
    for _ in range(2):
        with Ledger.open(path) as migrated:
            assert migrations(migrated)[-1] == (SECOND.version, "notes", __version__)
            assert connection(migrated).execute("SELECT text FROM notes").fetchall() == [("event one",)]
    monkeypatch.undo()
    with pytest.raises(StorageError, match="Use nightschool"):
        Ledger.open(path)


BROKEN = Migration(SECOND.version, "broken", (*SECOND.statements, "INSERT INTO nowhere VALUES (1)"))


def test_a_migration_that_fails_changes_nothing(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, BROKEN))
    with pytest.raises(StorageError, match="nowhere"):
        Ledger.open(path)
    monkeypatch.undo()
    with Ledger.open(path) as still:
        assert connection(still).execute("SELECT name FROM sqlite_master WHERE name = 'notes'").fetchall() == []


def test_control_a_migration_outside_a_transaction_stays_half_done(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, BROKEN))
    monkeypatch.setattr(Database, "transaction", lambda self: nullcontext())
    with pytest.raises(StorageError, match="nowhere"):
        Ledger.open(path)
    monkeypatch.undo()
    with Ledger.open(path) as still:
        assert connection(still).execute("SELECT name FROM sqlite_master WHERE name = 'notes'").fetchall() != []


def test_two_that_migrate_at_once_do_it_once(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, SECOND))
    both_saw_the_old = threading.Barrier(2, timeout=30)
    version, failures = schema._version, []
    first = threading.local()

    def wait(database: Database, known: tuple[Migration, ...]) -> int:
        found = version(database, known)
        if not hasattr(first, "passed"):
            first.passed = True
            both_saw_the_old.wait()
        return found

    monkeypatch.setattr(schema, "_version", wait)

    def work() -> None:
        try:
            Ledger.open(path).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    monkeypatch.setattr(schema, "_version", version)
    with Ledger.open(path) as migrated:
        assert [row[0] for row in migrations(migrated)] == [one.version for one in (*MIGRATIONS, SECOND)]


def test_another_programs_database_is_left_alone(path: Path) -> None:
    change(path, "CREATE TABLE recipes (name)", "PRAGMA user_version=1")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="database of another program"):
        Ledger.open(path)
    with pytest.raises(WorkspaceError, match="exists already"):
        Ledger.create(path)
    assert path.read_bytes() == before


def test_f6_a_ledger_of_the_first_version_keeps_its_entries(path: Path) -> None:
    """Version 1 had one file to an entry, named in the entry's own row."""
    database = Database(path, utc_now, may_create=True)
    schema.install(database, MIGRATIONS[:1])
    database.close()
    change(
        path,
        "INSERT INTO entries VALUES (0, 7, 'digest a', 40, '{\"v\":1}', 10, 0, 10, 'then')",
        "INSERT INTO entries VALUES (1, 9, 'digest b', 8, '{}', 2, 1, 2, 'later')",
    )
    with Ledger.open(path) as ledger:
        assert ledger.entries.all() == [
            EntryRow(0, ((7, "digest a", 40),), '{"v":1}', 10, 0, 10, "then"),
            EntryRow(1, ((9, "digest b", 8),), "{}", 2, 1, 2, "later"),
        ]
        assert [row.position for row in ledger.entries.of_file(9)] == [1]
        assert ledger.entries.append([(3, "c", 1), (4, "d", 2)], "{}", 1) == 2
        assert migrations(ledger)[-1][0] == MIGRATIONS[-1].version


def _of_version_three(path: Path, rows: int) -> None:
    """Version 3 had the loss alone in its buckets; what they held does not matter, since they are made anew."""
    database = Database(path, utc_now, may_create=True)
    schema.install(database, MIGRATIONS[:3])
    database.write_many(
        "INSERT INTO steps VALUES (?, 0, ?, 1e-4, 0.5, 100, 80, 0.25, '')",
        ((number, 1.0 + number % 7) for number in range(1, rows + 1) if not 5000 < number < 30_000),
    )
    database.write("INSERT INTO step_buckets VALUES (64, 0, 1, 0, 1.0, 1.0, 1.0, 1, 1)")
    database.close()


def test_f6_a_ledger_of_version_three_gets_buckets_that_equal_those_of_a_new_one(
    ledger: Ledger, tmp_path: Path
) -> None:
    _of_version_three(tmp_path / "old.db", 31_000)
    with Ledger.open(tmp_path / "old.db") as migrated:
        rows = [row for page in migrated.steps.losses() for row in page]
        assert len(rows) == migrated.steps.count() == 6001
        ledger.steps.record(rows)
        for span in (64, 4096):
            made = migrated.steps.buckets(span, limit=1000)
            assert made == ledger.steps.buckets(span, limit=1000)
            assert sum(row.tokens for row in made) == 600_100
        assert migrated.steps.revision() == 0
        migrated.steps.record([StepRow(31_001, 0, 1.0, 1e-4, 0.5, 100, 80, 0.25)])


def test_control_buckets_are_wrong_where_the_migration_leaves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _of_version_three(tmp_path / "old.db", 100)
    statements = (*MIGRATIONS[:3], Migration(4, "no buckets", MIGRATIONS[3].statements), *MIGRATIONS[4:])
    monkeypatch.setattr(schema, "MIGRATIONS", statements)
    with Ledger.open(tmp_path / "old.db") as migrated:
        assert migrated.steps.count() == 0


def test_a_migration_that_fails_in_python_changes_nothing(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(database: Database) -> None:
        assert database.value("SELECT count(*) FROM notes") == 0
        raise StorageError("full")

    ledger.close()
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*MIGRATIONS, Migration(SECOND.version, "fails", SECOND.statements, fail))
    )
    with pytest.raises(StorageError, match="full"):
        Ledger.open(path)
    monkeypatch.undo()
    with Ledger.open(path) as still:
        assert migrations(still)[-1][0] == MIGRATIONS[-1].version
        assert connection(still).execute("SELECT name FROM sqlite_master WHERE name = 'notes'").fetchall() == []
