"""copy_file: the same bytes, hashed on the way; never over something else; and only of a file that stands still."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nightschool import durable
from nightschool.durable import files
from nightschool.errors import StorageError

from .faults import Hooked

CHUNK = 64


class Stingy(durable.Effects):
    """A disk that takes only a few bytes at a time, as one that is nearly full does."""

    def __init__(self, most: int) -> None:
        self.most = most

    def write(self, fd: int, data: memoryview) -> int:
        return super().write(fd, data[: self.most])


@given(data=st.binary(max_size=5 * CHUNK), most=st.integers(1, 2 * CHUNK))
@example(data=b"", most=1)
@example(data=b"x" * CHUNK, most=CHUNK)
@example(data=b"x" * (CHUNK + 1), most=CHUNK)
@example(data=b"x" * (2 * CHUNK - 1), most=1)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_copy_has_the_same_bytes(tmp_path: Path, data: bytes, most: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch, durable.use(Stingy(most)):
        patch.setattr(files, "CHUNK", CHUNK)
        copied = durable.copy_file(source, target)
    assert target.read_bytes() == data == source.read_bytes()
    assert copied == durable.Copied(hashlib.sha256(data).hexdigest(), len(data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_copy_larger_than_one_chunk(tmp_path: Path) -> None:
    data = os.urandom(files.CHUNK * 2 + 12345)
    (tmp_path / "source").write_bytes(data)
    copied = durable.copy_file(tmp_path / "source", tmp_path / "new/folder/target")
    assert (tmp_path / "new/folder/target").read_bytes() == data
    assert copied.sha256 == hashlib.sha256(data).hexdigest()


@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=100)), most=st.integers(1, 50))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_write_file_writes_what_it_is_given(tmp_path: Path, data: bytes | str, most: int) -> None:
    with durable.use(Stingy(most)):
        durable.write_file(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert len(list(tmp_path.iterdir())) == 1


# --- E3: the source moves -----------------------------------------------------------------------------------------


def append(source: Path) -> None:
    with source.open("ab") as file:
        file.write(b"more")


def cut(source: Path) -> None:
    os.truncate(source, CHUNK + 1)


def rewrite_same_size(source: Path) -> None:
    before = source.stat().st_mtime_ns
    with source.open("r+b") as file:
        file.write(b"NEW")
    os.utime(source, ns=(before + 1_000_000, before + 1_000_000))


def replace(source: Path) -> None:
    other = source.with_name("other")
    other.write_bytes(source.read_bytes())
    other.rename(source)


def remove(source: Path) -> None:
    source.unlink()


CHANGES = [append, cut, rewrite_same_size, replace, remove]


def copy_while(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Copy three chunks; after the first has been written the source is changed."""
    source = tmp_path / "source"
    source.write_bytes(b"old" * CHUNK)
    writes = 0

    def before(_: int, name: str, __: object) -> None:
        nonlocal writes
        writes += name == "write"
        if name == "write" and writes == 1:
            change(source)

    with pytest.MonkeyPatch.context() as patch, durable.use(Hooked(before)):
        patch.setattr(files, "CHUNK", CHUNK)
        durable.copy_file(source, tmp_path / "archive/target")


@pytest.mark.parametrize("change", CHANGES)
def test_e3_a_source_that_changes_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    with pytest.raises(durable.SourceChanged, match=r"source was \w+"):
        copy_while(tmp_path, change)
    assert list((tmp_path / "archive").iterdir()) == [], "neither the copy nor its temporary file may stay"


@pytest.mark.parametrize("change", [append, cut, rewrite_same_size])
def test_e3_control_without_the_look_afterwards_a_mixture_is_kept(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_ensure_unchanged", lambda *_: None)
    copy_while(tmp_path, change)
    assert (tmp_path / "archive/target").exists()


# --- E6, E13 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_the_way", ["file", "broken link", "folder"])
def test_e6_nothing_is_overwritten(tmp_path: Path, in_the_way: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    {
        "file": lambda: target.write_text("old"),
        "broken link": lambda: target.symlink_to("nowhere"),
        "folder": target.mkdir,
    }[in_the_way]()
    with pytest.raises(StorageError, match="already taken") as got:
        durable.copy_file(source, target)
    assert got.value.errno == errno.EEXIST
    assert len(list(tmp_path.iterdir())) == 2
    assert in_the_way != "file" or target.read_text() == "old"


@pytest.mark.parametrize("links", [True, False])
def test_e6_not_even_when_it_appears_at_the_last_moment(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")

    def before(_: int, name: str, __: object) -> None:
        if name == "link":
            target.write_text("old")
            if not links:
                raise OSError(errno.EPERM, "no links here")

    with durable.use(Hooked(before)), pytest.raises(StorageError, match="already taken"):
        durable.copy_file(source, target)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["a symbolic link", "a named pipe", "a folder", "a device"])
def test_e13_only_plain_files_are_read(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "a symbolic link":
        (tmp_path / "secret").write_text("s")
        source.symlink_to(tmp_path / "secret")
    elif kind == "a named pipe":
        os.mkfifo(source)
    elif kind == "a folder":
        source.mkdir()
    else:
        source = Path("/dev/null")
    with pytest.raises(durable.NotRegular, match=kind):
        durable.copy_file(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_e13_a_name_with_a_newline_is_shown_escaped(tmp_path: Path) -> None:
    odd = tmp_path / "a\n\x1b[31mb"
    odd.symlink_to("x")
    with pytest.raises(durable.NotRegular) as got:
        durable.copy_file(odd, tmp_path / "target")
    assert str(got.value).isprintable()
    named = tmp_path / os.fsdecode(b"\xff.jsonl")
    named.write_text("x")
    durable.copy_file(named, tmp_path / os.fsdecode(b"\xfe.jsonl"))
    assert (tmp_path / os.fsdecode(b"\xfe.jsonl")).read_text() == "x"


def test_e15_a_source_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot read.*not there") as got:
        durable.copy_file(tmp_path / "gone", tmp_path / "target")
    assert got.value.errno == errno.ENOENT


# --- link_or_copy -------------------------------------------------------------------------------------------------


def test_link_or_copy_links_where_it_can(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert durable.link_or_copy(tmp_path / "a", tmp_path / "b") is True
    assert (tmp_path / "b").samefile(tmp_path / "a")
    with pytest.raises(StorageError, match="already taken"):
        durable.link_or_copy(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_c8_link_or_copy_copies_where_it_cannot_link(tmp_path: Path, code: int) -> None:
    (tmp_path / "a").write_text("x")

    def before(_: int, name: str, args: tuple[Path, ...]) -> None:
        if name == "link" and args[0].name == "a":
            raise OSError(code, os.strerror(code))

    with durable.use(Hooked(before)):
        assert durable.link_or_copy(tmp_path / "a", tmp_path / "b") is False
    assert (tmp_path / "b").read_text() == "x"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


@pytest.mark.parametrize(("mode", "copied"), [(0o600, 0o600), (0o644, 0o644), (0o400, 0o600), (0o444, 0o644)])
def test_nobody_may_read_a_copy_who_may_not_read_the_source(tmp_path: Path, mode: int, copied: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"data")
    source.chmod(mode)
    before = os.umask(0o022)
    try:
        durable.copy_file(source, target)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == copied
