"""Small values by name that processes tell each other: the state of the machine, the trainer's progress, the root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nightschool.ledger.database import Database, decode, encode

SCHEMA = ("CREATE TABLE machine (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL) WITHOUT ROWID",)

SETTINGS_PROBLEM = "settings_problem"
"""The key for why the settings file, as it is now, is not taken by the running machine; not set while it is."""


class Machine:
    """The table `machine`: JSON values by key, each with the time it was set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str, default: Any = None) -> Any:
        """The value set for `key`, or `default`."""
        found = self._database.row("SELECT value FROM machine WHERE key = ?", (key,))
        return default if found is None else decode(found[0], self._database.path, f"the value of {key!r}")

    def set(self, key: str, value: Any) -> None:
        """Set a value made of JSON values and paths; NaN and infinities become text."""
        self._database.write(
            "INSERT OR REPLACE INTO machine (key, value, updated_at) VALUES (?, ?, ?)",
            (key, encode(value), self._database.now()),
        )

    def updated_at(self, key: str) -> str | None:
        """When the value was set last (UTC ISO 8601), or None where it never was."""
        found = self._database.row("SELECT updated_at FROM machine WHERE key = ?", (key,))
        return None if found is None else found[0]

    def all(self) -> dict[str, Any]:
        """Every value by its key, read in one go: they belong to the same moment."""
        rows = self._database.rows("SELECT key, value FROM machine ORDER BY key")
        return {key: decode(value, self._database.path, f"the value of {key!r}") for key, value in rows}

    def several(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of some keys, those that are set, read in one go."""
        marks = ", ".join("?" * len(keys))
        rows = self._database.rows(f"SELECT key, value FROM machine WHERE key IN ({marks})", tuple(keys))
        return {key: decode(value, self._database.path, f"the value of {key!r}") for key, value in rows}

    def delete(self, key: str) -> None:
        """Forget the value of `key`, if there is one."""
        self._database.write("DELETE FROM machine WHERE key = ?", (key,))
