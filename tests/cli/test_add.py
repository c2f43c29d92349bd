from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.cli.conftest import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "hello"}\n')
    return path


def test_add_keeps_the_bytes_and_reports_the_ids(here: Run, layout: Layout, data: Path) -> None:
    other = data.with_name("other.jsonl")
    other.write_text("{}\n")
    result = here("add", data, other, "--priority", "high", "--epochs", 3, "--again")
    assert (result.code, result.out) == (0, "Added data.jsonl as file 1.\nAdded other.jsonl as file 2.\n")
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
    assert here("add", data, twin, "--json").json == [
        {"id": 1, "name": "data.jsonl"},
        {"id": 2, "name": "data.jsonl"},
    ]
    with Ledger.open(layout.ledger) as ledger:
        assert {Path(r.source).read_text() for r in ledger.files.listing()} == {data.read_text(), "other"}


def test_a_link_named_by_the_user_is_followed(here: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(data)
    assert here("add", tmp_path / "link.jsonl").out == "Added link.jsonl as file 1.\n"


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
    assert "is a folder" in refused(here, layout, tmp_path)
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
