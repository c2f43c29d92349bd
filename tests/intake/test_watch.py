"""The inbox: when a file is taken, what is ignored, what is refused. No sleeping: the clock is an argument."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightschool.errors import WorkspaceError
from nightschool.intake import watch
from nightschool.intake.watch import Found, Ready, Snapshot, Stamp, Watched, scan, settled


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    for name in ("high", "low"):
        (tmp_path / "inbox" / name).mkdir(parents=True)
    return tmp_path / "inbox"


def names(inbox: Path) -> set[str]:
    return {str(Path(path).relative_to(inbox)) for path in scan(inbox).files}


def look(**sizes: int) -> Snapshot:
    return Snapshot({name: Found(Stamp(1, 1, size, 0), 1) for name, size in sizes.items()}, {})


def ready(verdict: watch.Verdict) -> list[str]:
    return [str(item.path) for item in verdict.ready]


def test_e1_a_file_is_taken_once_it_has_rested():
    state: Watched | None = None
    seen: list[list[str]] = []
    for clock, size in ((0, 10), (3, 20), (6, 30), (9, 30), (10.9, 30), (11, 30), (12, 30)):
        verdict = settled(state, look(a=size), clock, 5)
        state = verdict.state
        seen.append(ready(verdict))
        assert verdict.waiting == (0 if clock >= 11 else 1)
    assert seen == [[], [], [], [], [], ["a"], []]


def test_e1_control_taking_it_at_first_sight_takes_half_a_file():
    assert ready(settled(None, look(a=10), 0, 0)) == ["a"]


@pytest.mark.parametrize("change", [{"inode": 2}, {"size": 11}, {"modified_ns": 1}, {"device": 2}])
def test_e3_a_file_that_is_replaced_or_written_to_must_rest_again(change):
    first = Stamp(1, 1, 10, 0)
    a = settled(None, Snapshot({"a": Found(first, 1)}, {}), 0, 5)
    b = settled(a.state, Snapshot({"a": Found(first._replace(**change), 1)}, {}), 4, 5)
    c = settled(b.state, Snapshot({"a": Found(first._replace(**change), 1)}, {}), 8, 5)
    assert ready(c) == []
    d = settled(c.state, Snapshot({"a": Found(first._replace(**change), 1)}, {}), 9, 5)
    assert ready(d) == ["a"]


def test_a_file_is_reported_once_unless_the_caller_keeps_the_old_state():
    before = settled(None, look(a=1), 0, 5).state
    first = settled(before, look(a=1), 5, 5)
    assert ready(first) == ["a"]
    assert ready(settled(before, look(a=1), 6, 5)) == ["a"], "nothing was recorded, so it is said again"
    assert ready(settled(first.state, look(a=1), 6, 5)) == []
    gone = settled(first.state, look(), 7, 5)
    again = settled(gone.state, look(a=1), 8, 0)
    assert ready(again) == ["a"], "the name was free in between: this is another file"


def test_e2_unfinished_and_hidden_names_are_ignored(inbox):
    for name in ("a.jsonl", ".hidden", "b.part", "c.tmp", "d~", "e.crdownload", "F.PART", "g.partial", "h.jsonl.tmp"):
        (inbox / name).write_text("x")
    assert names(inbox) == {"a.jsonl"}
    assert scan(inbox).refused == {}


def test_priorities_come_from_the_folders(inbox):
    for place in ("high/h", "n", "low/l"):
        (inbox / place).write_text("x")
    verdict = settled(None, scan(inbox), 0, 0)
    assert {(item.path.name, item.priority) for item in verdict.ready} == {("h", 0), ("n", 1), ("l", 2)}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    target = path.parent.parent / "secret.jsonl"
    target.write_text("secret")
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (_link, "x.jsonl", "symbolic link"),
        (_dangling, "x.jsonl", "symbolic link"),
        (_pipe, "x.jsonl", "named pipe"),
        (_socket, "x.jsonl", "socket"),
        (Path.mkdir, "folder", "folder"),
        (Path.touch, "two\nlines.jsonl", "line break"),
        (Path.touch, "bell\x07.jsonl", "control character"),
        (Path.touch, "u2028\u2028.jsonl", "line break"),
        (Path.touch, os.fsdecode(b"latin-\xe9.jsonl"), "not valid UTF-8"),
        (Path.touch, "x" * 201, "longer than 200 bytes"),
    ],
)
def test_e13_what_is_no_plain_file_with_a_plain_name_is_refused_and_never_opened(
    inbox: Path, make: Callable[[Path], Any], name: str, words: str
):
    make(inbox / name)
    (inbox / "good.jsonl").touch()
    snapshot = scan(inbox)
    assert names(inbox) == {"good.jsonl"}
    assert words in snapshot.refused[str(inbox / name)]
    first = settled(None, snapshot, 0, 0)
    assert [refused.path for refused in first.refused] == [inbox / name]
    assert settled(first.state, scan(inbox), 1, 0).refused == [], "told once"
    assert (inbox / name).is_symlink() or (inbox / name).exists(), "left where it is"


def test_e13_a_linked_priority_folder_is_not_followed(tmp_path, inbox):
    (inbox / "high").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jsonl").touch()
    (inbox / "high").symlink_to(tmp_path / "elsewhere")
    snapshot = scan(inbox)
    assert not snapshot.files
    assert "symbolic link" in snapshot.refused[str(inbox / "high")]


def test_e15_an_unreadable_file_is_told_once_and_others_proceed(inbox, monkeypatch):
    (inbox / "secret.jsonl").touch()
    (inbox / "good.jsonl").touch()
    # Tests may run as root, whom nothing is denied.
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path))
    first = settled(None, scan(inbox), 0, 0)
    assert ready(first) == [str(inbox / "good.jsonl")]
    assert "permission denied" in first.refused[0].reason
    assert settled(first.state, scan(inbox), 1, 0).refused == []
    monkeypatch.undo()
    assert ready(settled(first.state, scan(inbox), 2, 0)) == [str(inbox / "secret.jsonl")], "once it is readable"


def test_c10_a_missing_inbox_is_no_empty_one(tmp_path):
    with pytest.raises(WorkspaceError, match="not there"):
        scan(tmp_path / "inbox")


def test_missing_priority_folders_are_fine(tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a").touch()
    assert names(tmp_path / "inbox") == {"a"}


def test_e16_many_files_come_in_one_order_whatever_the_folder_says():
    many = {f"/inbox/{(i * 7919) % 100_000:05d}.jsonl": Found(Stamp(1, i, 1, 0), 1) for i in range(100_000)}
    verdict = settled(None, Snapshot(many, {}), 0, 0)
    assert [str(item.path) for item in verdict.ready] == sorted(many)
    assert verdict.ready[0] == Ready(Path("/inbox/00000.jsonl"), 1)


def test_e21_what_is_postponed_is_named_again_by_the_next_look():
    first = settled(None, look(a=1, b=1), 0, 0)
    put_off = watch.postponed(first, {Path("a"), Path("gone")})
    assert (ready(put_off), put_off.waiting) == (["b"], 1)
    assert ready(settled(put_off.state, look(a=1, b=1), 1, 0)) == ["a"]
    assert ready(settled(first.state, look(a=1, b=1), 1, 0)) == [], "control: without it, never again"


def test_e15_a_folder_that_cannot_be_written_is_told_and_the_others_go_on(inbox, monkeypatch):
    for name in ("high/a.jsonl", "b.jsonl"):
        (inbox / name).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "high" or not mode & os.W_OK)
    assert names(inbox) == {"b.jsonl"}
    assert scan(inbox).refused == {str(inbox / "high"): watch.UNWRITABLE}
