"""JSON that is not in lines: where rows end, what is one bad row, and what makes the whole file unusable."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.errors import DataError
from nightschool.intake.containers import jsondocument, jsonvalue
from nightschool.intake.rows import BadRow

GOOD = b'{"text": "good"}'


class Small(io.BytesIO):
    """A file that gives a few bytes at a time, so that everything falls across the edge of a read."""

    step = 3

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.step if size is None or size < 0 else min(size, self.step))


def read(data: bytes, step: int = 1 << 20, **options: Any) -> list[tuple[int, Any]]:
    file = Small(data)
    file.step = step
    return list(jsondocument.read(file, **options))


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (b"3", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"[{}]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"", "not valid JSON"),
        (b'{"a" 1}', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"a": NaN}', "NaN and Infinity are no JSON"),
        (b'{"a": 1e999}', "a number is out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number is out of range"),
        (b'{"a": 1, "a": 2}', "a key appears twice in one object"),
        (b'{"a": "\xe9"}', "not valid UTF-8"),
        (rb'{"a": "\ud83d"}', "a string holds half a surrogate pair"),
        (b'{"a": "\x00"}', "holds zero bytes"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("place", range(3))
def test_e8_a_mistake_within_a_row_is_one_bad_row(element, reason, place):
    rows = [GOOD, GOOD]
    rows.insert(place, element)
    for data in (b"[" + b",".join(rows) + b"]", b'{"n": 1, "data": [' + b" , ".join(rows) + b'], "m": {}}'):
        if place == 0 and data.startswith(b"{"):
            continue  # its first element decides that a list is one of rows
        found = read(data)
        assert [number for number, _ in found] == [1, 2, 3]
        assert [isinstance(value, BadRow) for _, value in found] == [place == i for i in range(3)]
        assert found[place][1].reason == reason


BROKEN = [
    (b'[{"a": 1}', "ends too early, in row 1"),
    (b'[{"a": 1}, {"b', "ends too early, in row 2"),
    (b"[", "ends too early"),
    (b"{", "ends too early"),
    (b'{"a": "\\', "ends too early"),
    (b'[{"a": 1]}]', "brackets of its JSON do not match in row 1"),
    (b'[{"a": 1}}]', "brackets of its JSON do not match in row 1"),
    (b'[{"a": 1}] [', "behind the end"),
    (b'[{"a": 1}]]', "behind the end"),
    (b'{"a": 1} 2', "behind row 1"),
    (b'{"a": 1}, {"a": 1}', "behind row 1"),
    (b'{"data": [{"a": 1}]', "ends too early"),
    (b'{"data": [{"a": 1}], "x": ', "ends too early"),
    (b'{"data": [{"a": 1}], "x" 1}', "no colon"),
    (b'{"data": [{"a": 1}], x}', "no valid JSON"),
    (b'{"data": [{"a": 1}]]', "no valid JSON"),
    (b'{"data": [{"a": 1}], "x": [1, 2}', "do not match"),
    (b'{"data": [{"a": 1}], "x": [1, 2', "ends too early"),
    (b'{"data": [{"a": 1}], "x": [ {"b": 2}]}', "several lists"),
    (b"[" + b"[" * (1 << 20) + b"[", "nested more than"),
]


@pytest.mark.parametrize(("data", "words"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("step", [1 << 20, 5])
def test_e8_where_rows_cannot_be_told_apart_nothing_is_half_read(data, words, step):
    if step == 5 and len(data) > 1000:
        pytest.skip("the same, slowly")
    with pytest.raises(DataError, match=words):
        read(data, step)


def test_rows_are_the_same_wherever_a_read_ends():
    rows = [{"a": 'x "] }, { \\ \\" é \u2028'}, {"b": [{"c": []}, [[]]]}, {}, {"d\\": "\\\\"}]
    for data in (
        json.dumps(rows, ensure_ascii=False, indent=1).encode(),
        json.dumps({"k": "v", "l": [1], "rows": rows, "o": {"p": []}, "q": []}).encode(),
        b" ".join(json.dumps(row).encode() for row in rows),
    ):
        whole = read(data)
        assert [value for _, value in whole] == rows
        for step in (1, 2, 3, 7):
            assert read(data, step) == whole


class Endless(io.RawIOBase):
    """`before`, 32 MiB of `filling`, `after`."""

    def __init__(self, before: bytes, filling: bytes, after: bytes) -> None:
        self.parts = iter([before, *[filling * ((1 << 20) // len(filling))] * 32, after])

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return next(self.parts, b"")


@pytest.mark.parametrize("filling", [b"x", b"\\\\", b'":"', b"\x00"], ids=["text", "escapes", "strings", "zeros"])
def test_e9_a_huge_row_is_one_bad_row_and_takes_no_memory(filling):
    file = Endless(b'[{"text": "', filling, b'"}, ' + GOOD + b"]")
    tracemalloc.start()
    found = list(jsondocument.read(file, longest=1 << 20))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [number for number, _ in found] == [1, 2]
    assert found[0][1].reason == "longer than 1048576 bytes"
    assert found[1][1] == {"text": "good"}
    assert peak < 10 << 20


def test_e9_a_wrapper_of_any_size_is_read_row_by_row():
    """What is in front of the list fits into the longest row; the list does not."""
    row = b'{"text": "' + b"x" * 1000 + b'"},'
    file = Endless(b'{"about": "a", "data": [', row, GOOD + b'], "more": "y"}')
    tracemalloc.start()
    count = sum(1 for _ in jsondocument.read(file, longest=1 << 20))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 32 * ((1 << 20) // len(row)) + 1
    assert peak < 10 << 20


def test_e9_the_longest_row_allowed_is_still_read():
    size = len(GOOD)
    assert read(b"[" + GOOD + b"]", longest=size) == [(1, {"text": "good"})]
    assert read(b"[" + GOOD + b"]", longest=size - 1)[0][1].reason == f"longer than {size - 1} bytes"


row_values = st.one_of(
    st.dictionaries(
        st.text(max_size=4), st.text(max_size=8) | st.integers(-9, 9) | st.lists(st.text(max_size=2)), max_size=3
    ).map(lambda value: json.dumps(value)),
    st.sampled_from(["1", "null", '"]}"', "[{}]", '{"a":NaN}', '{"a":1,"a":1}', "{x}", '{"a":[1,]}', ""]),
)


@given(st.lists(row_values, min_size=1, max_size=6), st.integers(1, 9), st.sampled_from(["", " ", "\n  "]))
def test_accepted_and_bad_are_all_that_was_there(elements, step, space):
    data = ("[" + f"{space},{space}".join(elements) + space + "]").encode()
    found = read(data, step)
    if len(elements) == 1 and not elements[0]:
        assert found == []
        return
    assert [number for number, _ in found] == [*range(1, len(elements) + 1)]
    for text, (number, value) in zip(elements, found, strict=True):
        expected = jsonvalue.parse(number, text.encode() or b" ")
        assert isinstance(value, BadRow) == isinstance(expected, BadRow)
        assert isinstance(value, BadRow) or value == expected


def test_control_a_reader_that_counts_brackets_in_strings_fails(monkeypatch):
    import re

    data = b'[{"a": "}, {"}, {"a": 1}]'
    assert [value for _, value in read(data)] == [{"a": "}, {"}, {"a": 1}]
    monkeypatch.setattr(jsondocument, "_DEEP", re.compile(rb"[^{}\[\]]*+"))
    found = read(data)
    assert [value for _, value in found] != [{"a": "}, {"}, {"a": 1}]
