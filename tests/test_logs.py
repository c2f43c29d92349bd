from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nightschool import logs
from nightschool.settings import Settings, parse_settings
from nightschool.workspace import Layout

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  .*")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def settings() -> Settings:
    return parse_settings({"model": {"name": "none"}})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.jsonl", "plain.jsonl"),
        ("größe 日本.jsonl", "größe 日本.jsonl"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("sep\u2028\u2029", r"sep\u2028\u2029"),
        ("right\u202eleft", r"right\u202eleft"),
        (os.fsdecode(b"latin-\xe9"), r"latin-\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_e13_nothing_a_terminal_acts_on_is_left(text: str, shown: str) -> None:
    assert logs.escape(text) == shown
    logs.escape(text).encode()


def test_lines_have_time_and_message(layout: Layout, settings: Settings) -> None:
    log = logs.setup(layout, settings, "supervisor")
    log.info("first %s", "a\nb")
    logging.getLogger("nightschool.part").warning("second")
    lines = layout.log_file.read_text().splitlines()
    assert [line[21:] for line in lines] == [r"first a\nb", "second"]
    assert all(LINE.fullmatch(line) for line in lines)


def test_a_traceback_is_lines_with_a_time_too(layout: Layout, settings: Settings) -> None:
    log = logs.setup(layout, settings, "trainer")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it failed")
    lines = layout.log_file.read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert any("  | ValueError: two" in line for line in lines)


def test_setup_twice_writes_once(layout: Layout, settings: Settings) -> None:
    logs.setup(layout, settings, "trainer")
    logs.setup(layout, settings, "trainer").info("once")
    assert len(layout.log_file.read_text().splitlines()) == 1


def test_c5_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(Layout):
        @property
        def log_file(self) -> Path:
            return Path("/dev/full")

    logs.setup(Full(tmp_path), settings, "trainer").info("important")
    assert "important" in capsys.readouterr().err


WRITER = """
import logging, sys
from pathlib import Path
from nightschool import logs
from nightschool.workspace import Layout
log = logs.setup(Layout(Path(sys.argv[1])), None, "trainer")
for number in range(2000):
    log.info("%s %05d %s", sys.argv[2], number, "x" * 3000 if number % 50 == 0 else "y" * (number % 200))
"""


def test_lines_of_several_processes_never_mix_and_none_is_lost_in_rotation(layout: Layout) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(layout.root), name]) for name in ("A", "B")]
    rotations = 0
    while any(writer.poll() is None for writer in writers):
        rotations += logs.rotate(layout.log_file, 0.02, 1000)
    assert rotations >= 1
    found: dict[str, list[int]] = {"A": [], "B": []}
    paths = [p for n in range(rotations, 0, -1) if (p := logs.rotated(layout.log_file, n)).exists()]
    for path in [*paths, layout.log_file]:
        for line in path.read_text().splitlines() if path.exists() else []:
            assert LINE.fullmatch(line)
            name, number, _ = line[21:].split(" ", 2)
            found[name].append(int(number))
    assert found == {"A": list(range(2000)), "B": list(range(2000))}


def test_rotation_keeps_so_many_and_the_newest_is_1(layout: Layout) -> None:
    for number in range(6):
        layout.log_file.write_text(f"{number}" * 10)
        assert logs.rotate(layout.log_file, 1e-5, 3)
    assert [logs.rotated(layout.log_file, n).read_text()[0] for n in (1, 2, 3)] == ["5", "4", "3"]
    assert not logs.rotated(layout.log_file, 4).exists()
    assert not logs.rotate(layout.log_file, 1e-5, 3)


def test_a_lower_number_of_logs_counts_for_those_that_are_there(layout: Layout) -> None:
    for number in range(1, 12):
        logs.rotated(layout.log_file, number).write_text(str(number))
    other = layout.log_file.with_name(f"{layout.log_file.name}.old")
    other.touch()
    layout.log_file.write_text("x" * 100)
    assert logs.rotate(layout.log_file, 1e-5, 2)
    assert [logs.rotated(layout.log_file, n).exists() for n in range(1, 12)] == [True] * 2 + [False] * 9
    assert logs.rotated(layout.log_file, 2).read_text() == "1"
    assert other.exists()


def test_tail_follows_across_rotation_and_waits_for_whole_lines(layout: Layout) -> None:
    tail = logs.Tail(layout.log_file)
    assert list(tail.lines()) == []
    with layout.log_file.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert list(tail.lines()) == ["one"]
        file.write("o\nthree\n")
    layout.log_file.rename(logs.rotated(layout.log_file, 1))
    layout.log_file.write_text("four\n")
    assert list(tail.lines()) == ["two", "three", "four"]
    tail.close()


def test_tail_begins_at_the_end_unless_asked(layout: Layout) -> None:
    layout.log_file.write_text("old\n")
    late, early = logs.Tail(layout.log_file), logs.Tail(layout.log_file, from_start=True)
    with layout.log_file.open("a") as file:
        file.write("new\n")
    assert list(late.lines()) == ["new"]
    assert list(early.lines()) == ["old", "new"]
    late.close()
    early.close()


def test_last_lines(layout: Layout) -> None:
    layout.log_file.write_text("a\nb\nc\n")
    assert logs.last_lines(layout.log_file, 2) == ["b", "c"]
    assert logs.last_lines(layout.log_file, 9) == ["a", "b", "c"]
    assert logs.last_lines(layout.log_file, 9, start=4) == ["c"]
    assert logs.last_lines(layout.log_file, 0) == []
    assert logs.last_lines(layout.root / "missing", 3) == []


def test_a_very_long_message_is_shortened(layout: Layout, settings: Settings) -> None:
    logs.setup(layout, settings, "trainer").info("x" * 100_000)
    (line,) = layout.log_file.read_text().splitlines()
    assert len(line) < 5000
    assert line.endswith("(100000 characters)")


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (12_345_678, "12.3 MB")])
def test_sizes_in_words(number: int, text: str) -> None:
    assert logs.in_bytes(number) == text
