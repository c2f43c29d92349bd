"""From the inbox to the archive: byte for byte, nothing lost at any moment, nothing followed, nothing overwritten."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.intake import accept, rejected, watch
from nightschool.ledger import Arrival

from .workspaces import TODAY, Killed, Workspace, dying


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def take(place: Workspace, number: int) -> accept.Outcome:
    return accept.take(place.layout, place.ledger, place.get(number), TODAY)


def test_a_file_is_archived_byte_for_byte_and_leaves_the_inbox(place):
    data = b'{"text": "a"}\r\n\x00\xff no matter what\n'
    number = place.drop("a.jsonl", data)
    assert take(place, number) == "archived"
    row = place.get(number)
    assert (row.state, row.bytes, row.sha256) == ("archived", len(data), hashlib.sha256(data).hexdigest())
    assert row.archive == f"archive/{TODAY}/a.jsonl"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": data}
    assert [event.kind for event in place.ledger.events.latest()] == ["file_archived"]


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


def nested(place: Workspace, name: str, data: bytes, arrive: bool = True, **options: Any) -> int:
    path = place.layout.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return place.ledger.files.arrive([Arrival(name, str(path), options=options)])[0] if arrive else 0


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


# --- a crash between any two steps


def fill(place: Workspace) -> None:
    """A plain file, the same bytes again, the same name with other bytes, and one handed over."""
    place.drop("a.jsonl", b"one")
    place.drop("b.jsonl", b"one")
    (place.layout.inbox / "low").mkdir(exist_ok=True)
    (place.layout.inbox / "low" / "a.jsonl").write_bytes(b"two")
    (place.layout.incoming / "handed").write_bytes(b"three")
    place.ledger.files.arrive(
        [
            Arrival("a.jsonl", str(place.layout.inbox / "low" / "a.jsonl"), 2),
            Arrival("c.jsonl", str(place.layout.incoming / "handed")),
        ]
    )


def take_all(place: Workspace) -> None:
    while row := place.ledger.files.next_to_take():
        accept.take(place.layout, place.ledger, row, TODAY)


def test_law_3_a_crash_between_any_two_steps_ends_in_the_same_result(tmp_path):
    calm = Workspace(tmp_path / "calm")
    fill(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    expected = calm.picture()
    assert set(expected["files"].values()) == {b"one", b"two", b"three"}
    assert counted.count > 60
    for point in range(counted.count):
        place = Workspace(tmp_path / str(point))
        fill(place)
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        # At the moment of the crash, every byte is somewhere.
        assert {b"one", b"two", b"three"} <= set(place.tree().values()), point
        place.restart()
        accept.recover(place.layout, place.ledger)
        place.look()
        take_all(place)
        assert place.picture() == expected, (point, counted.names[point])
        assert not list(place.layout.incoming.rglob("*.*"))
        place.ledger.close()


def test_law_3_two_crashes_in_a_row_end_in_the_same_result(tmp_path):
    calm = Workspace(tmp_path / "calm")
    fill(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    expected = calm.picture()
    for first in range(0, counted.count, 11):
        for second in range(0, 30, 5):
            place = Workspace(tmp_path / f"{first}-{second}")
            fill(place)
            with contextlib.suppress(Killed), dying(place, first):
                take_all(place)
            place.restart()
            with contextlib.suppress(Killed), dying(place, second):
                accept.recover(place.layout, place.ledger)
                place.look()
                take_all(place)
            place.restart()
            accept.recover(place.layout, place.ledger)
            place.look()
            take_all(place)
            assert place.picture() == expected, (first, second)
            place.ledger.close()


def test_control_clearing_the_inbox_before_the_bytes_are_kept_loses_them(tmp_path, monkeypatch):
    """The broken variant: the file goes first. Some crash point then leaves the bytes nowhere."""
    real = accept._copy

    def careless(layout: Any, source: Path, staged: Path) -> Any:
        data = source.read_bytes()
        durable.remove_file(source)
        source.write_bytes(data)
        return real(layout, source, staged)

    monkeypatch.setattr(accept, "_copy", careless)
    lost = 0
    for point in range(12):
        place = Workspace(tmp_path / str(point))
        place.drop("a.jsonl", b"one")
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        lost += b"one" not in place.tree().values()
        place.ledger.close()
    assert lost


def test_control_without_recovery_some_crash_ends_differently(tmp_path):
    different = 0
    calm = Workspace(tmp_path / "calm")
    fill(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    for point in range(0, counted.count, 5):
        place = Workspace(tmp_path / str(point))
        fill(place)
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        place.restart()
        place.look()
        take_all(place)
        different += place.picture() != calm.picture()
        place.ledger.close()
    assert different


# --- duplicates of what is refused later


def twins(place: Workspace) -> list[int]:
    """A file and two more with its bytes, all taken."""
    numbers = [place.drop(name, b"same") for name in ("a.odd", "b.jsonl", "c.jsonl")]
    take_all(place)
    assert [place.get(n).state for n in numbers] == ["archived", "duplicate", "duplicate"]
    return numbers


def refuse_and_go_on(place: Workspace) -> None:
    if place.get(1).state == "archived":
        rejected.reject(place.layout, place.ledger, place.get(1), "its name")
    take_all(place)


def test_e5_when_a_file_is_rejected_the_next_with_its_bytes_takes_its_place(place):
    first, second, third = twins(place)
    refuse_and_go_on(place)
    assert [place.get(n).state for n in (first, second, third)] == ["rejected", "archived", "duplicate"]
    assert place.get(third).duplicate_of == second
    assert (place.layout.root / (place.get(second).archive or "")).read_bytes() == b"same"
    assert place.tree("rejected")["rejected/a.odd"] == b"same"
    assert not place.tree(".nightschool/incoming", "inbox")


def test_law_3_what_is_mended_in_the_folder_of_rejected_files_stays_out_of_the_archive(place):
    """People open a rejected file where it lies, and many editors write into the file that is there."""
    first, second, _ = twins(place)
    rejected.reject(place.layout, place.ledger, place.get(first), "wrong")
    take(place, second)
    with (place.layout.root / str(place.get(first).archive)).open("ab") as file:
        file.write(b"mended")
    kept = place.layout.root / str(place.get(second).archive)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == place.get(second).sha256


def test_e5_bytes_that_changed_in_the_archive_are_not_what_the_duplicate_had(place):
    first, second, _ = twins(place)
    (place.layout.root / (place.get(first).archive or "")).write_bytes(b"other")
    refuse_and_go_on(place)
    assert place.get(second).state == "duplicate"


def test_law_3_a_crash_while_duplicates_are_put_back_ends_in_the_same_result(tmp_path):
    calm = Workspace(tmp_path / "calm")
    twins(calm)
    with dying(calm, 10_000) as counted:
        refuse_and_go_on(calm)
    for point in range(counted.count):
        place = Workspace(tmp_path / str(point))
        twins(place)
        with contextlib.suppress(Killed), dying(place, point):
            refuse_and_go_on(place)
        place.restart()
        accept.recover(place.layout, place.ledger)
        refuse_and_go_on(place)
        assert place.picture() == calm.picture(), (point, counted.names[point])
        place.ledger.close()


# --- settings beside a file


def drop_pair(place: Workspace, settings: bytes, name: str = "a.jsonl", data: bytes = b"x", **options: Any) -> int:
    path = place.layout.inbox / name
    path.with_name(path.name + ".toml").write_bytes(settings)
    return place.drop(name, data, **options)


def test_settings_beside_a_file_become_its_own_and_lie_beside_it_in_the_archive(place):
    settings = b'epochs = 3\n[columns]\nprompt = "ask"\n'
    number = drop_pair(place, settings)
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 3, "columns": {"prompt": "ask"}}
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x", f"archive/{TODAY}/a.jsonl.toml": settings}


def test_what_a_file_was_handed_over_with_counts_over_the_settings_beside_it(place):
    for ending, data in (("", b"x"), (".toml", b'epochs = 3\n[columns]\nprompt = "ask"\ntext = "t"\n')):
        (place.layout.incoming / f"one{ending}").write_bytes(data)
    given = {"epochs": 5, "columns": {"prompt": "q"}}
    (number,) = place.ledger.files.arrive([Arrival("a.jsonl", str(place.layout.incoming / "one"), options=given)])
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 5, "columns": {"prompt": "q", "text": "t"}}
    assert set(place.tree()) == {f"archive/{TODAY}/a.jsonl", f"archive/{TODAY}/a.jsonl.toml"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (b"epoch = 3", "did you mean `epochs`?"),
        (b"colums = {}", "did you mean `columns`?"),
        (b"learning_rate = 1", "known: columns, epochs"),
        (b"epochs = 0", "whole number from 1 on"),
        (b"epochs = true", "whole number from 1 on"),
        (b"epochs = ", "not valid TOML"),
        (b"columns = 3", "table of names"),
        (b"[columns]\npromt = 'ask'", 'did you mean "prompt"'),
        (b"[columns]\nprompt = 3", "must name a column"),
        (b"\xff\xfe", "not valid UTF-8"),
        (b"#" * 70_000, "longer than"),
    ],
)
def test_settings_that_are_of_no_use_set_both_files_aside_with_the_reason(place, settings, words):
    number = drop_pair(place, settings)
    assert take(place, number) == "rejected"
    assert words in (place.get(number).reason or "")
    tree = place.tree()
    assert words in tree.pop("rejected/a.jsonl.why.txt").decode()
    assert tree == {"rejected/a.jsonl": b"x", "rejected/a.jsonl.toml": settings}
    assert take(place, drop_pair(place, b"epochs = 2")) == "archived", "put right, it is taken"


def test_law_3_the_settings_of_a_duplicate_are_kept(place):
    take(place, place.drop("a.jsonl", b"x"))
    number = drop_pair(place, b"epochs = 2", "b.jsonl")
    assert take(place, number) == "duplicate"
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x", f"archive/{TODAY}/b.jsonl.toml": b"epochs = 2"}
    assert place.get(number).options == {"epochs": 2}


def test_e6_settings_of_another_file_never_come_to_lie_beside_one_that_has_none(place):
    take(place, place.drop("a.jsonl", b"x"))
    take(place, drop_pair(place, b"epochs = 2", "b.jsonl"))
    number = place.drop("b.jsonl", b"y")
    take(place, number)
    assert place.get(number).archive == f"archive/{TODAY}/b-{number}.jsonl"


def test_e3_settings_written_after_the_file_was_reported_settle_with_it_first(place):
    number = place.drop("a.jsonl", b"x")
    path = place.layout.inbox / "a.jsonl.toml"
    path.write_bytes(b"epochs = 2")
    late = datetime.fromisoformat(place.get(number).arrived_at).timestamp() + 0.01
    os.utime(path, (late, late))
    while time.time() <= late:
        time.sleep(0.001)
    assert take(place, number) == "later"
    assert place.rows() == []
    (number,) = place.look()
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 2}


def test_settings_changed_after_they_were_read_stay_in_the_inbox(place):
    number = drop_pair(place, b"epochs = 2")
    real = place.ledger.files.archived

    def changed(*arguments: Any) -> None:
        real(*arguments)
        (place.layout.inbox / "a.jsonl.toml").write_bytes(b"epochs = 3")

    place.ledger.files.archived = changed
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 2}
    assert place.tree()["inbox/a.jsonl.toml"] == b"epochs = 3"
    assert place.tree()[f"archive/{TODAY}/a.jsonl.toml"] == b"epochs = 2"


def pairs(place: Workspace) -> None:
    """A file in a folder with its settings, the same bytes with others, one with bad settings, one handed over."""
    nested(place, "a/one.jsonl.toml", b"epochs = 2", arrive=False)
    nested(place, "a/one.jsonl", b"one")
    drop_pair(place, b"epochs = 3", "two.jsonl", b"one")
    drop_pair(place, b"bad", "three.jsonl", b"three")
    (place.layout.incoming / "handed").write_bytes(b"four")
    (place.layout.incoming / "handed.toml").write_bytes(b"epochs = 4")
    place.ledger.files.arrive([Arrival("c.jsonl", str(place.layout.incoming / "handed"))])


def test_law_3_a_crash_between_any_two_steps_loses_neither_files_nor_settings(tmp_path):
    calm = Workspace(tmp_path / "calm")
    pairs(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    expected, options = calm.picture(), [row.options for row in calm.rows()]
    assert options == [{"epochs": 2}, {"epochs": 3}, {}, {"epochs": 4}]
    everything = {b"one", b"three", b"four", b"epochs = 2", b"epochs = 3", b"bad", b"epochs = 4"}
    # Every point holds; one in five keeps the suite short.
    for point in range(0, counted.count, 5):
        place = Workspace(tmp_path / str(point))
        pairs(place)
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        assert everything <= set(place.tree().values()), (point, counted.names[point])
        place.restart()
        accept.recover(place.layout, place.ledger)
        place.look()
        take_all(place)
        assert place.picture() == expected, (point, counted.names[point])
        assert [row.options for row in place.rows()] == options
        assert not list(place.layout.incoming.rglob("*.*"))
        place.ledger.close()


def test_control_settings_that_are_copied_after_the_bytes_are_lost_to_a_crash(tmp_path, monkeypatch):
    """The broken variant: then a crash in between leaves a file that is taken without them."""
    real = accept._stage_settings

    def bytes_first(layout: Any, row: Any, beside: Path, staged: Path) -> Any:
        if not (place := staged.with_suffix("")).exists():
            accept._copy(layout, beside.with_suffix(""), place)
        return real(layout, row, beside, staged)

    monkeypatch.setattr(accept, "_stage_settings", bytes_first)
    lost = 0
    for point in range(25):
        place = Workspace(tmp_path / str(point))
        drop_pair(place, b"epochs = 2")
        with contextlib.suppress(Killed, StorageError), dying(place, point):
            take_all(place)
        place.restart()
        accept.recover(place.layout, place.ledger)
        place.look()
        with contextlib.suppress(StorageError):
            take_all(place)
        lost += [row.options for row in place.rows()][:1] != [{"epochs": 2}]
        place.ledger.close()
    assert lost
