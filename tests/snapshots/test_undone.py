"""What cuts have taken out is kept for the last few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.snapshots import undone
from nightschool.workspace import Layout


@pytest.mark.parametrize(
    ("folders", "cuts", "keep", "gone"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3], 3, [0]),
        ([0, 1, 2, 3, 4], [1, 3], 1, [0, 1, 2]),
        ([0, 1, 2], [], 1, []),  # nothing but what was damaged
        ([5, 6], [5, 6], 3, []),
        ([], [], 1, []),
    ],
)
def test_the_latest_cuts_are_kept_and_all_that_came_after(
    folders: list[int], cuts: list[int], keep: int, gone: list[int]
) -> None:
    assert undone.surplus(folders, cuts, keep) == gone


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    with Ledger.create(layout.ledger) as ledger:
        for number in range(5):
            (layout.undone / str(number) / "checkpoint-7").mkdir(parents=True)
            (layout.undone / str(number) / "ledger.db").write_bytes(b"")
        (layout.undone / "notes").mkdir()
        (layout.current_model / "latest").symlink_to("../undone/1/checkpoint-7")
        assert undone.prune(layout, ledger, 3) == ["undone/0"]
        assert sorted(path.name for path in layout.undone.iterdir()) == ["1", "2", "3", "4", "notes"]
        (layout.current_model / "latest").unlink()
        assert undone.prune(layout, ledger, 3) == ["undone/1"]
        assert len(ledger.events.of_kind("undone-removed")) == 2
