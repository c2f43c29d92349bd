"""The enumerator of crash states itself: it must neither forget a state that a disk allows nor invent one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool import durable
from nightschool.durable import effects

from .crash import Recording, State, crash_states, record


def contents(recording: Recording, name: str, mark: str = "returned") -> set[bytes | None]:
    """What a file may hold (None: it is not there) in all states that come after `mark`."""
    return {
        state.tree[name][2] if name in state.tree else None for state in crash_states(recording) if mark in state.marks
    }


def raw_write(path: Path, data: bytes, sync: bool) -> None:
    fd = effects.active().create(path)
    effects.active().write(fd, memoryview(data))
    if sync:
        effects.active().sync(fd)
    effects.active().close(fd)


def test_a_write_without_any_sync_may_be_there_absent_empty_halved_or_zeros(tmp_path: Path) -> None:
    recording = record(tmp_path, lambda mark: raw_write(tmp_path / "a", b"data", sync=False))
    assert contents(recording, "a") == {None, b"", b"da", bytes(4), b"data"}


def test_a_synced_file_in_an_unsynced_folder_is_whole_or_absent(tmp_path: Path) -> None:
    recording = record(tmp_path, lambda mark: raw_write(tmp_path / "a", b"data", sync=True))
    assert contents(recording, "a") == {None, b"data"}


def test_a_synced_folder_keeps_the_entry_but_not_the_content(tmp_path: Path) -> None:
    def action(mark: object) -> None:
        raw_write(tmp_path / "a", b"data", sync=False)
        effects.sync_folder(tmp_path)

    assert contents(record(tmp_path, action), "a") == {b"", b"da", bytes(4), b"data"}


def test_both_syncs_make_it_certain(tmp_path: Path) -> None:
    def action(mark: object) -> None:
        raw_write(tmp_path / "a", b"data", sync=True)
        effects.sync_folder(tmp_path)

    assert contents(record(tmp_path, action), "a") == {b"data"}


def test_a_rename_over_an_old_file_gives_the_old_or_the_new_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def action(mark: object) -> None:
        raw_write(tmp_path / "b", b"new", sync=True)
        effects.sync_folder(tmp_path)
        effects.active().rename(tmp_path / "b", tmp_path / "a")

    recording = record(tmp_path, action)
    assert contents(recording, "a") == {b"old", b"new"}
    assert contents(recording, "b") == {b"new", None}
    for state in crash_states(recording):  # the file is never under both names, nor under neither
        if "returned" in state.marks:
            assert ("b" in state.tree) == (state.tree["a"][2] == b"old"), state.story


def test_a_rename_between_folders_is_certain_once_both_are_synced(tmp_path: Path) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from/a").write_bytes(b"x")

    def action(mark: object) -> None:
        effects.active().rename(tmp_path / "from/a", tmp_path / "to/a")
        effects.sync_folder(tmp_path / "to")

    recording = record(tmp_path, action)
    assert contents(recording, "to/a") == {None, b"x"}

    def both(mark: object) -> None:
        effects.active().rename(tmp_path / "to/a", tmp_path / "from/a")
        effects.sync_folder(tmp_path / "to")
        effects.sync_folder(tmp_path / "from")

    assert contents(record(tmp_path, both), "from/a") == {b"x"}


def test_removals_may_come_back_one_by_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def action(mark: object) -> None:
        effects.active().unlink(tmp_path / "a")
        effects.active().unlink(tmp_path / "b")

    states = [state for state in crash_states(record(tmp_path, action)) if "returned" in state.marks]
    assert {frozenset(state.tree) for state in states} == {frozenset(names) for names in ("", "a", "b", "ab")}


def test_two_names_of_one_file_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")

    def action(mark: object) -> None:
        effects.active().link(tmp_path / "a", tmp_path / "b")

    linked = [state for state in crash_states(record(tmp_path, action)) if "b" in state.tree]
    folder = linked[0].materialise(tmp_path / "out")
    assert (folder / "a").samefile(folder / "b")


def test_what_other_code_writes_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    (tmp_path / "gone").write_text("x")

    def action(mark: object) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/a").write_bytes(b"data")
        (tmp_path / "kept").write_text("longer")
        (tmp_path / "gone").unlink()
        (tmp_path / "link").symlink_to("sub")

    recording = record(tmp_path, action)
    assert contents(recording, "sub/a") == {None, b"", b"da", bytes(4), b"data"}
    assert contents(recording, "kept") == {b"old", b"", b"lon", bytes(6), b"longer"}
    assert contents(recording, "gone") == {None, b"x"}
    assert contents(recording, "link") == {None, b"sub"}


def test_a_state_is_made_real_as_it_is_described(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()

    def action(mark: object) -> None:
        durable.make_dirs(root / "x/y")
        durable.write_file(root / "x/y/a", "hello")
        (root / "x/link").symlink_to("y")

    last = everything(record(root, action))
    folder = last.materialise(out)
    assert (folder / "x/y/a").read_text() == "hello"
    assert (folder / "x/link").is_symlink()
    assert "power cut after" in last.story
    last.materialise(out)  # the same folder serves for the next state


def everything(recording: Recording) -> State:
    """The state in which nothing was lost."""
    complete = [state for state in crash_states(recording) if "returned" in state.marks and "LOST" not in state.story]
    return complete[-1]


def test_too_many_combinations_are_spread_and_said_so(tmp_path: Path) -> None:
    def action(mark: object) -> None:
        for number in range(12):
            raw_write(tmp_path / f"f{number}", b"data", sync=False)

    recording = record(tmp_path, action)
    last = [state for state in crash_states(recording, limit=200) if "returned" in state.marks]
    assert not any(state.exhaustive for state in last)
    assert 100 < len(last) <= 200  # some choices give the same tree
    alone_lost = [
        state for state in last if len(state.tree) == 11 and all(v[2] == b"data" for v in state.tree.values())
    ]
    assert len(alone_lost) >= 12  # each file missing while all others are whole
    again = [state for state in crash_states(recording, limit=200) if "returned" in state.marks]
    assert [state.tree for state in again] == [state.tree for state in last]  # the choice is always the same


def test_an_exception_passes_through_and_the_real_disk_is_back(tmp_path: Path) -> None:
    def action(mark: object) -> None:
        raise RuntimeError("x")

    with pytest.raises(RuntimeError):
        record(tmp_path, action)
    assert type(effects.active()) is durable.Effects
