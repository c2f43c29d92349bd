"""Power cut at any point of a change to a single file: the old or the new is there, and nothing taken in is lost.

As for whole folders in `test_power_loss`, each guarantee is a function that looks at every state, with controls.
"""

from __future__ import annotations

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

SYNCS_LEFT_OUT = pytest.mark.parametrize("broken", [WithoutFolderSync, WithoutFileSync])


# --- write_file, replace_file: the old or the new -----------------------------------------------------------------


def old_or_new(recording: Recording, scratch: Path, name: str, old: bytes | None, new: bytes) -> None:
    for state in crash_states(recording):
        path = state.materialise(scratch) / name
        found = path.read_bytes() if path.exists() else None
        assert found in (old, new), state.story
        assert found == new or "returned" not in state.marks, state.story


@pytest.mark.parametrize("old", [b"the old content, longer than the new", None])
def test_c1_write_file_gives_old_or_new(tmp_path: Path, old: bytes | None) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if old is not None:
        (root / "a").write_bytes(old)
    old_or_new(record(root, lambda mark: durable.write_file(root / "a", b"new")), tmp_path / "s", "a", old, b"new")


@SYNCS_LEFT_OUT
def test_c1_control_write_file_without_syncs_is_caught(tmp_path: Path, broken: type[Recorder]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"old")
    recording = record(root, lambda mark: durable.write_file(root / "a", b"new"), broken)
    with pytest.raises(AssertionError):
        old_or_new(recording, tmp_path / "s", "a", b"old", b"new")


def test_c1_control_writing_in_place_is_caught(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"old")

    def in_place(mark: Mark) -> None:
        (root / "a").write_bytes(b"new")
        effects.sync_file(root / "a")

    with pytest.raises(AssertionError):
        old_or_new(record(root, in_place), tmp_path / "s", "a", b"old", b"new")


def replace(root: Path, mark: Mark) -> None:
    durable.link_or_copy(root / "checkpoint/model", root / ".tmp-model")
    durable.replace_file(root / ".tmp-model", root / "model")


def with_model(root: Path) -> None:
    (root / "checkpoint").mkdir(parents=True)
    (root / "checkpoint/model").write_bytes(b"new weights")
    (root / "model").write_bytes(b"old")


def test_c1_replace_file_gives_old_or_new(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with_model(root)
    recording = record(root, lambda mark: replace(root, mark))
    old_or_new(recording, tmp_path / "s", "model", b"old", b"new weights")
    assert not (root / ".tmp-model").exists()


def test_c1_control_replace_file_without_folder_sync_is_caught(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with_model(root)
    recording = record(root, lambda mark: replace(root, mark), WithoutFolderSync)
    with pytest.raises(AssertionError):
        old_or_new(recording, tmp_path / "s", "model", b"old", b"new weights")


@pytest.mark.parametrize("recorder", [Recorder, WithoutFileSync, WithoutFolderSync])
def test_c1_replacing_by_what_other_code_just_wrote_elsewhere(tmp_path: Path, recorder: type[Recorder]) -> None:
    root = tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    (root / "model").write_bytes(b"old")

    def action(mark: Mark) -> None:
        (root / "tmp/model").write_bytes(b"new weights")
        durable.replace_file(root / "tmp/model", root / "model")

    def promises() -> None:
        recording = record(root, action, recorder)
        old_or_new(recording, tmp_path / "s", "model", b"old", b"new weights")
        for state in crash_states(recording):
            assert "tmp/model" not in state.tree or "returned" not in state.marks, state.story

    holds_unless_broken(promises, recorder)


@pytest.mark.parametrize("recorder", [Recorder, WithoutFolderSync])
@pytest.mark.parametrize("old", ["checkpoint-1", None])
def test_c1_replace_link_gives_old_or_new(tmp_path: Path, recorder: type[Recorder], old: str | None) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if old is not None:
        (root / "latest").symlink_to(old)

    def promises() -> None:
        for state in crash_states(
            record(root, lambda mark: durable.replace_link(root / "latest", "checkpoint-2"), recorder)
        ):
            link = state.materialise(tmp_path / "s") / "latest"
            found = str(link.readlink()) if link.is_symlink() else None
            assert found in (old, "checkpoint-2"), state.story
            assert found == "checkpoint-2" or "returned" not in state.marks, state.story

    holds_unless_broken(promises, recorder)


def test_replace_link_replaces_nothing_but_links(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("precious")
        with pytest.raises(StorageError, match="something else has that name"):
            durable.replace_link(tmp_path / name, "x")
    assert (tmp_path / "file").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("recorder", [Recorder, WithoutFileSync, WithoutFolderSync])
def test_c1_linking_what_other_code_just_wrote(tmp_path: Path, recorder: type[Recorder]) -> None:
    root = tmp_path / "root"
    root.mkdir()

    def action(mark: Mark) -> None:
        (root / "a").write_bytes(b"weights")
        durable.link_or_copy(root / "a", root / "b")

    def promises() -> None:
        for state in crash_states(record(root, action, recorder)):
            if "returned" in state.marks:
                assert "b" in state.tree, state.story
                assert state.tree["b"][2] == b"weights", state.story

    holds_unless_broken(promises, recorder)


def test_replace_file_leaves_no_second_name_where_both_are_one_file(tmp_path: Path) -> None:
    with_model(tmp_path)
    for _ in range(2):  # the second time `model` already is the checkpoint's file
        replace(tmp_path, lambda label: None)
    assert (tmp_path / "model").samefile(tmp_path / "checkpoint/model")
    assert not (tmp_path / ".tmp-model").exists()


# --- copy_file: Law 3 ---------------------------------------------------------------------------------------------

DATA = b'{"text": "a row"}\n' * 30


def copy_then_remove_the_source(root: Path, mark: Mark) -> None:
    """How a dropped file is taken in: only when the copy is certain does the original go."""
    copied = durable.copy_file(root / "inbox/a.jsonl", root / "archive/2026-11-22/a.jsonl")
    assert copied.bytes == len(DATA)
    durable.remove_file(root / "inbox/a.jsonl")


def nothing_is_lost(recording: Recording, scratch: Path) -> None:
    for state in crash_states(recording):
        folder = state.materialise(scratch)
        archived, dropped = folder / "archive/2026-11-22/a.jsonl", folder / "inbox/a.jsonl"
        if archived.exists():
            assert archived.read_bytes() == DATA, state.story
        assert archived.exists() or dropped.read_bytes() == DATA, state.story
        if "returned" in state.marks:
            assert archived.exists(), state.story
            assert not dropped.exists(), state.story


def with_inbox(root: Path) -> Path:
    (root / "inbox").mkdir(parents=True)
    (root / "inbox/a.jsonl").write_bytes(DATA)
    return root


def test_c1_a_file_taken_in_is_never_lost(tmp_path: Path) -> None:
    root = with_inbox(tmp_path / "root")
    nothing_is_lost(record(root, lambda mark: copy_then_remove_the_source(root, mark)), tmp_path / "s")


@SYNCS_LEFT_OUT
def test_c1_control_a_file_taken_in_without_syncs_is_lost(tmp_path: Path, broken: type[Recorder]) -> None:
    root = with_inbox(tmp_path / "root")
    recording = record(root, lambda mark: copy_then_remove_the_source(root, mark), broken)
    with pytest.raises((AssertionError, FileNotFoundError)):
        nothing_is_lost(recording, tmp_path / "s")


def test_c1_copying_into_a_folder_that_a_killed_run_did_not_sync(tmp_path: Path) -> None:
    root = with_inbox(tmp_path / "root")

    def action(mark: Mark) -> None:
        (root / "archive").mkdir()  # as by a run that was killed before it could sync
        copy_then_remove_the_source(root, mark)

    nothing_is_lost(record(root, action), tmp_path / "s")


def test_c8_copies_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = with_inbox(tmp_path / "root")

    def no_links(self: Recorder, source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Recorder, "link", no_links)
    recording = record(root, lambda mark: copy_then_remove_the_source(root, mark))
    nothing_is_lost(recording, tmp_path / "s")
    assert [op.text for op in recording.ops if op.text.startswith("rename")], "it was not the fallback that ran"
