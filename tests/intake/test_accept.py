"""From the inbox to the archive: byte for byte, nothing lost at any moment, nothing followed, nothing overwritten."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.intake import accept, rejected, watch
from nightschool.ledger import Arrival

from .workspaces import TODAY, Killed, Workspace, dying, nested, take


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def test_a_file_is_archived_byte_for_byte_and_leaves_the_inbox(place):
    data = b'{"text": "a"}\r\n\x00\xff no matter what\n'
    number = place.drop("a.jsonl", data)
    assert take(place, number) == "archived"
    row = place.get(number)
    assert (row.state, row.bytes, row.sha256) == ("archived", len(data), hashlib.sha256(data).hexdigest())
    assert row.archive == f"archive/{TODAY}/a.jsonl"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": data}
    assert [event.kind for event in place.ledger.events.latest()] == ["file-archived"]


def test_e5_the_same_bytes_under_another_name_are_a_duplicate_that_is_named(place):
    first, second = place.drop("a.jsonl", b"x"), place.drop("b.jsonl", b"x")
    assert take(place, first) == "archived"
    assert take(place, second) == "duplicate"
    row = place.get(second)
    assert (row.state, row.duplicate_of) == ("duplicate", first)
    assert "a.jsonl" in (row.reason or "")
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x"}


def test_e5_control_without_the_hash_the_same_bytes_are_learned_twice(place, monkeypatch):
    monkeypatch.setattr(place.ledger.files, "find_learnable_duplicate", lambda *_: None)
    for name in ("a.jsonl", "b.jsonl"):
        assert take(place, place.drop(name, b"x")) == "archived"


def test_e6_control_with_one_name_for_both_the_second_file_finds_no_place(place, monkeypatch):
    monkeypatch.setattr(rejected, "free", lambda *_: True)
    take(place, place.drop("a.jsonl", b"1"))
    with pytest.raises(StorageError, match="already taken"):
        take(place, place.drop("a.jsonl", b"2"))


def test_e5_with_again_the_same_bytes_are_taken_once_more(place):
    take(place, place.drop("a.jsonl", b"x"))
    assert take(place, place.drop("a.jsonl", b"x", again=True)) == "archived"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x", f"archive/{TODAY}/a-2.jsonl": b"x"}


def test_e5_after_a_rejected_file_the_same_bytes_are_tried_again(place):
    first = place.drop("a.jsonl", b"x")
    take(place, first)
    place.ledger.files.reject(first, "because")
    assert take(place, place.drop("a.jsonl", b"x")) == "archived"


def test_e5_the_bytes_of_a_duplicate_take_the_place_of_an_archived_copy_that_vanished(place):
    take(place, place.drop("a.jsonl", b"x"))
    (place.layout.archive / TODAY / "a.jsonl").unlink()
    take(place, place.drop("b.jsonl", b"x"))
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x"}


def test_e6_the_same_name_with_other_bytes_is_a_new_file_and_overwrites_nothing(place):
    numbers = []
    for data in (b"1", b"2", b"3"):
        numbers.append(place.drop("a.jsonl", data))
        take(place, numbers[-1])
    assert set(place.tree().values()) == {b"1", b"2", b"3"}
    for number, data in zip(numbers, (b"1", b"2", b"3"), strict=True):
        assert (place.layout.root / (place.get(number).archive or "")).read_bytes() == data


@pytest.mark.parametrize("when", ["grows", "is replaced", "is truncated"])
def test_e3_a_file_that_changes_while_it_is_copied_is_read_again(place, monkeypatch, when):
    number = place.drop("a.jsonl", b"first version")
    source = place.layout.inbox / "a.jsonl"

    class Meddling(durable.Effects):
        done = False

        def sync(self, fd: int) -> None:
            super().sync(fd)

        def write(self, fd: int, data: memoryview) -> int:
            written = super().write(fd, data)
            if not self.done:
                self.done = True
                if when == "grows":
                    with source.open("ab") as file:
                        file.write(b" and more")
                elif when == "is truncated":
                    os.truncate(source, 3)
                else:
                    (source.parent / ".new").write_bytes(b"first version")
                    (source.parent / ".new").rename(source)
            return written

    with durable.use(Meddling()):
        assert take(place, number) == "later"
    assert place.rows() == []
    final = source.read_bytes()
    (number,) = place.look()
    assert take(place, number) == "archived"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": final}


def test_e3_control_without_a_second_look_what_was_written_meanwhile_is_lost(place, monkeypatch):
    number = place.drop("a.jsonl", b"first version")
    source = place.layout.inbox / "a.jsonl"
    real = durable.copy_file

    def grown(one: Path, other: Path) -> durable.Copied:
        copied = real(one, other)
        with source.open("ab") as file:
            file.write(b" and more")
        return copied

    monkeypatch.setattr(durable, "copy_file", grown)
    monkeypatch.setattr(accept, "stamp", lambda _: watch.Stamp(0, 0, 0, 0))
    assert take(place, number) == "archived"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"first version"}


def test_e3_a_file_replaced_after_it_was_copied_stays_in_the_inbox(place):
    number = place.drop("a.jsonl", b"old")
    source = place.layout.inbox / "a.jsonl"
    real = place.ledger.files.archived

    def replaced(*arguments: Any) -> None:
        real(*arguments)
        (source.parent / ".new").write_bytes(b"new")
        (source.parent / ".new").rename(source)

    place.ledger.files.archived = replaced
    assert take(place, number) == "archived"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"old", "inbox/a.jsonl": b"new"}
    (second,) = place.look()
    del place.ledger.files.archived
    take(place, second)
    assert set(place.tree().values()) == {b"old", b"new"}


@pytest.mark.parametrize("what", ["replaces", "appends to"])
def test_law_3_what_someone_writes_at_the_very_last_moment_is_not_removed(place, what):
    """The file changes between the last look at it and the change that takes it out of the inbox."""
    number = place.drop("a.jsonl", b"old")
    dropped = place.layout.inbox / "a.jsonl"

    class Meddling(durable.Effects):
        def rename(self, source: Path, target: Path) -> None:
            if source == dropped:
                if what == "replaces":
                    (dropped.parent / ".new").write_bytes(b"new")
                    (dropped.parent / ".new").rename(dropped)
                else:
                    with dropped.open("ab") as file:
                        file.write(b" and new")
            super().rename(source, target)

    with durable.use(Meddling()):
        assert take(place, number) == "archived"
    new = b"new" if what == "replaces" else b"old and new"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"old", "inbox/a.jsonl": new}
    assert take(place, place.look()[0]) == "archived"
    assert set(place.tree().values()) == {b"old", new}


def test_law_3_a_name_taken_again_while_the_old_file_is_aside_costs_neither(place):
    number = place.drop("a.jsonl", b"old")
    dropped = place.layout.inbox / "a.jsonl"

    class Meddling(durable.Effects):
        def rename(self, source: Path, target: Path) -> None:
            if source == dropped:
                dropped.write_bytes(b"second")
                super().rename(source, target)
                dropped.write_bytes(b"third")
            else:
                super().rename(source, target)

    with durable.use(Meddling()):
        take(place, number)
    assert set(place.tree().values()) == {b"old", b"second", b"third"}


def test_a_file_found_again_after_a_crash_before_recovery_is_a_duplicate_and_no_riddle(place):
    number = place.drop("a.jsonl", b"x")
    with contextlib.suppress(Killed), dying(place, 10_000) as counted:
        take(place, number)
    at = len(counted.names) - 1 - counted.names[::-1].index("rename")
    place.ledger.close()
    again = Workspace(place.layout.root.parent / "again")
    number = again.drop("a.jsonl", b"x")
    with contextlib.suppress(Killed), dying(again, at):
        take(again, number)
    again.restart()
    assert again.get(number).state == "archived"
    (second,) = again.look()
    accept.recover(again.layout, again.ledger)
    take(again, second)
    assert again.get(second).state == "duplicate"
    assert again.tree() == {f"archive/{TODAY}/a.jsonl": b"x"}


def test_e4_control_a_file_is_not_read_from_the_inbox_once_it_is_accepted(place):
    """What stands in the inbox under the old name afterwards is another file."""
    number = place.drop("a.jsonl", b"x")
    take(place, number)
    (place.layout.inbox / "a.jsonl").write_bytes(b"other")
    assert (place.layout.root / (place.get(number).archive or "")).read_bytes() == b"x"


def test_e4_a_file_removed_before_it_was_taken_is_said_to_be(place):
    number = place.drop("a.jsonl", b"x")
    (place.layout.inbox / "a.jsonl").unlink()
    assert take(place, number) == "rejected"
    assert "removed" in (place.get(number).reason or "")


def _link(path: Path) -> None:
    (path.parent.parent / "secret").write_bytes(b"secret")
    path.symlink_to(path.parent.parent / "secret")


@pytest.mark.parametrize("make", [_link, lambda path: os.mkfifo(path), Path.mkdir])
def test_e13_what_became_no_plain_file_is_refused_and_not_followed(place, make):
    number = place.drop("a.jsonl", b"x")
    path = place.layout.inbox / "a.jsonl"
    path.unlink()
    make(path)
    assert take(place, number) == "rejected"
    assert "not a plain file" in (place.get(number).reason or "")
    tree = place.tree("archive", "rejected", ".nightschool/incoming")
    assert list(tree) == ["rejected/a.jsonl.why.txt"]
    assert b"left where it is" in tree["rejected/a.jsonl.why.txt"]
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../evil.jsonl", "evil.jsonl"),
        ("/etc/evil.jsonl", "evil.jsonl"),
        ("a/../../../b.jsonl", "b.jsonl"),
        ("a/./b.jsonl", "a/b.jsonl"),
        ("a/b.jsonl", "a/b.jsonl"),
        (".tmp-12345678", "_.tmp-12345678"),
        (".trash-1/a", "_.trash-1/a"),
        ("..", "file"),
        (".", "file"),
    ],
)
def test_e13_a_name_never_leads_out_of_the_archive(place, name, kept):
    source = place.layout.incoming / "one"
    source.write_bytes(b"x")
    (number,) = place.ledger.files.arrive([Arrival(name, str(source))])
    take(place, number)
    assert place.get(number).archive == f"archive/{TODAY}/{kept}"
    place.restart()
    accept.recover(place.layout, place.ledger)
    assert place.tree() == {f"archive/{TODAY}/{kept}": b"x"}


def test_e13_control_a_name_taken_as_it_is_leads_out_of_the_archive(place, monkeypatch):
    monkeypatch.setattr(rejected, "_inside", Path)
    source = place.layout.incoming / "one"
    source.write_bytes(b"x")
    (number,) = place.ledger.files.arrive([Arrival("../../inbox/evil.jsonl", str(source))])
    take(place, number)
    assert (place.layout.inbox / "evil.jsonl").exists()


def test_a_file_in_a_folder_keeps_its_relative_name_in_the_archive_and_when_it_is_rejected(place):
    good, bad = nested(place, "a/b/c.jsonl", b"1"), nested(place, "a/b/d.jsonl", b"2")
    assert (take(place, good), take(place, bad)) == ("archived", "archived")
    rejected.reject(place.layout, place.ledger, place.get(bad), "because")
    tree = place.tree()
    assert set(tree) == {
        f"archive/{TODAY}/a/b/c.jsonl", "rejected/a/b/d.jsonl", "rejected/a/b/d.jsonl.why.txt"
    }  # fmt: skip
    assert place.get(bad).archive == "rejected/a/b/d.jsonl"


@pytest.mark.parametrize("order", [["a", "a/b.jsonl"], ["a/b.jsonl", "a"]])
def test_e6_a_file_and_a_folder_of_one_name_both_find_a_place(place, order):
    for name in order:
        source = place.layout.incoming / name.replace("/", "-")
        source.write_bytes(name.encode())
        (number,) = place.ledger.files.arrive([Arrival(name, str(source))])
        take(place, number)
        rejected.reject(place.layout, place.ledger, place.get(number), "because") if name != order[0] else None
    assert {name.encode() for name in order} <= set(place.tree().values())
    assert [row.state for row in place.rows()] == ["archived", "rejected"]
    rejected.reject(place.layout, place.ledger, place.get(1), "because")
    assert {name.encode() for name in order} <= set(place.tree("rejected").values())


def test_e13_a_folder_that_became_a_link_is_not_followed(place, tmp_path):
    number = nested(place, "a/b.jsonl", b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jsonl").write_bytes(b"secret")
    (place.layout.inbox / "a").rename(tmp_path / "away")
    (place.layout.inbox / "a").symlink_to(tmp_path / "elsewhere")
    assert take(place, number) == "rejected"
    assert "symbolic link" in (place.get(number).reason or "")
    assert (tmp_path / "elsewhere" / "b.jsonl").exists()
    assert b"secret" not in place.tree("archive", "rejected", ".nightschool/incoming").values()


def test_e13_control_without_that_look_the_link_is_followed(place, tmp_path, monkeypatch):
    monkeypatch.setattr(accept, "_through_link", lambda *_: None)
    number = nested(place, "a/b.jsonl", b"x")
    (place.layout.inbox / "a").rename(tmp_path / "away")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jsonl").write_bytes(b"secret")
    (place.layout.inbox / "a").symlink_to(tmp_path / "elsewhere")
    assert take(place, number) == "archived"


def test_e15_a_file_that_cannot_be_read_is_refused_and_the_next_proceeds(place, monkeypatch):
    bad, good = place.drop("a.jsonl", b"x"), place.drop("b.jsonl", b"y")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "a.jsonl" not in str(path) and real(path, mode))
    assert take(place, bad) == "rejected"
    assert "permission denied" in (place.get(bad).reason or "")
    assert take(place, good) == "archived"


def test_e15_a_file_on_a_broken_disk_is_refused_and_the_next_proceeds(place, monkeypatch):
    bad, good = place.drop("a.jsonl", b"x"), place.drop("b.jsonl", b"y")
    real, source = os.readv, place.layout.inbox / "a.jsonl"

    def broken(fd: int, buffers: Any) -> int:
        if os.fstat(fd).st_ino == source.stat().st_ino:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers)

    monkeypatch.setattr(os, "readv", broken)
    monkeypatch.setattr(accept, "_digest", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    assert take(place, bad) == "rejected"
    assert "Input/output error" in (place.get(bad).reason or "")
    monkeypatch.undo()
    assert take(place, good) == "archived"
    assert (place.layout.inbox / "a.jsonl").exists(), "left where it is"


def test_e21_a_file_that_is_open_for_writing_is_not_taken(place):
    number = place.drop("a.jsonl", b"x")
    with (place.layout.inbox / "a.jsonl").open("ab"):
        if not watch.held_open(place.layout.inbox / "a.jsonl"):
            pytest.skip("this file system grants no leases")
        assert take(place, number) == "later"
        assert place.rows() == [], "in the ledger it would hold up what is behind it"
    (again,) = place.look()
    assert take(place, again) == "archived"


def test_e21_control_without_the_lease_half_a_file_is_taken(place, monkeypatch):
    number = place.drop("a.jsonl", b"half")
    monkeypatch.setattr(accept, "held_open", lambda path: False)
    with (place.layout.inbox / "a.jsonl").open("ab"):
        assert take(place, number) == "archived"


def test_e21_a_folder_that_lets_go_of_nothing_holds_up_no_other_file(place, monkeypatch):
    stuck = place.drop("high/a.jsonl", b"x")
    handed = place.layout.incoming / "one"
    handed.write_bytes(b"y")
    (added,) = place.ledger.files.arrive([Arrival("b.jsonl", str(handed))])
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "high" and real(path, mode))
    assert take(place, stuck) == "later"
    assert [row.id for row in place.rows()] == [added]
    assert take(place, added) == "archived"
    assert (place.layout.inbox / "high" / "a.jsonl").read_bytes() == b"x"


def test_c8_without_hard_links_the_bytes_are_copied(place):
    class NoLinks(durable.Effects):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    number = place.drop("a.jsonl", b"x" * 100)
    with durable.use(NoLinks()):
        take(place, number)
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x" * 100}


def test_a_full_disk_is_a_storage_error_and_the_file_stays(place):
    number = place.drop("a.jsonl", b"x")

    class Full(durable.Effects):
        def write(self, fd: int, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with durable.use(Full()), pytest.raises(StorageError):
        take(place, number)
    assert place.tree() == {"inbox/a.jsonl": b"x"}
    assert place.get(number).state == "arrived"
    assert take(place, number) == "archived"


def test_bytes_handed_over_are_renamed_and_end_the_same(place):
    source = place.layout.incoming / "one"
    source.write_bytes(b"x")
    (number,) = place.ledger.files.arrive([Arrival("a.jsonl", str(source))])
    writes: list[str] = []

    class Watching(durable.Effects):
        def write(self, fd: int, data: memoryview) -> int:
            writes.append("write")
            return super().write(fd, data)

    with durable.use(Watching()):
        take(place, number)
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x"}
    assert not writes, "the bytes are not copied twice"


def test_what_others_are_writing_into_incoming_is_left_alone(place):
    (place.layout.incoming / ".tmp-12345678").write_bytes(b"half")
    (place.layout.incoming / "other").write_bytes(b"whole")
    accept.recover(place.layout, place.ledger)
    assert len(place.tree(".nightschool/incoming")) == 2


def test_bytes_that_the_ledger_does_not_know_are_left_alone(place):
    stray = place.layout.incoming / "taken" / "77"
    stray.parent.mkdir()
    stray.write_bytes(b"x")
    assert accept.recover(place.layout, place.ledger) == 0
    assert stray.exists()
