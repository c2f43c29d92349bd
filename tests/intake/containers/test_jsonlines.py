"""JSON Lines: what is a row, what is a bad row and why, and that no line can take the memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake import rows
from nightschool.intake.containers import jsonlines, jsonvalue, streams
from nightschool.intake.rows import BadRow, Rows


def read_jsonl(file: io.RawIOBase | io.BytesIO, buffer: int = 1 << 20, **options: Any) -> Rows:
    return jsonlines.read(streams.as_utf8(io.BufferedReader(file, buffer)), **options)  # type: ignore[arg-type]


def read(data: bytes, **options: Any) -> list[tuple[int, Any]]:
    return list(read_jsonl(io.BytesIO(data), **options))


def the_bad(data: bytes, **options: Any) -> BadRow:
    """The one bad row of `data`; the row after it must be read."""
    (_, bad), (number, good) = read(data + b'\n{"text": "good"}\n', **options)
    assert good == {"text": "good"}
    assert number == 2
    assert isinstance(bad, BadRow), bad
    assert bad.number == 1
    return bad


def test_rows_are_numbered_by_line_and_blank_lines_are_no_rows():
    found = read(b'{"text":"a"}\n\n  \t\r\n{"text":"b"}\r\n{"text":"c"}')
    assert found == [(1, {"text": "a"}), (4, {"text": "b"}), (5, {"text": "c"})]


@pytest.mark.parametrize("data", [b"", b"\n", b" \n\t\r\n  ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_e7_an_empty_file_has_no_rows(data):
    assert read(data) == []


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"text": "a"', "not valid JSON", "ends too early"),
        (b'{"text": "a"} x', "not valid JSON", "trailing characters"),
        (b"{'text': 'a'}", "not valid JSON", ""),
        (b"hello", "not valid JSON", ""),
        (b'"a"', "not a JSON object", "a string"),
        (b"1", "not a JSON object", "a number"),
        (b"null", "not a JSON object", "null"),
        (b'[{"text": "a"}]', "not a JSON object", "a list"),
        (b"[", "not valid JSON", "ends too early"),
    ],
)
def test_e8_a_malformed_row_has_a_number_a_reason_and_a_preview(line, reason, detail):
    bad = the_bad(line)
    assert bad.reason == reason
    assert detail in bad.detail
    assert bad.preview == line.decode()


def test_e9_a_huge_line_is_one_bad_row_and_takes_no_memory():
    class Endless(io.RawIOBase):
        """256 MiB without a line break, then a good row."""

        left = 256 << 20
        tail = b'\n{"text": "good"}\n'

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            count = min(len(buffer), self.left)
            if count:
                buffer[:count] = b"x" * count
                self.left -= count
                return count
            count = len(self.tail)
            buffer[:count] = self.tail
            self.tail = b""
            return count

    tracemalloc.start()
    found = list(read_jsonl(Endless(), longest=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [number for number, _ in found] == [1, 2]
    assert found[0][1].reason == "longer than 1048576 bytes"
    assert "it has 268435456 bytes" in found[0][1].detail
    assert len(found[0][1].preview) <= rows.PREVIEW
    assert found[1][1] == {"text": "good"}
    assert peak < 12 << 20


def test_e9_the_longest_line_allowed_is_still_read():
    line = json.dumps({"text": "x" * 50}).encode()
    assert read(line + b"\n", longest=len(line)) == [(1, {"text": "x" * 50})]
    assert read(line, longest=len(line)) == [(1, {"text": "x" * 50})]
    assert isinstance(read(line, longest=len(line) - 1)[0][1], BadRow)


def test_e9_deep_nesting_is_a_bad_row():
    assert the_bad(b'{"a":' + b"[" * 200_000).reason == "nested too deeply"
    assert the_bad(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}").reason == "nested too deeply"
    assert the_bad(b'{"a":' * 200_000).reason == "nested too deeply"


def test_e9_a_huge_integer_is_a_bad_row():
    assert the_bad(b'{"a":' + b"9" * 5000 + b"}").reason == "a number is out of range"


def test_e10_a_byte_order_mark_is_no_part_of_the_first_row():
    assert read(b'\xef\xbb\xbf{"text":"a"}\n') == [(1, {"text": "a"})]


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_e10_utf_16_and_32_are_read_with_a_mark_and_without(encoding, mark):
    text = '{"text":"né ☃ \U0001f600"}\r\n\n{"text":"Ċ਀"}\n'  # U+0A00 and U+010A: a line feed's byte inside a character
    data = ("\ufeff" * mark + text).encode(encoding)
    assert read(data) == [(1, {"text": "né ☃ \U0001f600"}), (3, {"text": "Ċ਀"})]


def test_e10_a_broken_utf_16_row_is_bad_and_the_others_are_read():
    good = '{"text":"a"}\n'.encode("utf-16-le")
    half = '{"text":"'.encode("utf-16-le") + b"\x3d\xd8" + '"}\n'.encode("utf-16-le")
    found = read(b"\xff\xfe" + good + half + good + b"{")
    assert [value == {"text": "a"} for _, value in found] == [True, False, True, False]
    assert found[1][1].reason == "not valid UTF-8"


def test_e10_latin_1_is_a_bad_row_with_advice_and_utf_8_rows_beside_it_are_read():
    bad = the_bad('{"text":"né"}'.encode("latin-1"))
    assert bad.reason == "not valid UTF-8"
    assert "0xe9" in bad.detail
    assert "iconv" in bad.detail
    assert bad.preview == '{"text":"n\\xe9"}'


def test_e10_zero_bytes_are_a_bad_row():
    assert the_bad(b'{"text":"a\x00"}').reason == "holds zero bytes"
    assert "crash" in the_bad(b"\x00" * 100).detail
    # Written as an escape it is a character like others.
    assert read(b'{"text":"a\\u0000"}') == [(1, {"text": "a\x00"})]


@pytest.mark.parametrize("escape", [rb"\ud83d", rb"\ude00", rb"\ude00\ud83d", rb"\uD83Dx", rb"\ud83d\n"])
def test_e10_half_a_surrogate_pair_is_a_bad_row(escape):
    assert the_bad(b'{"text":"' + escape + b'"}').reason == "a string holds half a surrogate pair"


def test_e10_surrogates_in_utf_8_bytes_are_a_bad_row():
    assert the_bad(b'{"text":"\xed\xa0\xbd"}').reason == "not valid UTF-8"
    assert read(rb'{"text":"\ud83d\ude00"}') == [(1, {"text": "\U0001f600"})]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"NaN", "NaN and Infinity are no JSON"),
        (b"Infinity", "NaN and Infinity are no JSON"),
        (b"-Infinity", "NaN and Infinity are no JSON"),
        (b"1e999", "a number is out of range"),
        (b"-1e999", "a number is out of range"),
    ],
)
def test_e11_numbers_that_are_none_are_bad_rows(value, reason):
    assert the_bad(b'{"text":"a","weight":' + value + b"}").reason == reason
    # Control: the standard library's reader takes all of them.
    assert "weight" in json.loads(b'{"text":"a","weight":' + value + b"}")


@pytest.mark.parametrize("line", [b'{"text":"a","text":"b"}', b'{"a":[{"b":1,"b":2}],"text":"x"}'])
def test_e11_a_key_twice_in_one_object_is_a_bad_row(line):
    bad = the_bad(line)
    assert bad.reason == "a key appears twice in one object"
    assert bad.detail in ('"text"', '"b"')


def test_e11_the_same_key_in_two_objects_is_fine():
    assert read(b'{"text":"a","m":{"text":1},"n":{"text":1}}')[0][1]["text"] == "a"


def test_e12_line_separators_inside_a_string_are_no_line_breaks():
    text = "a\u2028b\u2029c\x85d\x0be"
    data = json.dumps({"text": text}, ensure_ascii=False).replace("\\u000b", "\x0b").encode()
    data = data.replace(b"\x0b", b"\\u000b")
    assert read(data + b"\n" + data) == [(1, {"text": text}), (2, {"text": text})]
    # Control: splitlines would tear the row apart.
    assert len(data.decode().splitlines()) > 1


@given(st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20)), max_size=8), st.booleans())
def test_any_bytes_give_rows_or_bad_rows_and_each_line_at_most_one(pieces, newline):
    lines = [json.dumps({"text": p}).encode() if isinstance(p, str) else p for p in pieces]
    data = b"\n".join(lines) + b"\n" * newline
    for number, value in read(data):
        assert number >= 1
        assert isinstance(value, dict | BadRow)
        if isinstance(value, BadRow):
            assert value.reason
            (str(value) + value.preview).encode()


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63) | st.none(), max_size=4), max_size=6)
)
def test_what_is_written_as_json_lines_is_read_back(objects):
    for ascii_only in (True, False):
        data = "\n".join(json.dumps(o, ensure_ascii=ascii_only) for o in objects).encode("utf-8", "surrogatepass")
        assert read(data) == list(enumerate(objects, 1))


def test_e11_a_key_twice_is_found_however_it_is_written():
    """The quick count of keys may be too high, never too low."""
    for line in (
        rb'{"a":1,"\u0061":2}',
        b'{"a" :1,"a"\t : 2}',
        rb'{"a":"\":","a":"\": "}',
        b'{"x":[{"y":{"z":1,"z":1}}]}',
        rb'{"a\\":1,"a\\":2}',
    ):
        assert the_bad(line).reason == "a key appears twice in one object", line
    for line in (rb'{"a":"\":","b":"\" :"}', rb'{"a":"{\"b\":1,\"b\":2}"}', b'{"":1,"a":{"":2}}'):
        assert isinstance(read(line)[0][1], dict), line


keys = st.sampled_from(["a", "b", '":', '\\": ', "\u2028", "é"])
values = st.recursive(
    keys | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(keys, inner), max_size=3)
)


@given(st.lists(st.tuples(keys, values), max_size=3), st.booleans(), st.sampled_from(["", " ", "\t "]))
def test_e11_keys_are_counted_as_a_reader_that_watches_them_does(pairs, ascii_only, space):
    twice = False

    def write(value: Any) -> str:
        nonlocal twice
        if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
            twice |= len({key for key, _ in value}) < len(value)
            inner = ",".join(json.dumps(k, ensure_ascii=ascii_only) + space + ":" + write(v) for k, v in value)
            return "{" + inner + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        return json.dumps(value, ensure_ascii=ascii_only)

    line = write([*pairs, ("last", 1)]).encode()
    found = jsonvalue.parse(1, line)
    assert isinstance(found, BadRow) == twice
    if not twice:
        assert found == json.loads(line)


def test_e11_control_a_parser_alone_lets_a_key_twice_through(monkeypatch):
    monkeypatch.setattr(jsonvalue, "_COLON", jsonvalue._NOT_A_NUMBER)
    monkeypatch.setattr(jsonvalue, "_keys_of", lambda data: jsonvalue._keys_in(json.loads(data)))
    assert read(b'{"a":1,"a":2}') == [(1, {"a": 2})]


def test_e9_nesting_that_the_parser_takes_and_later_steps_would_not(monkeypatch):
    deep = b'{"a":' * 199 + b"1" + b"}" * 199
    assert isinstance(read(deep)[0][1], dict)
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    assert the_bad(deep).reason == "nested too deeply"
    # Control.
    monkeypatch.setattr(jsonvalue, "DEEPEST", 1000)
    assert isinstance(read(deep)[0][1], dict)


def test_b11_rows_are_read_one_at_a_time():
    """The file is far larger than what is held at any moment."""

    class Lines(io.RawIOBase):
        def __init__(self) -> None:
            self.count = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if self.count >= 4000:
                return 0
            self.count += 1
            line = b'{"text":"' + b"y" * 8000 + b'"}\n'
            buffer[: len(line)] = line
            return len(line)

    def numbers() -> Iterator[int]:
        for number, value in read_jsonl(Lines(), 1 << 16):
            assert isinstance(value, dict)
            yield number

    tracemalloc.start()
    assert sum(1 for _ in numbers()) == 4000  # 32 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
