"""Parquet: what its types become, rows over the limit, and files that are damaged."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.errors import DataError
from nightschool.intake.containers import parquet, streams
from nightschool.intake.rows import BadRow

from . import files
from .files import read, values


def written(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, -3]), [1, None, -3]),
        (pa.array([True, None]), [True, None]),
        (pa.array([1.5, math.nan, math.inf, None]), [1.5, None, None, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([datetime.date(2026, 1, 2)]), ["2026-01-02"]),
        (pa.array([datetime.datetime(2026, 1, 2, 3, 4)]), ["2026-01-02T03:04:00"]),
        (pa.array([decimal.Decimal("1.50")]), ["1.50"]),
        (pa.array([b"text", b"\xff\xfe", None]), ["text", {"bytes": 2}, None]),
        (pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())), [{"k": 1}, {}, None]),
        (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), [[1, 2], None]),
        (pa.array([["a", None], [], None], pa.list_view(pa.string())), [["a", None], [], None]),
        (pa.array([["a", None], [], None], pa.large_list(pa.string())), [["a", None], [], None]),
        (pa.array([[{"a": None, "b": [{"c": None}]}], None]), [[{"b": [{}]}], None]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_what_types_become(column, expected):
    numbers = [*range(len(expected))]
    found = values(written({"n": numbers, "x": column}), "a.parquet")
    assert found == [
        {"n": n} | ({} if value is None else {"x": value}) for n, value in zip(numbers, expected, strict=True)
    ]
    json.dumps(found, allow_nan=False)


nested = st.recursive(
    st.none() | st.text(max_size=4) | st.sampled_from(["", "é"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.lists(
        st.lists(
            st.fixed_dictionaries({"role": st.text(max_size=3), "content": st.none() | st.text(max_size=5)}), max_size=3
        )
        | st.none(),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_nested_columns_come_out_row_by_row_as_the_library_gives_them(column, size):
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    batch = pa.record_batch({"x": pa.array(column, kind)})
    found = [row for start in range(0, len(column), size) for row in parquet._objects(batch.slice(start, size), start)]
    clean = [
        {} if value is None else {"x": [{k: v for k, v in item.items() if v is not None} for item in value]}
        for value in column
    ]
    assert found == clean


def test_row_groups_and_batches_make_no_difference(monkeypatch):
    rows = [{"text": "x" * (i % 50), "n": i} for i in range(500)]
    data = files.parquet(rows, row_group_size=70)
    whole = read(data, "a.parquet")[1]
    assert whole == [*enumerate(rows, 1)]
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 3)
    assert read(data, "a.parquet")[1] == whole


def test_e9_a_row_over_the_limit_is_one_bad_row():
    rows = [{"text": "a"}, {"text": "x" * 5000}, {"text": "b"}]
    found = list(parquet.read(streams.Source(io.BytesIO(files.parquet(rows))), longest=1000))
    assert [isinstance(value, BadRow) for _, value in found] == [False, True, False]
    assert found[1][1].reason == "longer than 1000 bytes"
    assert found[2] == (3, rows[2])


def test_e10_text_that_is_no_utf_8_is_one_bad_row():
    bad = pa.Array.from_buffers(pa.string(), 3, [None, *pa.array([b"a", b"\xed\xa0\xbd", b"c"]).buffers()[1:]])
    found = values(written({"text": bad}), "a.parquet")
    assert [isinstance(value, BadRow) for value in found] == [False, True, False]
    assert found[1].reason == "not valid UTF-8"


def test_two_columns_of_one_name_are_refused():
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), file)
    with pytest.raises(DataError, match='two of its columns have the name "a"'):
        read(file.getvalue(), "a.parquet")


def test_a_page_s_checksum_is_looked_at():
    data = bytearray(
        written(
            {"text": ["some text that is stored as it is"]},
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
    )
    data[data.index(b"stored")] ^= 1
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(bytes(data), "a.parquet")
    # Control: writers leave the checksum out unless they are told, and then nobody can see it.
    data = bytearray(
        written(
            {"text": ["some text that is stored as it is"]},
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
    )
    data[data.index(b"stored")] ^= 1
    assert len(values(bytes(data), "a.parquet")) == 1
