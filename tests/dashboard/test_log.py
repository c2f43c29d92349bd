"""The log, read from its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool import logs
from nightschool.dashboard import log
from nightschool.dashboard.services import Services
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.dashboard.looking import ask, services_of

lines_of_bytes = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=25)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    layout = Layout(tmp_path)
    layout.create()
    Ledger.create(layout.ledger).close()
    with services_of(layout) as found:
        yield found


def pages(path: Path, search: str = "", limit: int = 3) -> tuple[list[tuple[int, str]], int]:
    """All lines that hold a text, read page by page, in order; and how many pages that took."""
    found: list[tuple[int, str]] = []
    before, count = None, 0
    while count == 0 or before is not None:
        page = log.read(path, search, before, limit)
        assert len(page.lines) <= limit
        assert page.before is None or before is None or page.before < before
        found = [(line.at, line.text) for line in page.lines] + found
        before, count = page.before, count + 1
    return found, count


def shown(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")


@settings(max_examples=150, deadline=None)
@given(
    lines=lines_of_bytes, ended=st.booleans(), limit=st.integers(1, 7), piece=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 25), max_size=3),
)  # fmt: skip
def test_pages_joined_are_the_file_also_across_rotated_ones(
    lines: list[bytes], ended: bool, limit: int, piece: int, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "training_output.log"
    whole = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    write_rotated(path, whole, cuts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log, "PIECE", piece)
        found, _ = pages(path, limit=limit)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [text for _, text in found] == [shown(line) for line in expected]
    for at, text in found:
        assert shown(whole[at:].split(b"\n")[0]) == text
        assert at == 0 or whole[at - 1 : at] == b"\n"


def write_rotated(path: Path, whole: bytes, cuts: list[int]) -> None:
    """The bytes as a log that was rotated at the ends of some lines."""
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    places = sorted({ends[cut] for cut in cuts if cut < len(ends)})
    parts = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    path.write_bytes(parts[-1])
    for number, part in enumerate(reversed(parts[:-1]), 1):
        logs.rotated(path, number).write_bytes(part)


@settings(max_examples=60, deadline=None)
@given(lines=lines_of_bytes, search=st.text("aäAÄß<s", min_size=1, max_size=2), limit=st.integers(1, 4))
def test_a_search_gives_the_lines_that_hold_it_however_little_is_read_at_once(
    lines: list[bytes], search: str, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "training_output.log"
    texts = [line + f" {word}".encode() for line, word in zip(lines, "aÄ<äAs" * 5, strict=False)]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log, "PIECE", 16)
        patched.setattr(log, "MOST_BYTES", 40)
        found, _ = pages(path, search, limit)
    wanted = log.folded(search)
    assert [text for _, text in found] == [shown(text) for text in texts if wanted in log.folded(shown(text))]


def test_h6_of_a_large_log_only_the_end_is_read_and_a_search_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training_output.log"
    with path.open("wb") as file:
        file.write(b"2026-11-22 22:00:00  the first\n")
        file.write((b"2026-11-22 22:04:11  step\n" * 40_000) * 12)
    read, real = [], log._bytes
    monkeypatch.setattr(log, "_bytes", lambda parts, a, b: (read.append(b - a), real(parts, a, b))[1])
    assert len(log.read(path, "", None, 200).lines) == 200
    assert sum(read) <= 2 * log.PIECE
    read.clear()
    page = log.read(path, "first", None, 200)
    assert (page.lines, sum(read) <= log.MOST_BYTES + 1) == ([], True)
    assert page.before is not None
    found, count = pages(path, "FIRST")
    assert found == [(0, "2026-11-22 22:00:00  the first")]
    assert count > 1


def test_a_line_longer_than_all_that_is_read_at_once_does_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MOST_BYTES", 100)
    monkeypatch.setattr(log, "PIECE", 30)
    monkeypatch.setattr(log, "LONGEST", 20)
    path = tmp_path / "training_output.log"
    path.write_bytes(b"before\n" + b"x" * 950 + b"\nafter\n")
    found, count = pages(path)
    assert (found[0], found[-1]) == ((0, "before"), (958, "after"))
    assert {len(text) for _, text in found[1:-1]} <= set(range(1, 21))
    assert 9 <= count <= 12


def test_positions_mean_the_same_after_the_log_was_rotated(tmp_path: Path) -> None:
    path = tmp_path / "training_output.log"
    path.write_text("".join(f"line {n}\n" for n in range(10)))
    first = log.read(path, "", None, 3)
    assert logs.rotate(path, 0.0, 5)
    path.write_text("line 10\n")
    older = log.read(path, "", first.before, 100)
    assert [line.text for line in older.lines] == [f"line {n}" for n in range(7)]
    assert log.read(path, "", None, 2).lines[-1].text == "line 10"


def test_what_is_not_there_or_no_file_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "training_output.log"
    assert log.read(path, "", None, 5).lines == []
    path.mkdir()
    assert log.read(path, "", None, 5).lines == []
    path.rmdir()
    os.mkfifo(path)
    assert log.read(path, "", None, 5).before is None
    path.unlink()
    path.touch()
    assert log.read(path, "", 10**18, 5).lines == []


def test_a_log_that_is_being_rotated_shows_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "training_output.log"
    path.write_text("one\n")
    os.link(path, logs.rotated(path, 1))
    assert [line.text for line in log.read(path, "", None, 5).lines] == ["one"]
    path.unlink()
    assert [line.text for line in log.read(path, "", None, 5).lines] == ["one"]


def test_h4_lines_are_passed_on_as_they_are_and_bytes_that_are_no_text_are_shown(services: Services) -> None:
    services.layout.log_file.write_bytes(b"<script>alert(1)</script>\n\xff\xfe \xe4\n\xc3\xa4\n")
    found = ask(services, log.ENDPOINTS, "/api/log")
    assert found == {
        "lines": [
            {"at": 0, "text": "<script>alert(1)</script>"},
            {"at": 26, "text": "\\xff\\xfe \\xe4"},
            {"at": 31, "text": "ä"},
        ],
        "before": None,
    }
    assert [line["at"] for line in ask(services, log.ENDPOINTS, "/api/log", search="Ä")["lines"]] == [31]
    assert ask(services, log.ENDPOINTS, "/api/log", limit="1", before="31")["lines"] == [found["lines"][1]]


def test_control_a_line_whose_pieces_are_not_joined_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training_output.log"
    path.write_text("a line that is longer than a piece\n")
    monkeypatch.setattr(log, "PIECE", 8)
    assert pages(path)[0] == [(0, "a line that is longer than a piece")]
    monkeypatch.setattr(log, "LONGEST", 8)
    assert pages(path)[0] != [(0, "a line that is longer than a piece")]
