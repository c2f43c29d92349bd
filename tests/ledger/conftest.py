from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from tests.disk import tmp_path

__all__ = ["tmp_path"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "my-model" / ".nightschool"
    folder.mkdir(parents=True)
    return folder / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.create(path) as made:
        yield made
