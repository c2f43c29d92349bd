from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.rebuilding import making


@pytest.fixture
def at(cli: Run, tmp_path: Path) -> Run:
    layout = making.workspace(tmp_path / "ws")
    making.begin(layout, making.drop(layout, "a\u202e.jsonl"))
    making.save(layout, 3, known=1)
    making.archived(layout, "b.jsonl", "of b")
    making.ruin(layout, "garbage")
    return lambda *arguments: cli("-C", layout.root, *arguments)


def test_c9_the_doctor_shows_asks_and_makes_it_again(at: Run, tmp_path: Path) -> None:
    before = (tmp_path / "ws/.nightschool/ledger.db").read_bytes()
    shown = at("doctor", "--rebuild-ledger", "--dry-run")
    assert shown.code == 0
    assert "checkpoint-3 says what was learned, to step 3" in shown.out
    assert "1 archived, 1 learned" in shown.out
    assert "2 steps of 3 lose" in shown.out
    assert "\u202e" not in shown.out
    # Nobody is there to be asked.
    assert at("doctor", "--rebuild-ledger").code == 2
    assert (tmp_path / "ws/.nightschool/ledger.db").read_bytes() == before
    done = at("doctor", "--rebuild-ledger", "--yes")
    assert (done.code, "ledger.db.broken-" in done.out) == (0, True)
    assert at("files", "--json").json[0]["state"] == "learned"
    assert "lost with the old ledger" in at("verify").out
    again = at("doctor", "--rebuild-ledger", "--yes")
    assert (again.code, "is sound" in again.err) == (4, True)


def test_the_options_go_together(at: Run) -> None:
    assert at("doctor", "--dry-run").code == 2
    told = at("doctor", "--rebuild-ledger", "--dry-run", "--json").json
    assert (told["step"], told["done"], told["queued"]) == (3, False, ["b.jsonl"])
