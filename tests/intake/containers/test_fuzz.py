"""Any bytes, under any name: rows, bad rows or a DataError; nothing else, and in bounded memory."""

from __future__ import annotations

import io
import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.errors import DataError
from nightschool.intake.containers import jsonlines
from nightschool.intake.rows import PREVIEW, BadRow

from .files import PACKED, SHAPES, WRITERS, open_rows, read

NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.md", "a.parquet", "a", "a.gz", "a.xlsx"]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b",",
    b":",
    b"\n",
    b"\r",
    b'"text"',
    b"1",
    b" ",
    b";",
    b"\t",
    b"\0",
    b"\xff",
]
TOKENS += [
    b"a",
    b"null",
    b"NaN",
    "é".encode(),
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x1f\x8b\x08",
    b"PAR1",
    b"\x28\xb5\x2f\xfd",
]


def look(data: bytes, name: str) -> int:
    """Read a file, and check what every reader promises; the number of its rows."""
    try:
        container, rows = read(data, name)
    except DataError:
        return 0
    assert container
    last = 0
    for number, value in rows:
        assert number > last
        last = number
        if isinstance(value, BadRow):
            assert value.number == number
            assert value.reason
            assert len(value.preview) <= PREVIEW
            (str(value) + value.preview).encode("utf-8", "strict")
        else:
            json.dumps(value, allow_nan=False).encode()
            json.dumps(value, ensure_ascii=False).encode()
    return len(rows)


@given(st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join) | st.binary(max_size=60), st.sampled_from(NAMES))
def test_any_bytes(data, name):
    look(data, name)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("packed", PACKED)
def test_good_files_with_bytes_changed_cut_out_or_put_in(kind, packed):
    chance = random.Random(f"{kind}{packed}")
    name, _, write = WRITERS[kind]
    whole = PACKED[packed](write(SHAPES["messages"] + SHAPES["text"]))
    look(whole, name)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(len(data))
            what = chance.randrange(4)
            if what == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif what == 1:
                del data[place : place + chance.randrange(1, 20)]
            elif what == 2:
                data[place:place] = chance.choice(TOKENS)
            else:
                data[place] = chance.choice(b'"{}[],\n\0\xff')
            if not data:
                break
        look(bytes(data), name)


def test_memory_does_not_grow_with_the_file():
    """Rows come and go: three times the file, the same memory. Both are larger than the longest row."""
    peaks = {}
    for kind, (name, _, write) in WRITERS.items():
        for count in (100, 300):
            data = write([{"text": "x" * 100_000}] * count)
            tracemalloc.start()
            assert sum(1 for _ in open_rows(io.BytesIO(data), name).rows) == count
            peaks[kind, count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peaks[kind, 300] < peaks[kind, 100] + (6 << 20), (kind, peaks)


def test_control_a_reader_that_lets_an_error_out_is_found(monkeypatch):
    monkeypatch.setattr(jsonlines, "parse", lambda number, line: json.loads(line))
    with pytest.raises(ValueError):
        look(b'{"text": 1}\n{"text": }\n', "a.jsonl")
