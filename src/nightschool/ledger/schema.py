"""The migrations of the ledger: what each version added, applied in one transaction and recorded in the file itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nightschool import __version__
from nightschool.errors import StorageError, WorkspaceError
from nightschool.ledger import boundaries, buckets, checkpoints, entries, events, files, holdouts, machine, steps
from nightschool.ledger.database import Database

APPLICATION_ID = 0x6E736368
"""Marks the file as ours in its header ("nsch"); `file` and database browsers show it."""


@dataclass(frozen=True, slots=True)
class Migration:
    """The statements that lead from one version to the next. Never edited once released: add another instead.

    `then` does what cannot be said in SQL, after them and in the same transaction.
    """

    version: int
    name: str
    statements: tuple[str, ...]
    then: Callable[[Database], None] | None = None


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "first version",
        (
            "CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL, "
            "applied_by TEXT NOT NULL)",
            *files.SCHEMA,
            *entries.SCHEMA,
            *steps.SCHEMA,
            *buckets.SCHEMA,
            *checkpoints.SCHEMA,
            *boundaries.SCHEMA,
            *events.SCHEMA,
            *machine.SCHEMA,
        ),
    ),
    Migration(2, "entries over several files, hold-out losses", (*entries.SEVERAL_FILES, *holdouts.SCHEMA)),
    Migration(3, "files that are moved in the queue, or wait with the rest of their steps", files.MOVED),
    Migration(
        4, "tokens, time and gradient norms in the rolled-up steps", (*buckets.WIDER, *steps.REVISION), buckets.make_all
    ),
)


def install(database: Database, migrations: tuple[Migration, ...] | None = None) -> None:
    """Make every table in a file that has none. Raises WorkspaceError where there is something already."""
    with database.transaction():
        if database.value("SELECT count(*) FROM sqlite_master"):
            raise WorkspaceError(
                f"{database.path} exists already; nothing was changed. Use the workspace that is there."
            )
        database.write(f"PRAGMA application_id={APPLICATION_ID}")
        _apply(database, 0, migrations or MIGRATIONS)


def migrate(database: Database, migrations: tuple[Migration, ...] | None = None) -> None:
    """Bring an existing ledger to the present version.

    Raises StorageError where the file is empty, is another program's, or was written by a newer nightschool; none of
    them is changed.
    """
    migrations = migrations or MIGRATIONS
    version = _version(database, migrations)
    if version == migrations[-1].version:
        return
    with database.transaction():
        # Another process may have migrated while this one waited for the lock.
        _apply(database, _version(database, migrations), migrations)


def _version(database: Database, migrations: tuple[Migration, ...]) -> int:
    """The version of the file, checked to be one that these migrations can start from."""
    version, known = int(database.value("PRAGMA user_version")), migrations[-1].version
    if database.value("PRAGMA application_id") != APPLICATION_ID:
        empty = not database.value("SELECT count(*) FROM sqlite_master")
        detail = "is empty" if empty else "is a database of another program"
        raise StorageError(
            f"{database.path} {detail}, not the record of a workspace. `nightschool doctor --rebuild-ledger` "
            "makes it again; or restore it from a backup. Nothing was changed."
        )
    if version > known:
        by = database.row("SELECT applied_by FROM migrations ORDER BY version DESC LIMIT 1")
        raise StorageError(
            f"{database.path} has format {version}; this is nightschool {__version__}, which reads formats up to "
            f"{known}. Use nightschool {by[0] if by else '(newer)'} or later. Nothing was changed."
        )
    return version


def _apply(database: Database, version: int, migrations: tuple[Migration, ...]) -> None:
    for migration in migrations:
        if migration.version <= version:
            continue
        for statement in migration.statements:
            database.write(statement)
        if migration.then is not None:
            migration.then(database)
        database.write(
            "INSERT INTO migrations (version, name, applied_at, applied_by) VALUES (?, ?, ?, ?)",
            (migration.version, migration.name, database.now(), __version__),
        )
        database.write(f"PRAGMA user_version={migration.version}")
