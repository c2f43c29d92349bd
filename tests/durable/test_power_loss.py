"""Power cut at any point of any durable operation: what was acknowledged is there, and nothing half-done looks whole.

Each guarantee is one function that runs an operation under the recorder and looks at every state a power cut may
leave. The controls run the same function with syncs left out or with a wrong order, and it must complain.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.durable import effects
from nightschool.errors import StorageError

from .crash import (
    Mark,
    Recorder,
    Recording,
    WithoutFileSync,
    WithoutFolderSync,
    crash_states,
    holds_unless_broken,
    record,
)
from .faults import files_below, killed_at

NEW = {"adapter_model.safetensors": b"\x01\x02\x03" * 50, "optimizer.pt": b"moments" * 40, "sub/config.json": b"{}\n"}
OLD = {"adapter_model.safetensors": b"older", "optimizer.pt": b"older moments"}
SYNCS_LEFT_OUT = pytest.mark.parametrize("broken", [WithoutFolderSync, WithoutFileSync])
Save = Callable[[Path], None]


def fill(folder: Path, files: dict[str, bytes]) -> None:
    """Write files as torch or safetensors would: without any care for durability."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def save(parent: Path, files: dict[str, bytes] = NEW, name: str = "checkpoint-2600") -> None:
    """A checkpoint, in the way that is right."""
    folder = durable.staging(parent, "2600")
    fill(folder, files)
    durable.seal(folder, {"step": 2600})
    durable.publish(folder, parent / name)


def with_old_checkpoint(root: Path) -> Path:
    parent = root / "current_model"
    parent.mkdir(parents=True)
    save(parent, OLD, "checkpoint-900")
    return parent


def sealed_files(folder: Path) -> dict[str, bytes]:
    found = files_below(folder)
    found.pop(durable.MANIFEST, None)
    return found


# --- C1: a checkpoint -------------------------------------------------------------------------------------------


def look_at_every_state(recording: Recording, scratch: Path) -> int:
    """The promises about checkpoints, held against every state; returns how many states there were."""
    count = 0
    for count, state in enumerate(crash_states(recording), 1):  # noqa: B007
        parent = state.materialise(scratch) / "current_model"
        for swept in (False, True):  # before and after the clean-up that every start begins with
            if swept:
                durable.sweep(parent)
                assert not [path for path in parent.iterdir() if path.name.startswith(".")], state.story
            assert durable.check(parent / "checkpoint-900") == [], state.story
            assert sealed_files(parent / "checkpoint-900") == OLD, state.story
            new = parent / "checkpoint-2600"
            if new.exists():
                assert durable.check(new) == [], state.story
                assert sealed_files(new) == NEW, state.story
            assert new.exists() or "returned" not in state.marks, state.story
            for folder in parent.iterdir():
                if (folder / durable.MANIFEST).exists():
                    assert durable.check(folder) == [], f"a manifest before what it lists\n{state.story}"
    return count


def test_c1_checkpoint_survives_every_power_cut(tmp_path: Path) -> None:
    parent = with_old_checkpoint(tmp_path / "root")
    assert look_at_every_state(record(tmp_path / "root", lambda mark: save(parent)), tmp_path / "state") > 100


@SYNCS_LEFT_OUT
def test_c1_control_missing_syncs_are_caught(tmp_path: Path, broken: type[Recorder]) -> None:
    parent = with_old_checkpoint(tmp_path / "root")
    recording = record(tmp_path / "root", lambda mark: save(parent), broken)
    with pytest.raises(AssertionError):
        look_at_every_state(recording, tmp_path / "state")


def save_without_manifest(parent: Path) -> None:
    folder = durable.staging(parent, "2600")
    fill(folder, NEW)
    for path in (*folder.rglob("*"), folder):
        effects.sync_folder(path) if path.is_dir() else effects.sync_file(path)
    durable.publish(folder, parent / "checkpoint-2600")


def save_in_place_manifest_first(parent: Path) -> None:
    elsewhere = parent.parent.parent / "elsewhere"
    fill(elsewhere, NEW)
    durable.seal(elsewhere, {"step": 2600})
    durable.make_dirs(parent / "checkpoint-2600/sub")
    for name in (durable.MANIFEST, *NEW):
        durable.write_file(parent / "checkpoint-2600" / name, (elsewhere / name).read_bytes())


def save_manifest_too_early(parent: Path) -> None:
    folder = durable.staging(parent, "2600")
    fill(folder, NEW)
    durable.seal(folder, {"step": 2600})
    (folder / "optimizer.pt").write_bytes(NEW["optimizer.pt"])  # the same bytes, but written after they were synced
    durable.publish(folder, parent / "checkpoint-2600")


@pytest.mark.parametrize("broken", [save_without_manifest, save_in_place_manifest_first, save_manifest_too_early])
def test_c1_control_wrong_order_is_caught(tmp_path: Path, broken: Save) -> None:
    parent = with_old_checkpoint(tmp_path / "root")
    recording = record(tmp_path / "root", lambda mark: broken(parent))
    with pytest.raises(AssertionError):
        look_at_every_state(recording, tmp_path / "state")


def test_c1_moving_a_checkpoint_to_another_folder_leaves_it_in_one_of_the_two(tmp_path: Path) -> None:
    root = tmp_path / "root"
    parent = with_old_checkpoint(root)

    def action(mark: Mark) -> None:
        durable.make_dirs(root / "undone/3")
        durable.publish(parent / "checkpoint-900", root / "undone/3/checkpoint-900")

    for state in crash_states(record(root, action)):
        folder = state.materialise(tmp_path / "state")
        places = [folder / "current_model/checkpoint-900", folder / "undone/3/checkpoint-900"]
        there = [place for place in places if place.exists()]
        assert len(there) == 1, state.story
        assert durable.check(there[0]) == [], state.story
        assert there == places[1:] or "returned" not in state.marks, state.story


# --- B1, B2: the process dies and the disk does not ---------------------------------------------------------------


def test_b1_killed_ahead_of_every_change_of_a_save(tmp_path: Path) -> None:
    template = tmp_path / "template"
    with_old_checkpoint(template)
    root = tmp_path / "run"
    parent = root / "current_model"
    outcomes, killed = [], True
    for point in range(100):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        killed = killed_at(point, lambda: save(parent))
        assert durable.check(parent / "checkpoint-900") == []
        new = parent / "checkpoint-2600"
        if new.exists():
            assert durable.check(new) == []
            assert sealed_files(new) == NEW
        outcomes.append(new.exists())
        durable.sweep(parent)
        if not new.exists():
            save(parent)  # the next run is not in the way of what the killed one left
        assert {path.name for path in parent.iterdir()} == {"checkpoint-900", "checkpoint-2600"}
        if not killed:
            break
    assert not killed, "the save has more changes than this test kills at"
    assert outcomes == sorted(outcomes), "once it is there it stays there"
    assert outcomes.count(False) > 10


# --- remove_tree, sweep -------------------------------------------------------------------------------------------


def whole_or_gone(recording: Recording, scratch: Path) -> None:
    for state in crash_states(recording):
        parent = state.materialise(scratch) / "current_model"
        old = parent / "checkpoint-900"
        if old.exists():
            assert durable.check(old) == [], state.story
            assert "returned" not in state.marks, state.story
        durable.sweep(parent)
        assert {path.name for path in parent.iterdir()} <= {"checkpoint-900"}, state.story


def test_b4_remove_tree_never_leaves_half_a_folder(tmp_path: Path) -> None:
    parent = with_old_checkpoint(tmp_path / "root")
    whole_or_gone(
        record(tmp_path / "root", lambda mark: durable.remove_tree(parent / "checkpoint-900")), tmp_path / "s"
    )
    assert not list(parent.iterdir())


def delete_where_it_stands(folder: Path) -> None:
    for path in folder.iterdir():
        effects.active().unlink(path)
    effects.active().rmdir(folder)
    effects.sync_folder(folder.parent)


@pytest.mark.parametrize(
    ("broken_remove", "broken_recorder"),
    [(delete_where_it_stands, Recorder), (durable.remove_tree, WithoutFolderSync)],
    ids=["deleted in place", "no folder sync"],
)
def test_b4_control_other_ways_to_remove_are_caught(
    tmp_path: Path, broken_remove: Save, broken_recorder: type[Recorder]
) -> None:
    parent = with_old_checkpoint(tmp_path / "root")
    recording = record(tmp_path / "root", lambda mark: broken_remove(parent / "checkpoint-900"), broken_recorder)
    with pytest.raises(AssertionError):
        whole_or_gone(recording, tmp_path / "s")


@pytest.mark.parametrize("recorder", [Recorder, WithoutFolderSync])
def test_b4_retention_after_a_run_that_was_killed_right_after_its_rename(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    """The new checkpoint is seen but not yet certain; removing the old one first makes the new one certain."""
    root = tmp_path / "root"
    parent = with_old_checkpoint(root)

    def action(mark: Mark) -> None:
        folder = durable.staging(parent, "2600")
        fill(folder, NEW)
        durable.seal(folder, {})
        effects.active().rename(folder, parent / "checkpoint-2600")  # and here it was killed
        durable.remove_tree(parent / "checkpoint-900")

    def some_checkpoint_is_whole() -> None:
        for state in crash_states(record(root, action, recorder)):
            folder = state.materialise(tmp_path / "s") / "current_model"
            whole = [name for name in ("checkpoint-900", "checkpoint-2600") if not durable.check(folder / name)]
            assert whole, state.story

    holds_unless_broken(some_checkpoint_is_whole, recorder)


def test_sweep_removes_only_what_has_a_temporary_name_and_says_what(tmp_path: Path) -> None:
    for name in (".tmp-1-ab", ".trash-cd", "checkpoint-1", ".hidden", "checkpoint-1/.tmp-inside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / ".tmp-file").write_text("x")
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "checkpoint-1")
    assert durable.sweep(tmp_path) == [".tmp-1-ab", ".tmp-file", ".tmp-link", ".trash-cd"]
    assert sorted(os.listdir(tmp_path)) == [".hidden", "checkpoint-1"]  # noqa: PTH208
    assert (tmp_path / "checkpoint-1/.tmp-inside/x").exists()
    assert (tmp_path / "checkpoint-1/x").exists(), "a link was followed"
    assert durable.sweep(tmp_path / "nowhere") == []


def test_remove_tree_takes_files_and_missing_things_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/a").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").write_text("x")
    for name in ("link", "tree", "file", "nothing"):
        durable.remove_tree(tmp_path / name)
    assert files_below(tmp_path) == {"kept/a": b"x"}


# --- small print --------------------------------------------------------------------------------------------------


def test_g6_publish_never_replaces_not_even_an_empty_folder(tmp_path: Path) -> None:
    for final in (tmp_path / "checkpoint-1", tmp_path / "broken-link"):
        folder = durable.staging(tmp_path, "1")
        durable.seal(folder)
        final.symlink_to("nowhere") if "link" in final.name else final.mkdir()
        with pytest.raises(StorageError, match=f"{final.name}.*already taken"):
            durable.publish(folder, final)
        assert durable.check(folder) == []


def test_a_workspace_reached_through_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    durable.write_file(link / "a", "x")
    durable.make_dirs(link / "b/c")
    save(link)
    assert durable.check(tmp_path / "real/checkpoint-2600") == []


def test_make_dirs_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for path in (tmp_path / "a", tmp_path / "a/b"):
        with pytest.raises(StorageError):
            durable.make_dirs(path)


def test_the_manifest_keeps_the_callers_fields(tmp_path: Path) -> None:
    folder = durable.staging(tmp_path, "x")
    (folder / "a").write_text("hello")
    extra = {"lineage": "ab12", "step": 7, "nested": {2: [1.5, None], 10: "ü"}}
    sealed = durable.seal(folder, extra)
    read = durable.read_manifest(folder)
    assert read == sealed
    assert read.extra == {"lineage": "ab12", "step": 7, "nested": {"2": [1.5, None], "10": "ü"}}
    assert (read.files["a"].bytes, read.bytes) == (5, 5)
    assert json.loads((folder / durable.MANIFEST).read_text())["format"] == 1
    with pytest.raises(ValueError, match="files"):
        durable.seal(folder, {"files": 1})
