from __future__ import annotations

import io
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.intake import glance
from nightschool.ledger import FileRow, Ledger
from nightschool.workspace import Layout
from tests.cli.conftest import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "hello"}\n')
    return path


def test_add_keeps_the_bytes_and_reports_the_ids(here: Run, layout: Layout, data: Path) -> None:
    other = data.with_name("other.jsonl")
    other.write_text('{"text": "a"}\n{"text": "b"}\n')
    result = here("add", data, other, "--priority", "high", "--epochs", 3, "--again")
    assert (result.code, result.out) == (
        0,
        "Added data.jsonl as file 1: jsonl, text, 1 row.\nAdded other.jsonl as file 2: jsonl, text, 2 rows.\n",
    )
    data.write_text("changed afterwards")
    with Ledger.open(layout.ledger) as ledger:
        rows = ledger.files.listing()
    assert [(r.name, r.state, r.priority, r.batch, r.options) for r in rows] == [
        ("data.jsonl", "arrived", 0, 1, {"epochs": 3, "again": True}),
        ("other.jsonl", "arrived", 0, 1, {"epochs": 3, "again": True}),
    ]
    assert Path(rows[0].source).read_text() == '{"text": "hello"}\n'
    assert Path(rows[0].source).parent == layout.incoming
    assert not list(layout.tmp.iterdir())


def test_two_files_of_one_name_are_two_files(here: Run, layout: Layout, data: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    twin = tmp_path / "sub" / data.name
    twin.write_text("other")
    found = here("add", data, twin, "--json").json
    assert [(one["id"], one["name"]) for one in found] == [(1, "data.jsonl"), (2, "data.jsonl")]
    with Ledger.open(layout.ledger) as ledger:
        assert {Path(r.source).read_text() for r in ledger.files.listing()} == {data.read_text(), "other"}


def test_a_link_named_by_the_user_is_followed(here: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(data)
    assert here("add", tmp_path / "link.jsonl").out == "Added link.jsonl as file 1: jsonl, text, 1 row.\n"


def refused(here: Run, layout: Layout, *paths: Path) -> str:
    result = here("add", *paths)
    assert result.code == 7
    with Ledger.open(layout.ledger) as ledger:
        assert not any(ledger.files.counts().values())
    assert not list(layout.incoming.iterdir())
    return result.err


def test_after_an_error_none_is_added(here: Run, layout: Layout, data: Path, tmp_path: Path) -> None:
    assert "missing.jsonl does not exist" in refused(here, layout, data, tmp_path / "missing.jsonl")


def test_e13_what_is_no_plain_file_is_refused(here: Run, layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no data files" in refused(here, layout, tmp_path / "empty")
    assert "is a workspace" in refused(here, layout, layout.root)
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or a device" in refused(here, layout, tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert "a pipe or a device" in refused(here, layout, tmp_path / "socket")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refused(here, layout, tmp_path / "loop")


@pytest.mark.parametrize("name", [b"a\nb.jsonl", b"a\x1b[2J.jsonl", b"latin-\xe9.jsonl", b"x" * 201])
def test_e13_names_that_would_break_something_are_refused_and_shown_escaped(
    here: Run, layout: Layout, tmp_path: Path, name: bytes
) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_text("x")
    message = refused(here, layout, path)
    assert message.count("\n") == 1
    assert "\x1b" not in message


def test_e15_an_unreadable_file_is_refused(
    here: Run, layout: Layout, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by its mode: root, who runs the tests in a container, reads everything.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != data and real(path, mode))
    assert "permission denied" in refused(here, layout, data)


def test_c5_a_full_disk_leaves_nothing_half_added(
    here: Run, layout: Layout, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.copy_file
    calls = []

    def full(source: Path, target: Path) -> durable.Copied:
        calls.append(source)
        if len(calls) == 2:
            raise StorageError("The disk is full.", 28)
        return real(source, target)

    monkeypatch.setattr(durable, "copy_file", full)
    result = here("add", data, data)
    assert (result.code, result.err) == (8, "nightschool: The disk is full.\n")
    assert not list(layout.incoming.iterdir())
    assert not list(layout.tmp.iterdir())


def test_what_makes_no_sense_is_a_usage_error(here: Run, data: Path) -> None:
    assert here("add").code == 2
    assert here("add", data, "--epochs", 0).code == 2
    assert here("add", data, "--priority", "urgent").code == 2
    for wrong in ("prompt", "=ask", "prompt="):
        assert here("add", data, "--map", wrong).code == 2
    assert here("add", data, "--map", "prompt=a", "--map", "prompt=b").code == 2
    assert here("add", "-", data).code == 2


def rows_of(layout: Layout) -> list[FileRow]:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.files.listing()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data files in folders, and things that are none."""
    top = tmp_path / "data"
    for name in ("b10.jsonl", "b2.jsonl", "a/c.jsonl", "a/deep/d.csv"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f'{{"text": "{name}"}}\n')
    for name in (".hidden", "a/.git/config", "x.part"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text("x")
    (top / "a" / "c.jsonl.toml").write_text("epochs = 7")
    (top / "alone.toml").write_text("epochs = 7")
    (top / "link.jsonl").symlink_to(top / "b2.jsonl")
    (top / "linked").symlink_to("/etc")
    return top


def test_a_folder_is_added_as_if_it_were_dropped_into_the_inbox(here: Run, layout: Layout, folder: Path) -> None:
    result = here("add", folder)
    assert result.code == 0
    assert [row.name for row in rows_of(layout)] == [
        "data/a/c.jsonl", "data/a/deep/d.csv", "data/b2.jsonl", "data/b10.jsonl"
    ]  # fmt: skip
    told = sorted(line.removeprefix(f"Left out {folder}/").split(":")[0] for line in result.err.splitlines())
    assert told == ["alone.toml", "link.jsonl", "linked"]
    assert all(row.bytes == Path(row.source).stat().st_size for row in rows_of(layout))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.jsonl", ["a/c.jsonl", "b2.jsonl", "b10.jsonl"]),
        ("*.jsonl", ["b2.jsonl", "b10.jsonl"]),
        ("[ab]/*", ["a/c.jsonl"]),
        ("a/**/*.csv", ["deep/d.csv"]),
    ],
)
def test_a_pattern_gives_names_from_the_folder_before_its_first_wildcard(
    here: Run, layout: Layout, folder: Path, pattern: str, names: list[str]
) -> None:
    assert here("add", f"{folder}/{pattern}").code == 0
    assert [row.name for row in rows_of(layout)] == names


def test_a_pattern_that_names_nothing_is_an_error(here: Run, layout: Layout, folder: Path) -> None:
    assert "names no file" in refused(here, layout, Path(f"{folder}/*.parquet"))


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here: Run, layout: Layout, tmp_path: Path) -> None:
    for name in ("a[1].jsonl", "a1.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    assert here("add", tmp_path / "a[1].jsonl").code == 0
    assert [row.name for row in rows_of(layout)] == ["a[1].jsonl"]


def test_settings_beside_a_file_are_handed_over_with_it(here: Run, layout: Layout, folder: Path) -> None:
    assert here("add", folder / "a" / "c.jsonl").code == 0
    (row,) = rows_of(layout)
    assert Path(f"{row.source}.toml").read_text() == "epochs = 7"
    assert "holds settings, not data" in here("add", folder / "alone.toml").err
    (folder / "a" / "c.jsonl.toml").write_text("epoch = 7")
    before = sorted(layout.incoming.iterdir())
    result = here("add", folder / "a" / "c.jsonl")
    assert (result.code, "did you mean `epochs`?" in result.err) == (7, True)
    assert sorted(layout.incoming.iterdir()) == before


def test_columns_are_mapped_by_hand(here: Run, layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"ask": "1", "reply": "2"}\n' * 3)
    assert "Look at it: row 1" in here("add", path).out
    mapping = ("--map", "prompt=ask", "--map", "completion=reply")
    assert here("add", path, *mapping).out == "Added a.jsonl as file 2: jsonl, prompt+completion, 3 rows.\n"
    assert rows_of(layout)[1].options == {"columns": {"prompt": "ask", "completion": "reply"}}
    result = here("add", path, "--map", "promt=ask")
    assert (result.code, 'did you mean "prompt"' in result.err) == (7, True)


def test_rows_come_from_standard_input(here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    given(b'{"text": "a"}\n{"text": "b"}\n')
    assert here("add", "-", "--name", "mine.jsonl").out == "Added mine.jsonl as file 1: jsonl, text, 2 rows.\n"
    given(b'{"text": "c"}\n')
    assert here("add", "-", "--priority", "low").code == 0
    first, second = rows_of(layout)
    assert Path(first.source).read_bytes() == b'{"text": "a"}\n{"text": "b"}\n'
    assert re.fullmatch(r"stdin-\d{8}-\d{6}\.jsonl", second.name)
    assert second.priority == 2
    given(b"")
    result = here("add", "-")
    assert (result.code, result.err) == (7, "nightschool: Nothing came on standard input.\n")
    assert not list(layout.tmp.iterdir())


def test_a_name_is_for_one_file(here: Run, layout: Layout, data: Path, folder: Path) -> None:
    assert here("add", data, "--name", "x.jsonl").code == 0
    assert [row.name for row in rows_of(layout)] == ["x.jsonl"]
    assert here("add", folder, "--name", "x.jsonl").code == 7
    assert here("add", data, "--name", "../x.jsonl").code == 7


def test_what_will_be_rejected_is_said_at_once(here: Run, tmp_path: Path) -> None:
    picture = tmp_path / "cat.jsonl"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "It will be rejected" in here("add", picture).out
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (one,) = here("add", tmp_path / "empty.jsonl", "--json").json
    assert (one["rows"], one["shape"], bool(one["problem"])) == (0, None, True)


def test_of_a_long_file_rows_are_estimated(here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MOST", 2000)
    path, long = tmp_path / "long.jsonl", "x" * 300
    path.write_text("".join(f'{{"text": "row {n:06d} {long}"}}\n' for n in range(9000)))
    (one,) = here("add", path, "--json").json
    assert (one["rows_exact"], one["shape"]) == (False, "text")
    assert 0.6 * 9000 < one["rows"] < 1.4 * 9000
    assert "about " in here("add", path).out


def test_many_files_are_told_in_few_lines(here: Run, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(30):
        (tmp_path / "many" / f"{number}.jsonl").write_text(f'{{"text": "{number}"}}\n')
    lines = here("add", tmp_path / "many").out.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "Added 10 more files."
