"""Room for the next checkpoint."""

from __future__ import annotations

from pathlib import Path

from nightschool import room


def test_c5_the_next_checkpoint_and_what_is_kept_free_must_fit() -> None:
    assert room.room_needed(None, 5) == 5
    assert room.room_needed(3, 5) == 8
    assert room.too_little(8, 8) is None
    said = room.too_little(1_500_000_000, room.room_needed(3_000_000_000, room.GB))
    assert said is not None
    assert "4 GB" in said
    assert "1.5 GB" in said
    assert "machine.min_free_gb" in said


def test_what_is_free_is_what_the_disk_says(tmp_path: Path) -> None:
    assert room.free_bytes(tmp_path) > 0
