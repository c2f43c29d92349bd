"""Taking a snapshot: what is in it, what it costs, when there is none, and what an accident leaves."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from nightschool import durable, inforce
from nightschool.errors import BusyError, CheckpointError, SettingsError, StorageError
from nightschool.ledger import Ledger
from nightschool.record import read_record
from nightschool.snapshots import states, take
from nightschool.snapshots.cut import PENDING
from nightschool.workspace import Layout
from tests.durable.crash import Recorder as DiskRecorder
from tests.durable.crash import WithoutFolderSync, crash_states, holds_unless_broken, record
from tests.durable.faults import Hooked, failing, killed_at
from tests.snapshots import made


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = made.workspace(tmp_path / "ws")
    made.checkpoint(found, 20)
    made.checkpoint(found, 30)
    return found


def test_a_snapshot_holds_the_newest_checkpoint_the_model_the_ledger_and_the_settings(layout: Layout) -> None:
    taken = made.snapshot(layout)
    folder = layout.snapshots / "2026-11-22"
    assert durable.check(folder) == []
    assert durable.check(folder / "checkpoint-30") == []
    assert states.read_snapshot(folder) == taken
    assert (taken.step, taken.file, taken.kind) == (30, "3.jsonl", "daily")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).samefile(layout.checkpoint(30) / name)
    for name in made.TOKENIZER:
        assert (folder / name).read_text() == f"the {name}"
    assert not (folder / "optimizer.pt").exists()
    assert (folder / "nightschool.toml").read_text() == made.TOML
    copy = folder.parent / "copy.db"
    shutil.copyfile(folder / states.LEDGER, copy)
    with Ledger.open(copy) as ledger:
        assert ledger.steps.count() == 40
        assert len(ledger.entries.all()) == 4
    assert made.events(layout, "snapshot") == ["Took the snapshot 2026-11-22 of step 30."]
    (found,) = states.of_snapshot(taken)
    assert states.problems(found, made.ROOT) == []
    assert states.find(layout, "latest").folder == folder / "checkpoint-30"


def test_a12_a_settings_file_that_is_broken_just_now_is_not_what_a_snapshot_keeps(layout: Layout) -> None:
    inforce.accept(layout, made.TOML.encode())
    layout.settings_file.write_text("[model\n")
    made.snapshot(layout)
    assert (layout.snapshots / "2026-11-22" / "nightschool.toml").read_text() == made.TOML


def test_a12_where_nothing_was_accepted_it_keeps_the_file_as_it_is(layout: Layout) -> None:
    layout.settings_file.write_text("[model\n")
    made.snapshot(layout)
    assert (layout.snapshots / "2026-11-22" / "nightschool.toml").read_text() == "[model\n"


def test_a_fully_trained_model_loads_from_the_root_too(tmp_path: Path) -> None:
    layout = made.workspace(tmp_path / "ws")
    made.checkpoint(layout, 10, full=True)
    folder = made.snapshot(layout).folder
    assert (folder / "model.safetensors").samefile(layout.checkpoint(10) / "model.safetensors")
    assert (folder / "config.json").exists()


def test_linked_files_are_not_read_again_and_take_no_room(layout: Layout) -> None:
    read = 0
    real = os.readv

    def readv(fd: int, buffers: list[memoryview]) -> int:
        nonlocal read
        count = real(fd, buffers)
        read += count
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "readv", readv)
        folder = made.snapshot(layout).folder
    state = sum(copied.bytes for copied in durable.read_manifest(layout.checkpoint(30)).files.values())
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1)
    manifest = (layout.checkpoint(30) / durable.MANIFEST).stat().st_size
    top = (folder / durable.MANIFEST).stat().st_size
    # The state once, to verify it; what was copied twice, to copy and to seal it.
    assert read <= state + manifest + 2 * own
    assert own - top == sum(
        path.stat().st_size for path in (folder / states.LEDGER, folder / "nightschool.toml", *_tokenizer(folder))
    )


def test_what_did_not_change_since_the_snapshot_before_is_linked_to_it(layout: Layout) -> None:
    first = made.snapshot(layout, "2026-11-21").folder
    layout.settings_file.write_text(made.TOML + "# changed\n")
    second = made.snapshot(layout).folder
    assert all((first / name).samefile(second / name) for name in made.TOKENIZER)
    assert not (first / "nightschool.toml").samefile(second / "nightschool.toml")
    assert (first / "nightschool.toml").read_text() == made.TOML


def _tokenizer(folder: Path) -> list[Path]:
    return [folder / name for name in made.TOKENIZER]


def test_settings_that_only_their_owner_may_read_stay_so(layout: Layout) -> None:
    """Also where a snapshot from before they were closed holds the same bytes."""
    made.snapshot(layout, "2026-11-21")
    layout.settings_file.chmod(0o600)
    for name in ("2026-11-22", "2026-11-23"):
        assert stat.S_IMODE((made.snapshot(layout, name).folder / "nightschool.toml").stat().st_mode) == 0o400


def test_everything_in_it_is_read_only(layout: Layout) -> None:
    folder = made.snapshot(layout).folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o444}
    # and retention of the checkpoints can remove its own name of such a file all the same
    durable.remove_tree(layout.checkpoint(30))
    assert durable.check(folder) == []


def test_c8_where_links_are_impossible_the_bytes_are_copied_and_compared(layout: Layout) -> None:
    def before(number: int, name: str, args: tuple) -> None:
        if name == "link" and ".tmp-" not in args[0].name:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    with durable.use(Hooked(before)):
        folder = made.snapshot(layout).folder
    assert durable.check(folder) == durable.check(folder / "checkpoint-30") == []
    assert not (folder / "adapter_model.safetensors").samefile(layout.checkpoint(30) / "adapter_model.safetensors")


def test_a_copy_that_came_out_different_is_dropped(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    real = durable.copy_file

    def copy_file(source: Path, target: Path) -> durable.Copied:
        done = real(source, target)
        if source.name == "optimizer.pt":
            target.write_bytes(b"x" * done.bytes)
        return done

    monkeypatch.setattr(durable, "link_or_copy", lambda source, target: bool(copy_file(source, target)) and False)
    with pytest.raises(StorageError, match=r"optimizer\.pt came out different"):
        made.snapshot(layout)
    assert list(layout.snapshots.iterdir()) == []


def test_a_damaged_newest_checkpoint_is_passed_over(layout: Layout) -> None:
    path = layout.checkpoint(30) / "optimizer.pt"
    path.write_bytes(bytes(len(path.read_bytes())))
    assert made.snapshot(layout).step == 20
    path = layout.checkpoint(20) / "optimizer.pt"
    path.chmod(0o644)
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(CheckpointError, match=r"no checkpoint to take.*checkpoint-30.*does not match its hash"):
        made.snapshot(layout, "other", "named")


def test_a_checkpoint_of_another_history_is_passed_over(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.entries.replace_all(ledger.entries.all()[:2])  # cut at step 20; what is beyond was not moved yet
    assert made.snapshot(layout).step == 20


def test_while_a_cut_is_not_finished_none_is_taken(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set(PENDING, {"step": 20})
    with pytest.raises(BusyError, match="interrupted and is not finished"):
        made.snapshot(layout)


def test_nothing_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Nothing has been saved yet"):
        made.snapshot(made.workspace(tmp_path / "ws"))


def test_a_name_that_is_taken_is_refused_and_the_old_one_stays(layout: Layout) -> None:
    first = made.snapshot(layout, "before-the-fair", "named")
    made.checkpoint(layout, 40)
    with pytest.raises(StorageError, match="There is a snapshot called before-the-fair already"):
        made.snapshot(layout, "before-the-fair", "named")
    assert states.snapshots(layout.snapshots) == [first]


@pytest.mark.parametrize(
    "name",
    ["", ".hidden", "a/b", "..", "latest", "Current", "undo", "base", "origin", "1250", "checkpoint-3", "2026-11-22",
     "2026-13-45", "a\nb", "-rf", "x" * 101, "a b"],
)  # fmt: skip
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="A snapshot cannot be called"):
        take.check_name(name)


@pytest.mark.parametrize("name", ["before-the-fair", "v1.2", "Übung_3", "2026-11-22-1405", "7b"])
def test_other_names_are_fine(name: str) -> None:
    take.check_name(name)


def test_a_snapshot_without_a_name_gets_the_time(layout: Layout) -> None:
    assert take.free_name(layout, made.NOW) == "2026-11-22-0300"
    made.snapshot(layout, "2026-11-22-0300", "named")
    assert take.free_name(layout, made.NOW) == "2026-11-22-0300-2"


def test_retention_that_removes_the_checkpoint_meanwhile_makes_it_begin_again(layout: Layout) -> None:
    def before(number: int, name: str, args: tuple) -> None:
        if name == "link" and "checkpoint-30" in str(args[0]) and layout.checkpoint(30).exists():
            made.checkpoint(layout, 40)
            durable.remove_tree(layout.checkpoint(30))

    with durable.use(Hooked(before)):
        taken = made.snapshot(layout)
    assert taken.step == 40
    assert durable.check(taken.folder) == []
    assert [path.name for path in layout.snapshots.iterdir()] == ["2026-11-22"]


def test_g1_a_snapshot_during_a_save_holds_whole_checkpoints_only(layout: Layout) -> None:
    staged = made.checkpoint(layout, 40, publish=False)
    (staged / durable.MANIFEST).unlink()
    taken = made.snapshot(layout)
    assert (taken.step, durable.check(taken.folder)) == (30, [])


def test_a_folder_that_is_not_there_is_never_an_empty_one(layout: Layout) -> None:
    made.snapshot(layout)
    layout.snapshots.rename(layout.root / "elsewhere")
    with pytest.raises(StorageError, match="is not there, and it held snapshots"):
        made.snapshot(layout, "again", "named")
    assert not layout.snapshots.exists()


def test_a_workspace_from_before_there_were_snapshots_gets_the_folder(layout: Layout) -> None:
    layout.snapshots.rmdir()
    assert made.snapshot(layout).folder.is_dir()


# --- accidents --------------------------------------------------------------------------------------------------


def old_or_new(layout: Layout) -> None:
    for folder in layout.snapshots.iterdir():
        if not folder.name.startswith("."):
            assert durable.check(folder) == [], folder.name
            assert durable.check(folder / f"checkpoint-{states.read_snapshot(folder).step}") == []
    assert durable.check(layout.checkpoint(30)) == []


def points(layout: Layout, scratch: Path) -> int:
    """How many changes taking a snapshot makes."""
    disk = Hooked(lambda *_: None)
    shutil.copytree(layout.root, scratch)
    with durable.use(disk):
        made.snapshot(Layout(scratch), "2026-11-23")
    return len(disk.calls)


def test_sigkill_at_every_change_leaves_the_old_state_or_the_new(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a kill loses nothing that was written, and time is dear
    made.snapshot(layout, "2026-11-21")
    count = points(layout, tmp_path / "scratch")
    assert count > 30
    present = 0
    for point in range(count):
        name = f"named-{point}"
        assert killed_at(point, lambda name=name: made.snapshot(layout, name, "named"))
        old_or_new(layout)
        present += (layout.snapshots / name).exists()
    assert present <= 3  # between the rename and the end there is only its sync, and clearing up
    made.snapshot(layout)
    assert [path for path in layout.snapshots.iterdir() if path.name.startswith(".")] == []


def test_control_a_snapshot_that_is_filled_under_its_own_name_is_caught(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def staging(parent: Path, label: str) -> Path:
        (parent / label).mkdir()
        return parent / label

    monkeypatch.setattr(durable, "staging", staging)
    monkeypatch.setattr(durable, "publish", lambda *_: None)
    killed_at(15, lambda: made.snapshot(layout, "named", "named"))
    with pytest.raises((AssertionError, CheckpointError)):
        old_or_new(layout)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_leaves_nothing_behind(layout: Layout, code: int) -> None:
    made.snapshot(layout, "2026-11-21")
    for at in range(0, 60, 4):
        try:
            with durable.use(failing(at, code, ("create", "write", "sync", "mkdir", "rename"))):
                made.snapshot(layout, f"named-{at}", "named")
        except StorageError as error:
            assert error.errno == code  # noqa: PT017
            assert not (layout.snapshots / f"named-{at}").exists()
        old_or_new(layout)
    assert [path for path in layout.snapshots.iterdir() if path.name.startswith(".tmp")] == []


@pytest.mark.parametrize("recorder", [DiskRecorder, WithoutFolderSync])
def test_after_a_power_cut_an_acknowledged_snapshot_is_there_and_whole(
    tmp_path: Path, recorder: type[DiskRecorder]
) -> None:
    layout = made.workspace(tmp_path / "ws")
    made.checkpoint(layout, 30, size=20)

    def act(mark: object) -> None:
        made.snapshot(layout)

    recording = record(layout.root, act, recorder)

    def promises() -> None:
        for state in crash_states(recording, limit=12):
            here = Layout(state.materialise(tmp_path / "after"))
            folder = here.snapshots / "2026-11-22"
            if folder.exists():
                assert durable.check(folder) == [], state.story
                assert read_record(folder / "checkpoint-30").step == 30
            else:
                assert "returned" not in state.marks, state.story
            assert durable.check(here.checkpoint(30)) == [], state.story

    holds_unless_broken(promises, recorder)
