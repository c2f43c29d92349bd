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


def test_e1_a_file_that_was_renamed_into_place_is_taken_at_once(inbox):
    """It was there under an unfinished name, as the programs do that fetch or send files."""
    (inbox / ".a.jsonl.Xy12").write_text("x")
    (inbox / "b.jsonl.part").write_text("x")
    state = settled(None, scan(inbox), 0, 3600).state
    (inbox / ".a.jsonl.Xy12").rename(inbox / "a.jsonl")
    (inbox / "b.jsonl.part").rename(inbox / "b.jsonl")
    verdict = settled(state, scan(inbox), 1, 3600)
    assert ready(verdict) == [str(inbox / "a.jsonl"), str(inbox / "b.jsonl")]
    forgetful = watch.replace(state, unfinished={})
    assert ready(settled(forgetful, scan(inbox), 1, 3600)) == [], "control: not without what the last look saw"


def test_e1_an_inode_that_is_used_again_for_another_file_is_no_sign(inbox):
    (inbox / ".other.tmp").write_text("x")
    state = settled(None, scan(inbox), 0, 3600).state
    (inbox / ".other.tmp").rename(inbox / "half.jsonl")
    assert ready(settled(state, scan(inbox), 1, 3600)) == []


def test_e1_a_file_moved_here_with_content_that_had_rested_is_taken_at_once():
    moved = Found(Stamp(1, 1, 10, 1_000_000_000), 1, "a", 7_000_000_000)
    copied = Found(Stamp(1, 2, 10, 6_900_000_000), 1, "b", 7_000_000_000)
    now = Snapshot({"a": moved, "b": copied}, {})
    assert ready(settled(None, now, 100, 5)) == ["a"]
    assert ready(settled(None, now, 100, 6.5)) == [], "control: it had not rested for so long"


def test_e1_moving_a_file_sets_the_times_that_this_stands_on(tmp_path, inbox):
    (tmp_path / "a.jsonl").write_text("x")
    os.utime(tmp_path / "a.jsonl", (1_000_000_000, 1_000_000_000))
    (tmp_path / "a.jsonl").rename(inbox / "a.jsonl")
    (inbox / "b.jsonl").write_text("being copied")
    assert ready(settled(None, scan(inbox), 0, 3600)) == [str(inbox / "a.jsonl")]


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


def test_e2_control_without_the_list_half_a_download_is_taken(inbox, monkeypatch):
    (inbox / "b.jsonl.part").write_text("x")
    monkeypatch.setattr(watch, "_IGNORED_ENDINGS", ())
    assert names(inbox) == {"b.jsonl.part"}


def test_files_in_folders_have_names_with_the_folders(inbox):
    for place in ("a/b.jsonl", "a/c/d.jsonl", "high/a/b.jsonl", "low/x.jsonl", "a/high/e.jsonl", "high.jsonl"):
        (inbox / place).parent.mkdir(parents=True, exist_ok=True)
        (inbox / place).write_text("x")
    verdict = settled(None, scan(inbox), 0, 0)
    assert sorted((item.name, item.priority) for item in verdict.ready) == [
        ("a/b.jsonl", 0), ("a/b.jsonl", 1), ("a/c/d.jsonl", 1), ("a/high/e.jsonl", 1), ("high.jsonl", 1), ("x.jsonl", 2)
    ]  # fmt: skip


def test_e2_hidden_and_unfinished_folders_are_passed_over(inbox):
    for place in (".git/a", "download.part/b", "c~/d", "good/e"):
        (inbox / place).parent.mkdir()
        (inbox / place).write_text("x")
    assert names(inbox) == {"good/e"}
    assert scan(inbox).refused == {}


@pytest.mark.parametrize("place", ["linked", "deep/linked", "high/linked"])
def test_e13_a_linked_folder_is_not_followed(tmp_path, inbox, place):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jsonl").touch()
    (inbox / place).parent.mkdir(exist_ok=True)
    (inbox / place).symlink_to(tmp_path / "elsewhere")
    snapshot = scan(inbox)
    assert not snapshot.files
    assert "symbolic link" in snapshot.refused[str(inbox / place)]


def test_e13_control_following_links_would_find_the_secret(tmp_path, inbox, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jsonl").touch()
    (inbox / "linked").symlink_to(tmp_path / "elsewhere")
    real = os.scandir

    class Following:
        def __init__(self, entry: Any) -> None:
            self.name, self.path, self._entry = entry.name, entry.path, entry

        def stat(self, follow_symlinks: bool) -> os.stat_result:
            return self._entry.stat()

    class Folder(list[Any]):
        def __enter__(self) -> Folder:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Folder(map(Following, real(path))))
    assert names(inbox) == {"linked/secret.jsonl"}


def test_e13_folders_with_odd_names_are_refused_and_not_looked_into(inbox):
    for name in ("two\nlines", os.fsdecode(b"latin-\xe9")):
        (inbox / name).mkdir()
        (inbox / name / "a").touch()
    deep = inbox
    for _ in range(6):
        deep = deep / ("x" * 190)
        deep.mkdir()
    (deep / "a").touch()
    snapshot = scan(inbox)
    assert not snapshot.files
    assert sorted(reason.split(";")[0] for reason in snapshot.refused.values()) == [
        "its name holds a line break or another control character",
        "its name is not valid UTF-8",
        "its name with its folders is longer than 1000 bytes",
    ]


# --- settings beside a file


def test_a_file_and_the_settings_beside_it_settle_together():
    def at(clock: float, state: Watched | None, **sizes: int) -> watch.Verdict:
        return settled(state, look(**{name.replace("_", "."): size for name, size in sizes.items()}), clock, 5)

    first = at(0, None, a=1)
    second = at(4, first.state, a=1, a_toml=1)
    third = at(8, second.state, a=1, a_toml=1)
    assert (ready(third), third.waiting) == ([], 1), "the settings have not rested yet"
    assert ready(at(9, third.state, a=1, a_toml=1)) == ["a"]
    assert ready(at(5, first.state, a=1)) == ["a"], "control: alone it would have been taken"


def test_settings_alone_wait_and_are_told_once():
    first = settled(None, look(**{"a.toml": 1}), 0, 5)
    assert (first.waiting, first.refused) == (1, [])
    second = settled(first.state, look(**{"a.toml": 1}), 5, 5)
    assert (ready(second), second.waiting) == ([], 0)
    assert [item.reason for item in second.refused] == [watch.ALONE]
    third = settled(second.state, look(**{"a.toml": 1}), 6, 5)
    assert (third.refused, third.waiting) == ([], 0)
    assert ready(settled(third.state, look(**{"a.toml": 1, "a": 1}), 60, 0)) == ["a"]


def test_e13_a_file_whose_settings_are_a_link_is_not_taken_without_them(inbox):
    (inbox / "a.jsonl").write_text("x")
    (inbox / "a.jsonl.toml").symlink_to("/etc/passwd")
    verdict = settled(None, scan(inbox), 0, 0)
    assert (ready(verdict), verdict.waiting) == ([], 0)
    assert "the settings beside it" in verdict.refused[0].reason
    (inbox / "a.jsonl.toml").unlink()
    assert ready(settled(verdict.state, scan(inbox), 0, 0)) == [str(inbox / "a.jsonl")]


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
        (lambda path: path.symlink_to(path.parent), "folder", "symbolic link"),
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


def test_e15_what_a_broken_disk_cannot_even_name_holds_up_no_other_file(inbox, monkeypatch):
    (inbox / "bad").mkdir()
    (inbox / "good.jsonl").touch()
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "bad":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    snapshot = scan(inbox)
    assert list(snapshot.files) == [str(inbox / "good.jsonl")]
    assert snapshot.refused == {str(inbox / "bad"): "the folder cannot be read: Input/output error"}


def test_e15_control_without_the_check_an_unreadable_file_is_reported_as_ready(inbox, monkeypatch):
    (inbox / "secret.jsonl").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path))
    monkeypatch.setattr(watch, "_refusal", lambda *_: None)
    assert ready(settled(None, scan(inbox), 0, 0)) == [str(inbox / "secret.jsonl")]


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
    assert verdict.ready[0] == Ready(Path("/inbox/00000.jsonl"), 1, "00000.jsonl", 1)


def test_e16_control_in_the_order_of_the_folder_they_would_not() -> None:
    many = {f"/inbox/{(i * 7919) % 1000:05d}.jsonl": Found(Stamp(1, i, 1, 0), 1) for i in range(1000)}
    assert list(many) != sorted(many)


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
