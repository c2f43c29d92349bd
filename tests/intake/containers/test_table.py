"""CSV and TSV: delimiters, headers, quotation marks over several lines, and cells that hold lists."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.errors import DataError
from nightschool.intake.containers import cells, streams, table
from nightschool.intake.rows import BadRow

from . import files
from .files import read, values


def small(data: bytes, **options: Any) -> list[tuple[int, Any]]:
    return list(table.read(io.BufferedReader(io.BytesIO(data)), ",", **options))  # type: ignore[arg-type]


def test_rows_are_numbered_by_the_line_they_begin_on():
    data = b'text,n\r\n"a\r\n\r\nb",1\r\n\r\nc,2\r\n   \r\nd,3'
    assert read(data, "a.csv") == (
        "csv",
        [(2, {"text": "a\r\n\r\nb", "n": "1"}), (6, {"text": "c", "n": "2"}), (8, {"text": "d", "n": "3"})],
    )


def test_cells_are_text_as_they_stand():
    data = 'text,n\n" a ""b""\u2028\u0085, ",007\n'.encode()
    assert values(data, "a.csv") == [{"text": ' a "b"\u2028\u0085, ', "n": "007"}]


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2\n1,7;3\n", ";"),
        ("a\tb\n1,2\t3\n", "\t"),
        ("a,b\n1;2;3,4\n", ","),
        ('a,b\n"x;y;z",2\n', ","),
        ("text\nhello, you; there\n", ","),
        ("sep=;\r\na;b\r\n", ";"),
        ("a,b", ","),
        ('a;b\n"cut off in here', ";"),
    ],
)
def test_the_delimiter_is_found(head, delimiter):
    assert table.delimiter_of(head)[0] == delimiter


def test_excel_s_line_that_names_the_delimiter_is_no_header():
    assert read(b"sep=;\r\ntext;n\r\na;1\r\n", "a.csv")[1] == [(3, {"text": "a", "n": "1"})]


def test_row_numbers_of_pandas_and_r_are_left_out():
    assert values(b",text\n0,a\n1,b\n", "a.csv") == [{"text": "a"}, {"text": "b"}]
    assert values(b'"","text"\n"1","a"\n', "a.csv") == [{"text": "a"}]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"a,a", 'two columns have the name "a"'),
        (b"a, a", 'two columns have the name "a"'),
        (b"a,,b", "column 2 has no name"),
        (b"\xe9,b", "header \\(line 1\\) cannot be read: not valid UTF-8"),
        (b'"a"x,b', "header \\(line 1\\) cannot be read: not valid CSV"),
        (b"a\rb\rc", "carriage return"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(header, words):
    with pytest.raises(DataError, match=words):
        read(header + b"\n1,2\n1,2\n", "a.csv")


def test_e8_nothing_is_half_read_where_a_row_may_go_on_behind_a_stray_quotation_mark():
    """Marks written as \\" end the cell early; what follows on the next lines would pass for rows."""
    with pytest.raises(DataError, match="begins on line 2 a quotation mark stands within a cell"):
        small(b'text,n\n"they said \\"hi\\"\nnever,a row\nend",1\ngood,2\n')


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"a", "too few cells", "1 instead of 2"),
        (b"a,b,c", "too many cells", "3 instead of 2, cut at commas"),
        (b'"a"b,c', "not valid CSV", "expected after"),
        (b"a\xe9,b", "not valid UTF-8", "iconv"),
        (b'"a\xe9\nb",c', "not valid UTF-8", "iconv"),
        (b"a\0,b", "holds zero bytes", "no text"),
        (b"\0\0\0", "holds zero bytes", "crash"),
        (b'"a\n\0\n""b",c', "holds zero bytes", ""),
        (b"a\rb,c", "not valid CSV", "carriage return"),
    ],
)
def test_e8_a_malformed_row_is_bad_and_the_next_one_is_read(line, reason, detail):
    found = small(b"text,n\ngood,1\n" + line + b"\nalso good,2\n")
    assert [number for number, _ in found] == [2, 3, 4 + line.count(b"\n")]
    assert found[0][1] == {"text": "good", "n": "1"}
    assert found[2][1] == {"text": "also good", "n": "2"}
    bad = found[1][1]
    assert (bad.number, bad.reason) == (3, reason)
    assert detail in bad.detail
    assert bad.preview


@pytest.mark.parametrize(
    "tail", [b'"x\n' * 2 + b"a,1\n", b'ok,1\n"never', b'"\xe9\nnever,1\n', b'"' + b"y" * 200 + b"\nz,1\n"]
)
def test_e8_a_quotation_mark_that_is_never_closed_spoils_the_file(tail):
    with pytest.raises(DataError, match="is never closed"):
        small(b"text,n\n" + tail.replace(b'"x\n"x\n', b'"x\n'), longest=100)


def test_control_the_library_alone_swallows_every_row_behind_an_open_quotation_mark():
    assert len(list(csv.reader(io.StringIO('text,n\n"never,1\nb,2\nc,3\n', newline="")))) == 2


@pytest.mark.parametrize("quoted", [False, True])
def test_e9_a_huge_cell_is_one_bad_row_and_takes_no_memory(quoted):
    quote = b'"' * quoted

    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            line = b"x" * 1023 + (b"\n" if quoted else b"x")
            self.parts = iter([b"text,n\na,1\n" + quote, *[line * 1024] * 64, quote + b",2\nb,3\n"])
            self.rest = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.rest = self.rest or next(self.parts, b"")
            count = min(len(buffer), len(self.rest))
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            return count

    tracemalloc.start()
    found = list(table.read(io.BufferedReader(Endless(), 1 << 16), ",", longest=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [isinstance(value, BadRow) for _, value in found] == [False, True, False]
    assert found[1][1].reason == "longer than 1048576 bytes"
    assert found[2] == (4 + quoted * 64 * 1024, {"text": "b", "n": "3"})
    assert peak < 12 << 20


def test_e9_the_longest_row_allowed_is_still_read():
    assert small(b"a\n12345\n", longest=5) == [(2, {"a": "12345"})]
    assert small(b"a\n123456\n1\n", longest=5)[0][1].detail == "it has 7 bytes"


CHAT = [{"role": "user", "content": "a"}]


def test_cells_that_take_lists_are_read_as_json():
    rows = [{"messages": CHAT, "tools": [{"type": "function"}]}, {"messages": CHAT}]
    assert values(files.table(rows), "a.csv") == rows
    assert values(files.parquet([{k: json.dumps(v) for k, v in row.items()} for row in rows]), "a.parquet") == rows
    # Under a name of their own they are read where the mapping says so.
    data = files.table([{"dialog": CHAT}])
    assert values(data, "a.csv") == [{"dialog": json.dumps(CHAT)}]
    assert values(data, "a.csv", columns={"messages": "dialog"}) == [{"dialog": CHAT}]


def test_a_prompt_that_only_looks_like_a_list_stays_text():
    for text in ("[INST] Hi", "[1, 2]", "[]", '["a"]', "[{", '[{"a": 1}]'):
        assert values(files.table([{"prompt": text, "completion": "x"}]), "a.csv") == [
            {"prompt": text, "completion": "x"}
        ]
    assert values(files.table([{"prompt": CHAT, "completion": "x"}]), "a.csv") == [{"prompt": CHAT, "completion": "x"}]


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        ("[{'role': 'user'}]", "json.dumps"),
        ("hello", "invalid character"),
        ('[{"role": NaN}]', "NaN"),
        ('[{"role": 1, "role": 2}]', 'appears twice in one object: "role"'),
        ('[], "x": []', "trailing"),
    ],
)
def test_a_cell_that_takes_a_list_and_holds_none_is_a_bad_row(cell, detail):
    (bad,) = values(files.table([{"messages": cell}]), "a.csv")
    assert bad.reason == "a cell that takes a list holds no valid JSON"
    assert detail in bad.detail


def test_control_without_reading_cells_a_chat_would_be_text(monkeypatch):
    monkeypatch.setattr(cells, "LISTS", frozenset())
    assert values(files.table([{"messages": CHAT}]), "a.csv") == [{"messages": json.dumps(CHAT)}]


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ['"', '""', "a\nb", "\r\n", ",", ";\t", " "]
)


@given(st.lists(st.lists(cell, min_size=2, max_size=2), min_size=1, max_size=6), st.sampled_from(",;\t"), st.booleans())
def test_what_the_library_writes_is_read_back(rows, delimiter, all_quoted):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
    writer.writerow(["first", "second"])
    writer.writerows(rows)
    stream = streams.as_utf8(io.BufferedReader(io.BytesIO(text.getvalue().encode())))  # type: ignore[arg-type]
    found = [value for _, value in table.read(stream, delimiter)]
    assert found == [{"first": a, "second": b} for a, b in rows]


@given(
    st.lists(
        st.sampled_from([b"a,1", b"a", b"a,b,c", b'"x\ny",2', b'"a"b,c', b"\xff,1", b"\0,1", b'"\xff\n",1']), max_size=8
    )
)
def test_accepted_and_bad_are_all_that_was_there(lines):
    data = b"text,n\n" + b"\n".join([*lines, b"end,0"]) + b"\n"
    found = small(data)
    assert len(found) == len(lines) + 1
    number = 2
    for line, (at, value) in zip([*lines, b"end,0"], found, strict=True):
        assert at == number
        assert isinstance(value, BadRow) == (line not in (b"a,1", b'"x\ny",2', b"end,0"))
        number += 1 + line.count(b"\n")
