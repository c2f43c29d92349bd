from __future__ import annotations

from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.workspace import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "ws")
    found.create()
    Ledger.create(found.ledger).close()
    return found
