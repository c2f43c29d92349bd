"""When saved states were read whole: of the very bytes that lie there now, or it does not count."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.cli import main
from nightschool.ledger import Ledger
from nightschool.record import write_generation
from nightschool.snapshots import verified as marks
from nightschool.verify import report
from nightschool.workspace import Layout
from tests.snapshots import made

CHECKPOINT = "current_model/checkpoint-20"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = made.workspace(tmp_path / "ws", steps=20)
    made.checkpoint(layout, 10)
    made.checkpoint(layout, 20)
    made.snapshot(layout)
    return layout


def later() -> datetime:
    """After all that was just written, whatever the file system's clock says of it."""
    return datetime.now(UTC) + timedelta(seconds=1)


def read(layout: Layout) -> dict[Path, str | None]:
    with Ledger.open(layout.ledger) as ledger:
        return marks.read_all(layout, ledger)


def test_what_was_read_is_known_with_its_time(layout: Layout) -> None:
    assert marks.verified(layout) == {}
    at = later()
    marks.record(layout, read(layout), at)
    found = marks.verified(layout)
    assert found.keys() == {"current_model/checkpoint-10", CHECKPOINT, "snapshots/2026-11-22"}
    assert {one.problem for one in found.values()} == {None}
    assert datetime.fromisoformat(found[CHECKPOINT].at) == at.replace(microsecond=0)


def test_what_is_wrong_is_known_too(layout: Layout) -> None:
    (layout.checkpoint(10) / "optimizer.pt").unlink()
    (layout.checkpoint(20) / "MANIFEST.json").unlink()
    marks.record(layout, read(layout), later())
    found = marks.verified(layout)
    assert "optimizer.pt" in (found["current_model/checkpoint-10"].problem or "")
    assert found[CHECKPOINT].problem


def test_a_folder_whose_name_is_no_utf8_is_known_too(layout: Layout) -> None:
    name = os.fsdecode(b"caf\xe9")
    (layout.snapshots / name).mkdir()
    marks.record(layout, read(layout), later())
    assert marks.verified(layout)[f"snapshots/{name}"].problem


def test_a_state_that_was_written_anew_under_the_old_name_was_not_read(layout: Layout) -> None:
    marks.record(layout, read(layout), later())
    manifest = layout.checkpoint(20) / "MANIFEST.json"
    manifest.chmod(0o600)
    before = manifest.stat().st_mtime_ns
    os.utime(manifest, ns=(before, before + 1))
    assert CHECKPOINT not in marks.verified(layout)
    # The control: as it was, it counts.
    os.utime(manifest, ns=(before, before))
    assert CHECKPOINT in marks.verified(layout)


def test_a_state_that_was_written_after_the_reading_began_does_not_count(layout: Layout) -> None:
    marks.record(layout, read(layout), datetime.now(UTC) - timedelta(hours=1))
    assert marks.verified(layout) == {}


def test_what_is_gone_is_forgotten_and_what_was_not_read_stays(layout: Layout) -> None:
    marks.record(layout, read(layout), later())
    shutil.rmtree(layout.checkpoint(10))
    assert "current_model/checkpoint-10" not in marks.verified(layout)
    marks.record(layout, {layout.checkpoint(20): "a problem"}, later())
    assert {name: one.problem for name, one in marks.verified(layout).items()} == {
        CHECKPOINT: "a problem", "snapshots/2026-11-22": None,
    }  # fmt: skip
    assert "checkpoint-10" not in layout.verified.read_text()


def moved_while_read(layout: Layout, monkeypatch: pytest.MonkeyPatch, cut: bool, stays: bool = False) -> list[Path]:
    """checkpoint-20 is moved away while it is read for the first time, and back afterwards; what was read."""
    folder, seen = layout.checkpoint(20), list[Path]()
    real, away = durable.check, layout.undone / "1" / folder.name

    def check(path: Path, *arguments: Any, **more: Any) -> list[str]:
        seen.append(path)
        if path != folder or seen.count(path) > 1:
            return real(path, *arguments, **more)
        away.parent.mkdir(parents=True)
        folder.rename(away)
        if cut:
            write_generation(layout, 1)
        problems = real(path, *arguments, **more)
        if not stays:
            away.rename(folder)
        return problems

    monkeypatch.setattr(durable, "check", check)
    return seen


@pytest.mark.parametrize("cut", [True, False])
def test_a_checkpoint_that_a_cut_moves_away_and_back_while_it_is_read_is_not_called_damaged(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """Without a cut, the control, what is found missing is missing."""
    told = list[str]()
    moved_while_read(layout, monkeypatch, cut)
    with Ledger.open(layout.ledger) as ledger:
        found = marks.read_all(layout, ledger, told.append)
    assert (found[layout.checkpoint(20)] is None) == cut
    assert ("Reading checkpoint-20 once more: it was moved meanwhile." in told) == cut


@pytest.mark.parametrize("cut", [True, False])
def test_nor_does_the_command_call_it_so(layout: Layout, monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    seen = moved_while_read(layout, monkeypatch, cut)
    found = {one.step: one.problem for one in report(layout).checkpoints}
    assert (found[20] is None) == cut
    assert found[10] is None
    assert seen.count(layout.checkpoint(20)) == 1 + cut


def test_nor_one_that_a_cut_moved_away(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    moved_while_read(layout, monkeypatch, cut=True, stays=True)
    assert [one.step for one in report(layout).checkpoints if one.problem] == []
    assert layout.checkpoint(20) not in read(layout)


@pytest.mark.parametrize("what", ["damaged", "removed", "another"])
def test_a_snapshot_that_a_purge_removes_while_it_is_read_is_not_called_damaged(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Nor is a whole one of the same name that was taken afterwards. One that is damaged and stays, the control, is."""
    folder, copy, calls = layout.snapshots / "2026-11-22", layout.root / "copy", list[Path]()
    shutil.copytree(folder, copy, copy_function=shutil.copy)  # with times of its own
    real = durable.check

    def check(path: Path, *arguments: Any, **more: Any) -> list[str]:
        if path != folder or calls:
            return real(path, *arguments, **more)
        calls.append(path)
        if what == "damaged":
            next(folder.rglob("optimizer.pt")).unlink()
            return real(path, *arguments, **more)
        durable.remove_tree(folder)
        problems = real(path, *arguments, **more)
        if what == "another":
            copy.rename(folder)
        return problems

    monkeypatch.setattr(durable, "check", check)
    found = read(layout)
    assert (folder in found) == (what != "removed")
    assert bool(found.get(folder)) == (what == "damaged")
    assert {problem for path, problem in found.items() if path != folder} == {None}


def test_reading_can_be_ended_within_a_file(layout: Layout) -> None:
    calls: list[int] = []

    def between() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("enough")

    with Ledger.open(layout.ledger) as ledger, pytest.raises(KeyError):
        marks.read_all(layout, ledger, between=between)
    assert len(calls) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', '{"a": {"at": "x"}}', "[" * 100_000])
def test_a_file_that_makes_no_sense_says_nothing_and_is_written_anew(layout: Layout, text: str) -> None:
    layout.verified.write_text(text)
    assert marks.verified(layout) == {}
    marks.record(layout, read(layout), later())
    assert CHECKPOINT in marks.verified(layout)


def test_the_command_line_notes_what_it_reads_snapshots_with_deep_alone(layout: Layout) -> None:
    for name in (CHECKPOINT, "current_model/checkpoint-10", "snapshots/2026-11-22"):
        manifest = layout.root / name / "MANIFEST.json"
        manifest.chmod(0o600)
        os.utime(manifest, (1e9, 1e9))
    main(["-C", str(layout.root), "verify"])
    assert marks.verified(layout).keys() == {"current_model/checkpoint-10", CHECKPOINT}
    main(["-C", str(layout.root), "verify", "--deep"])
    assert "snapshots/2026-11-22" in marks.verified(layout)


def test_that_it_cannot_be_noted_does_not_make_verify_fail(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    layout.verified.mkdir()
    main(["-C", str(layout.root), "verify"])
    assert "checkpoint-20" in capsys.readouterr().out
    assert layout.verified.is_dir()
