"""The workspace whose ledger gets lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool.workspace import Layout
from tests.rebuilding import making


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two files learned, a third in the middle, two waiting: nine steps, of which seven are done."""
    layout = making.workspace(tmp_path / "ws")
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        id = making.drop(layout, name)
        making.begin(layout, id)
    making.save(layout, 5)
    making.save(layout, 7)
    making.drop(layout, "d.jsonl")
    making.drop(layout, "e10.jsonl", ready=False, day="2026-11-23")
    making.drop(layout, "e9.jsonl", ready=False, day="2026-11-23")
    return layout
