"""The second place: incremental, verified, and never mistaken for another."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.errors import BusyError, StorageError
from nightschool.ledger import Ledger
from nightschool.snapshots import second, states
from nightschool.snapshots.holding import held
from nightschool.snapshots.retention import Rules
from nightschool.workspace import Layout
from tests.durable.faults import Hooked, failing, files_below, killed_at
from tests.snapshots import made

RULES = Rules(14, 8, 12)
TODAY = made.DAY


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = made.workspace(tmp_path / "ws")
    made.checkpoint(found, 20)
    made.snapshot(found, "2026-11-21", day=TODAY - timedelta(days=1))
    made.checkpoint(found, 30)
    made.snapshot(found, "2026-11-22")
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def copy(layout: Layout, place: Path, rules: Rules = RULES, today: date = TODAY) -> second.Summary:
    with Ledger.open(layout.ledger) as ledger:
        return second.copy(layout, ledger, place, rules, today)


def same(layout: Layout, place: Path) -> None:
    for name in ("snapshots", "archive"):
        assert files_below(place / name) == files_below(layout.root / name)


def test_everything_is_there_once_and_the_next_time_nothing_is_written(layout: Layout, place: Path) -> None:
    done = copy(layout, place)
    assert (done.snapshots, done.files, done.problems) == (["2026-11-21", "2026-11-22"], made.FILES, [])
    same(layout, place)
    # The model at the root of a snapshot is the file in its checkpoint, there too.
    folder = place / "snapshots" / "2026-11-22"
    assert (folder / "adapter_model.safetensors").samefile(folder / "checkpoint-30" / "adapter_model.safetensors")
    disk = Hooked(lambda *_: None)
    with durable.use(disk):
        again = copy(layout, place)
    assert (again.snapshots, again.files, again.bytes, again.linked) == ([], 0, 0, 0)
    assert not [args for name, args in disk.calls if name in ("create", "write", "link")]


def test_what_the_place_has_already_is_linked_and_not_copied(layout: Layout, place: Path) -> None:
    copy(layout, place)
    taken = made.snapshot(layout, "2026-11-23", day=TODAY + timedelta(days=1))  # an idle day: the same checkpoint
    done = copy(layout, place, today=TODAY + timedelta(days=1))
    state = sum(copied.bytes for copied in durable.read_manifest(layout.checkpoint(30)).files.values())
    assert done.snapshots == ["2026-11-23"]
    assert done.linked >= state
    assert done.bytes < (taken.folder / states.LEDGER).stat().st_size + 1000
    here, before = (place / "snapshots" / name / "checkpoint-30/optimizer.pt" for name in ("2026-11-23", "2026-11-22"))
    assert here.samefile(before)


def test_a_disk_without_links_gets_copies(layout: Layout, place: Path) -> None:
    def before(number: int, name: str, args: tuple) -> None:
        if name == "link":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with durable.use(Hooked(before)):
        done = copy(layout, place)
    assert not done.links
    same(layout, place)


def test_a_place_that_is_not_there_is_not_made(layout: Layout, place: Path) -> None:
    place.rmdir()
    with pytest.raises(StorageError, match=r"copy_to\) is not there, and is not made"):
        copy(layout, place)
    assert not place.exists()


def test_an_empty_mount_point_is_not_a_new_disk(layout: Layout, place: Path) -> None:
    copy(layout, place)
    place.rename(place.with_name("unmounted"))
    place.mkdir()
    with pytest.raises(StorageError, match=r"held copies, and nightschool-copy\.json is not there now"):
        copy(layout, place)
    assert list(place.iterdir()) == []


def test_two_workspaces_do_not_share_a_place(layout: Layout, place: Path, tmp_path: Path) -> None:
    copy(layout, place)
    other = made.workspace(tmp_path / "other")
    with pytest.raises(StorageError, match="holds the copies of another workspace"):
        copy(other, place)


def test_a_mark_that_was_written_before_a_crash_could_say_so_is_known_again(layout: Layout, place: Path) -> None:
    for point in range(4):
        killed_at(point, lambda: copy(layout, place))
    copy(layout, place)
    same(layout, place)


def test_retention_is_applied_there_too_and_named_ones_stay(layout: Layout, place: Path) -> None:
    made.snapshot(layout, "fair", "named")
    copy(layout, place)
    rules = Rules(1, 0, 0)
    done = copy(layout, place, rules)
    assert [verdict.snapshot.name for verdict in done.removed] == ["2026-11-21"]
    assert sorted(path.name for path in (place / "snapshots").iterdir()) == ["2026-11-22", "fair"]
    # It is at home still, and is not brought again only to go again.
    assert copy(layout, place, rules).snapshots == []
    shutil.rmtree(layout.snapshots / "fair")
    copy(layout, place, rules)
    assert (place / "snapshots" / "fair").exists()


def test_bytes_that_do_not_come_back_are_found(layout: Layout, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = durable.copy_file

    def copy_file(source: Path, target: Path) -> durable.Copied:
        done = real(source, target)
        if target.name == "optimizer.pt":
            target.write_bytes(b"x" * done.bytes)
        return done

    monkeypatch.setattr(durable, "copy_file", copy_file)
    with pytest.raises(StorageError, match="is not what comes back from there"):
        copy(layout, place)
    assert list((place / "snapshots").iterdir()) == []


def test_damage_there_is_told_and_never_spreads(layout: Layout, place: Path) -> None:
    copy(layout, place)
    there = place / "snapshots" / "2026-11-22" / "checkpoint-30" / "optimizer.pt"
    there.chmod(0o644)
    there.write_bytes(bytes(there.stat().st_size))
    made.snapshot(layout, "2026-11-23", day=TODAY + timedelta(days=1))
    done = copy(layout, place, today=TODAY + timedelta(days=1))
    assert done.problems == [f"{there} is damaged; it was left as it is, and its bytes were copied once more."]
    assert durable.check(place / "snapshots" / "2026-11-23") == []
    (place / "snapshots" / "2026-11-21" / states.LEDGER).unlink()
    assert any("2026-11-21 is damaged" in problem for problem in copy(layout, place).problems)


def test_damage_at_home_is_not_copied(layout: Layout, place: Path) -> None:
    path = layout.snapshots / "2026-11-22" / states.LEDGER
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(StorageError, match="is damaged: its bytes are not those"):
        copy(layout, place)
    assert [path.name for path in (place / "snapshots").iterdir()] == ["2026-11-21"]


def test_it_can_be_asked_to_stop_and_goes_on_later(layout: Layout, place: Path) -> None:
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 8

    with Ledger.open(layout.ledger) as ledger:
        second.want(ledger, str(place))
        with pytest.raises(second.Stopped):
            second.copy(layout, ledger, place, RULES, TODAY, stopping)
        assert second.wanted(ledger)
        second.copy(layout, ledger, place, RULES, TODAY)
        assert not second.wanted(ledger)
    same(layout, place)


def test_one_at_a_time(layout: Layout, place: Path) -> None:
    with held(place / second.LOCK, "a restore"), pytest.raises(BusyError):
        copy(layout, place)


def whole_or_absent(place: Path) -> None:
    for folder in (place / "snapshots").iterdir() if (place / "snapshots").exists() else []:
        if not folder.name.startswith("."):
            assert durable.check(folder) == [], folder.name
    for path in (place / "archive").rglob("*.jsonl") if (place / "archive").exists() else []:
        assert path.read_text() == f"rows of {path.name}\n" * 20


def test_sigkill_at_every_change_leaves_whole_snapshots_and_files_only(
    layout: Layout, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each life ends one change later, on a place that begins anew; the last one ends by itself."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a kill loses nothing that was written, and time is dear
    shutil.rmtree(layout.snapshots / "2026-11-21")
    for path in sorted((layout.archive / "2026-11-20").iterdir())[1:]:
        path.unlink()
    point = 0
    while killed_at(point, lambda: copy(layout, place)):
        whole_or_absent(place)
        if point % 16 == 0:  # and the next life goes on from what it left
            copy(layout, place)
            same(layout, place)
        shutil.rmtree(place)
        place.mkdir()
        with Ledger.open(layout.ledger) as ledger:
            ledger.machine.delete(second.ROW)
        point += 1
    assert point > 100
    same(layout, place)


def test_control_copies_under_their_own_names_are_caught(
    layout: Layout, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def staging(parent: Path, label: str) -> Path:
        (parent / label).mkdir()
        return parent / label

    monkeypatch.setattr(durable, "staging", staging)
    assert killed_at(150, lambda: copy(layout, place))
    with pytest.raises(AssertionError):
        whole_or_absent(place)


@pytest.mark.parametrize("at", range(5, 95, 24))
def test_a_full_disk_there_leaves_what_was_whole(layout: Layout, place: Path, at: int) -> None:
    with pytest.raises(StorageError), durable.use(failing(at, errno.ENOSPC, ("create", "write", "mkdir", "link"))):
        copy(layout, place)
    whole_or_absent(place)
    copy(layout, place)
    same(layout, place)
