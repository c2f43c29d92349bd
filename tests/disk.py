"""Folders on a disk, for rooms whose tests are about one; those of others may be in memory: see `tests.conftest`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In the place of pytest's own: a new folder where programs have their temporary files."""
    with tempfile.TemporaryDirectory(prefix="nightschool-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()
