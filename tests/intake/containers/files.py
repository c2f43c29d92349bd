"""Every container, written from rows: for tests that ask the same of all of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

from nightschool.intake.containers import open_rows

Row = dict[str, Any]
Write = Callable[[list[Row]], bytes]


def jsonl(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def array(rows: list[Row]) -> bytes:
    return json.dumps(rows).encode()


def indented(rows: list[Row]) -> bytes:
    return json.dumps(rows, indent=2, ensure_ascii=False).encode()


def wrapped(rows: list[Row]) -> bytes:
    return json.dumps({"version": "1.0", "notes": ["a"], "data": rows, "count": len(rows)}, indent=1).encode()


def one_after_the_other(rows: list[Row]) -> bytes:
    return b"\n".join(json.dumps(row, indent=2).encode() for row in rows) + b"\n"


def table(rows: list[Row], delimiter: str = ",") -> bytes:
    """Columns of all rows; what is no text is written as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name, "") for name in names]
        writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return text.getvalue().encode()


def tabs(rows: list[Row]) -> bytes:
    return table(rows, "\t")


def semicolons(rows: list[Row]) -> bytes:
    return table(rows, ";")


def parquet(rows: list[Row], **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), file, **options)
    return file.getvalue()


def zst(data: bytes) -> bytes:
    """As the command writes it: with a checksum at the end, which Arrow leaves out, set in the frame's header."""
    import pyarrow as pa

    return bytes(pa.compress(data, codec="zstd", asbytes=True))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": zst,
}

WRITERS: dict[str, tuple[str, str, Write]] = {
    "jsonl": ("rows.jsonl", "jsonl", jsonl),
    "array": ("rows.json", "json", array),
    "indented": ("rows.json", "json", indented),
    "wrapped": ("rows.json", "json", wrapped),
    "objects": ("rows.json", "json", one_after_the_other),
    "csv": ("rows.csv", "csv", table),
    "semicolons": ("rows.csv", "csv", semicolons),
    "tsv": ("rows.tsv", "tsv", tabs),
    "parquet": ("rows.parquet", "parquet", parquet),
}
"""Writer by kind: file name, name of the container, function."""

SHAPES: dict[str, list[Row]] = {
    "messages": [
        {"messages": [{"role": "user", "content": f"Q{i}?"}, {"role": "assistant", "content": 'A, é\n\u2028 "x"'}]}
        for i in range(3)
    ],
    "conversations": [{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}] * 2,
    "alpaca": [
        {"instruction": "Add", "input": "1; 2", "output": "3"},
        {"instruction": "No", "input": "x", "output": "y"},
    ],
    "prompt+completion": [{"prompt": " ask\t", "completion": ' "tell" '}, {"prompt": "[INST] b", "completion": "c"}],
    "prompt+completion as messages": [
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    ]
    * 2,
    "question+answer": [{"question": "Q", "answer": "A"}, {"question": "Why, so?", "answer": "Line\nline"}],
    "text": [{"text": "One, two; three\n\nfour"}, {"text": 'A "quoted" word'}],
}
"""Rows of every shape. All rows of a shape have the same keys, as a table needs it."""


def read(data: bytes, name: str, **options: Any) -> tuple[str, list[tuple[int, Any]]]:
    """(container, rows) of a file."""
    opened = open_rows(io.BytesIO(data), name, **options)
    return opened.container, list(opened.rows)


def values(data: bytes, name: str, **options: Any) -> list[Any]:
    """The rows of a file without their numbers."""
    return [value for _, value in read(data, name, **options)[1]]
