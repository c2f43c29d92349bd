"""What several tests of the ledger need: child processes, the statements that ran, an impatient connection."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nightschool.ledger import Ledger, StepRow

PRELUDE = """
import os, sqlite3, sys
from pathlib import Path
from nightschool.errors import NightschoolError
from nightschool.ledger import Arrival, Ledger, StepRow
def say(text):
    print(text, flush=True)
"""


def connection(ledger: Ledger) -> sqlite3.Connection:
    return ledger._database._connection


def impatient(ledger: Ledger, milliseconds: int = 50) -> Ledger:
    """Do not wait 30 s for a lock in a test that expects it to be taken."""
    connection(ledger).execute(f"PRAGMA busy_timeout={milliseconds}")
    return ledger


def statements(ledger: Ledger, act: Callable[[], Any]) -> list[str]:
    """The SQL that ran during `act`, with its parameters filled in."""
    found: list[str] = []
    connection(ledger).set_trace_callback(found.append)
    try:
        act()
    finally:
        connection(ledger).set_trace_callback(None)
    return found


def plan(ledger: Ledger, sql: str) -> str:
    return " / ".join(str(row[3]) for row in connection(ledger).execute(f"EXPLAIN QUERY PLAN {sql}"))


def step(number: int, loss: float = 1.0, entry: int = 0) -> StepRow:
    return StepRow(number, entry, loss, 1e-4, 0.5, 100, 80, 0.25)


def child(code: str, *arguments: object, through: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a Python process that runs `code` after the prelude."""
    return subprocess.Popen(
        [*through, sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def output(process: subprocess.Popen[str], expect: int | None = 0) -> str:
    out, err = process.communicate(timeout=120)
    assert expect is None or process.returncode == expect, err
    return out


def strace(*options: str) -> list[str]:
    """The command that runs another under strace, or a skipped test where that is not possible."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("tracing is not allowed here")
    return ["strace", "-f", "-qq", *options]


def in_namespace(script: str, *arguments: object) -> list[str]:
    """The command that runs another in a mount namespace of its own, after `script` has prepared the mounts."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    own = f'set -e; mount --make-rprivate /; {script}; exec "${{@:{len(arguments) + 1}}}"'
    return ["unshare", "-m", "bash", "-c", own, "bash", *map(str, arguments)]


def copy_files(path: Path, to: Path) -> Path:
    """Copy a ledger and its journal as a crash would leave them."""
    to.mkdir(parents=True, exist_ok=True)
    for file in (path, path.with_name(path.name + "-journal")):
        if file.exists():
            shutil.copy(file, to / file.name)
    return to / path.name
