"""What is wrong with files, row by row of section E: small files, and exactly what must be said of each.

Names begin with the number of the row in section E. What concerns the inbox and not what is in a file (E1 to E6, E13,
E15, E16, E20, E21) has tests of its own beside those of these files.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

from . import corpus
from .containers import files
from .containers.files import PACKED, WRITERS, Row
from .corpus import DOCUMENTS, TABLES, Case

ALL_MAY_BE_BAD = (("max_bad_rows", 1.0),)

OK, OK_BECOMES = b'{"text": "ok"}', "<bos>⟦ok<eos>⟧"
NOT_COPIED = "it was not copied or written to its end"
LATIN = "if the file is in Latin-1, run: iconv -f LATIN1 -t UTF-8"

CASES: dict[str, Case] = {}


def add(name: str, data: bytes, container: str | None, shape: str | None, *rows: tuple[int, str], **more: Any) -> None:
    """Add a case; `packed` compresses it and changes its name."""
    packed = more.pop("packed", "")
    name, container = name + packed, container and container + packed
    assert name not in CASES, name
    more.setdefault("settings", ALL_MAY_BE_BAD)
    CASES[name] = Case(name, PACKED[packed](data), container, shape, rows, **more)


def none_usable(reason: str, line: int) -> str:
    return f"its one row cannot be used: {reason} (line {line})"


# --- E7: nothing in it

EMPTY = "it holds no rows: the file is empty, or only white space"
for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md", ""):
    container = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".md": "markdown"}.get(ending)
    for packed in PACKED:
        add(f"e7 empty{ending}", b"", container or "text", None, problem=EMPTY, packed=packed)
    add(f"e7 blank{ending}", b" \n\r\n\t\n", container or "text", None, problem=EMPTY)
add("e7 empty array.json", b" [ ] ", "json", None, problem=EMPTY)
add("e7 only a header.csv", b"text,n\n", "csv", None, problem="it holds a header line and no rows")
add("e7 only a header.tsv", b"text\tn\n\n", "tsv", None, problem="it holds a header line and no rows")


def _parquet_without_rows() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)
    return file.getvalue()


add("e7 no rows.parquet", _parquet_without_rows(), "parquet", None, problem="it is a Parquet file without rows")

# --- E8 to E11: what stands between two good rows, in each container in which it can stand there

NO_JSON = "not valid JSON: "
ELEMENTS: dict[str, tuple[bytes, str]] = {
    "e8 no value": (b'{"text": }', NO_JSON + "invalid character (byte 9)"),
    "e8 a list": (b"[1]", "not a JSON object: it is a list"),
    "e8 a string": (b'"a"', "not a JSON object: it is a string"),
    "e8 null": (b"null", "not a JSON object: it is null"),
    "e8 a number": (b"17", "not a JSON object: it is a number"),
    "e8 true": (b"true", "not a JSON object: it is true or false"),
    "e8 Python": (b"{'text': 'a'}", NO_JSON + "object keys must be strings (byte 1)"),
    "e8 a comma too many": (b'{"text": "a",}', NO_JSON + "trailing comma in object (byte 13)"),
    "e8 a tab in a string": (b'{"text": "a\tb"}', NO_JSON + "invalid character (byte 11)"),
    "e8 no comma behind it": (b'{"text": "a"} {"text": "b"}', NO_JSON + "trailing characters (byte 15)"),
    "e8 cut off": (b'{"text": "a"', NO_JSON + "it ends too early"),
    "e9 200,000 levels": (b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "e9 201 levels": (
        b'{"text": "a", "n": ' + b"[" * 200 + b"]" * 200 + b"}",
        "nested too deeply: more than 200 levels",
    ),
    "e9 5,000 digits": (
        b'{"text": "a", "n": ' + b"7" * 5000 + b"}",
        "a number is out of range: integer value out of range",
    ),
    "e10 Latin-1": (b'{"text": "caf\xe9"}', f"not valid UTF-8: byte 0xe9; {LATIN}"),
    "e10 a zero byte": (b'{"text": "a\0b"}', "holds zero bytes: zero bytes are no JSON"),
    "e10 nothing but zeros": (
        b"\0" * 10,
        "holds zero bytes: the file may have been damaged by a crash or a full disk",
    ),
    "e10 half a pair": (
        b'{"text": "\\ud800"}',
        "a string holds half a surrogate pair: it stands for no character",
    ),
    "e10 half a pair in bytes": (b'{"text": "\xed\xa0\x80"}', f"not valid UTF-8: byte 0xed; {LATIN}"),
    "e11 NaN": (b'{"text": "a", "n": NaN}', "NaN and Infinity are no JSON"),
    "e11 Infinity": (b'{"text": "a", "n": [-Infinity]}', "NaN and Infinity are no JSON"),
    "e11 1e999": (b'{"text": "a", "n": 1e999}', "a number is out of range: number out of range"),
    "e11 a key twice": (b'{"text": "a", "text": "b"}', 'a key appears twice in one object: "text"'),
    "e11 a key twice inside": (b'{"text": "a", "n": {"k": 1, "\\u006b": 1}}', 'a key appears twice in one object: "k"'),
}

AROUND: dict[str, Callable[[bytes], bytes]] = {
    "jsonl": lambda element: b"\n".join([OK, element, OK, b""]),
    "array": lambda element: b"[" + b",\n".join([OK, element, OK]) + b"]",
    "wrapped": lambda element: b'{"n": 3, "rows": [' + b", ".join([OK, element, OK]) + b"]}",
    "objects": lambda element: b"\n".join([b'{\n "text":\n "ok"\n}', element, b'{\n "text":\n "ok"\n}']),
}
"""Two good rows with something between them, in every way to write JSON."""

_NO_OBJECT = (
    "behind row 1 of its JSON stands something that is no object, and where the next row begins cannot be told; "
    "write an array, or one object per line"
)
_SPOILED = {
    # Where rows are told apart by brackets alone, what has none or too few of them spoils the file.
    **{
        ("objects", name): _NO_OBJECT
        for name in ("e8 a list", "e8 a string", "e8 null", "e8 a number", "e8 true", "e10 nothing but zeros")
    },
    ("objects", "e8 cut off"): f"its JSON ends too early, in row 2: {NOT_COPIED}",
    **{
        (kind, "e8 cut off"): f"the brackets of its JSON do not match in row 2 (byte {place}), so that where the next "
        "row begins cannot be told; mend that row, or write one object per line"
        for kind, place in (("array", 45), ("wrapped", 62))
    },
}

for kind, around in AROUND.items():
    base, container = WRITERS[kind][:2]
    for name, (element, reason) in ELEMENTS.items():
        title, data = f"{name}, {kind}{base.removeprefix('rows')}", around(element)
        if name == "e9 200,000 levels" and kind in ("wrapped", "objects"):
            continue  # as in an array, and each of them takes a second
        if (kind, name) in _SPOILED:
            add(title, data, container, None, problem=_SPOILED[kind, name])
        elif (kind, name) == ("objects", "e8 no comma behind it"):  # there that is no mistake
            between = [(2, "<bos>⟦a<eos>⟧"), (3, "<bos>⟦b<eos>⟧")]
            add(title, data, container, "text", (1, OK_BECOMES), *between, (4, OK_BECOMES))
        else:
            add(title, data, container, "text", (1, OK_BECOMES), (3, OK_BECOMES), bad=((2, reason),))

LONG = 9 << 20
for kind, around in AROUND.items():
    base, container = WRITERS[kind][:2]
    element = b'{"text": "' + b"x" * (LONG - 12) + b'"}'
    size = LONG + (kind in ("array", "wrapped"))  # with the white space in front of it
    reason = f"longer than 8388608 bytes: it has {size} bytes"
    title = f"e9 a row over 8 MiB, {kind}{base.removeprefix('rows')}"
    rows = (1, OK_BECOMES), (3, OK_BECOMES)
    add(title, around(element), container, "text", *rows, bad=((2, reason),), packed=".zst")

add(
    "e8 more broken lines than whole ones.jsonl",
    OK + b'\n{"text": }\n[1]\n',
    "jsonl",
    "text",
    (1, OK_BECOMES),
    bad=((2, ELEMENTS["e8 no value"][1]), (3, ELEMENTS["e8 a list"][1])),
)

# --- E8 to E11 in tables: the same between two good lines

_BROKEN_CELL = 'a cell that takes a list holds no valid JSON: column "messages": '
LINES: dict[str, tuple[bytes, str]] = {
    "e8 too many cells": (b"a,,c,d", "too many cells: 4 instead of 3, cut at commas"),
    "e8 too few cells": (b"a,", "too few cells: 2 instead of 3, cut at commas"),
    "e8 a stray mark": (b'"a" b,,c', """not valid CSV: ',' expected after '"'"""),
    "e8 a cell of Python": (
        b",\"[{'role': 'user'}]\",c",
        _BROKEN_CELL + "not valid JSON: object keys must be strings (byte 2); it looks like a Python list: write it "
        "with json.dumps",
    ),
    "e8 a cell that is cut off": (b',"[{""role"": ""user""",c', _BROKEN_CELL + "not valid JSON: it ends too early"),
    "e9 a deep cell": (
        b',"' + b"[" * 300 + b"]" * 300 + b'",c',
        _BROKEN_CELL + "nested too deeply: more than 200 levels",
    ),
    "e9 5,000 digits in a cell": (
        b',"[' + b"7" * 5000 + b']",c',
        _BROKEN_CELL + "a number is out of range: integer value out of range",
    ),
    "e10 Latin-1": (b"caf\xe9,,c", f"not valid UTF-8: byte 0xe9; {LATIN}"),
    "e10 a zero byte": (b"a\0b,,c", "holds zero bytes: zero bytes are no text"),
    "e10 nothing but zeros": (b"\0" * 10, "holds zero bytes: the file may have been damaged by a crash or a full disk"),
    "e10 half a pair in bytes": (b"\xed\xa0\x80,,c", f"not valid UTF-8: byte 0xed; {LATIN}"),
    "e10 half a pair in a cell": (
        b',"[{""role"": ""\\ud800""}]",c',
        _BROKEN_CELL + "a string holds half a surrogate pair: it stands for no character",
    ),
    "e11 NaN in a cell": (b',"[{""role"": NaN}]",c', _BROKEN_CELL + "NaN and Infinity are no JSON"),
    "e11 1e999 in a cell": (b",[1e999],c", _BROKEN_CELL + "a number is out of range: number out of range"),
    "e11 a key twice in a cell": (
        b',"[{""role"": 1, ""role"": 2}]",c',
        _BROKEN_CELL + 'a key appears twice in one object: "role"',
    ),
}
_GOOD_LINE = b'"o\nk",,x'
_LINE_BECOMES = "<bos>⟦o\nk<eos>⟧"

for name, (line, reason) in LINES.items():
    data = b"\n".join([b"text,messages,n", _GOOD_LINE, line, _GOOD_LINE, b""])
    add(f"{name}.csv", data, "csv", "text", (2, _LINE_BECOMES), (5, _LINE_BECOMES), bad=((4, reason),))
    if b"," not in line.replace(b",", b"", 2) and b"\t" not in line and b'",' not in line:
        tabs = data.replace(b",", b"\t")
        reason = reason.replace("','", "'\t'").replace("commas", "tabs")
        add(f"{name}.tsv", tabs, "tsv", "text", (2, _LINE_BECOMES), (5, _LINE_BECOMES), bad=((4, reason),))

# The cell has nine lines of 1 MiB; it is given up where it is too long, and counted up to there.
add(
    "e9 a cell over 8 MiB.csv", b'text\nok\n"' + 9 * (b"x" * (1 << 20) + b"\n") + b'"\nok\n', "csv", "text",
    (2, OK_BECOMES), (13, OK_BECOMES), packed=".zst", bad=((3, "longer than 8388608 bytes: it has 8388617 bytes"),),
)  # fmt: skip
add(
    "e8 a mark that is never closed.csv", b'text\nok\n"a\nok\nok\n', "csv", None,
    problem="a quotation mark in the row that begins on line 3 is never closed, so that where the next row begins "
    "cannot be told; mend that row, or, if the file is cut off, copy it again",
)  # fmt: skip
for header, problem in {
    b"text,text": 'two columns have the name "text" in its header (line 1); rename one',
    b"text,,n": "column 2 has no name in its header (line 1, cut at commas); the first line must name every column",
}.items():
    add(f"e8 a header of {header.decode()}.csv", header + b"\na,b,c\n", "csv", None, problem=problem)

# --- E8: at most so many

for kind in AROUND:
    base, container = WRITERS[kind][:2]
    ending = base.removeprefix("rows")
    four = [{"text": "ok"}] * 4
    rows = corpus.write(kind, [*four, {"odd": 1}])
    keys = (
        'the keys of the row are not known: it has "odd"; expected "messages", "conversations", "prompt" with '
        '"completion", "instruction" with "output", "question" with "answer", or "text"; other names are mapped with '
        "[inbox.columns] or --map"
    )
    become = [(number, OK_BECOMES) for number in (1, 2, 3, 4)]
    add(f"e8 one bad row of five, {kind}{ending}", rows, container, "text", *become, bad=((5, keys),), settings=())
    rows = corpus.write(kind, [*four[1:], {"odd": 1}])
    problem = (
        "1 of its 4 rows cannot be used, more than data.max_bad_rows = 0.2 allows: "
        f"{keys.replace('known: ', 'known: ')} (line 4)"
    )
    title = f"e8 one bad row of four, {kind}{ending}"
    add(title, rows, container, "text", bad=((4, keys),), problem=problem, settings=())

# --- E8: damage

_ROWS: list[Row] = [{"text": f"row {i}"} for i in range(3)]
for kind, (base, _, writer) in WRITERS.items():
    whole = writer(_ROWS)
    for packed in (".gz", ".zst"):
        codec = {".gz": "gzip", ".zst": "zstd"}[packed]
        name = f"e8 cut off, {kind}{base.removeprefix('rows')}{packed}"
        problem = f"its {codec} data ends too early: {NOT_COPIED}"
        # Found in the first bytes already, ahead of what is in them.
        CASES[name] = Case(name, PACKED[packed](whole)[:-3], None, None, problem=problem)
_flipped = bytearray(gzip.compress(b"".join([OK + b"\n"] * 50), 0, mtime=0))
_flipped[-300] ^= 1
CASES["e8 a bit flipped.jsonl.gz"] = Case(
    "e8 a bit flipped.jsonl.gz",
    bytes(_flipped),
    None,
    None,
    problem="its gzip data is damaged; copy or write it again",
)
add(
    "e8 cut off.json",
    json.dumps(_ROWS).encode()[:-5],
    "json",
    None,
    problem=f"its JSON ends too early, in row 3: {NOT_COPIED}",
)

# --- what is no data file

for name, data, problem in (
    ("a.pdf", b"%PDF-1.7\n", "it is a PDF document; convert it to text or Markdown"),
    ("a.png", b"\x89PNG\r\n\x1a\n", "it is a PNG image; images are not learned"),
    ("a.xlsx", b"PK\x03\x04aaaa", "it is an Excel workbook; save the sheet as CSV UTF-8"),
    ("a.zip", b"PK\x03\x04aaaa", "it is a zip archive; unpack it, and drop the files in it"),
    (
        "a.pkl",
        b"\x80\x04\x95\x00",
        "it is a Python pickle, which is never opened, because that runs what is in it; export what is to be learned "
        "as JSON Lines, CSV or Parquet",
    ),
    ("a.jsonl.bz2", b"BZh91AY", "it is a bzip2 archive; unpack it, or use gzip or zstd"),
    ("a.jsonl", b"<!DOCTYPE html><html>", "it is a web page (HTML), perhaps an error page in place of a download; "
     "convert it to text or Markdown"),
    ("a.bin", b"text\0" * 9, "it is no text: zero bytes begin at byte 4. If it is data, export what is to be learned "
     "as JSON Lines, CSV or Parquet"),
    ("a.jsonl.gz", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "it is compressed twice; unpack it "
     "once (when unpacked)"),
):  # fmt: skip
    CASES[f"e10 no data, {name}"] = Case(f"e10 no data, {name}", data, None, None, problem=problem)

# --- E10, E12: what is no mistake

for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
    for kind in ("jsonl", "array", "csv", "tsv"):
        base, container = WRITERS[kind][:2]
        found = corpus.SHAPES["text"]
        data = corpus.write(kind, found.rows).decode().encode(encoding)
        rows = zip(corpus.row_numbers(kind, found.rows), found.become, strict=True)
        add(f"e10 in {encoding}, {kind}{base.removeprefix('rows')}", data, container, "text", *rows)
add("e10 in utf-16.txt", "né\r\n".encode("utf-16"), "text", "text", (1, "<bos>⟦né\n<eos>⟧"))
for ending, container in ((".txt", "text"), (".md", "markdown")):
    reason = f"not valid UTF-8: byte 0xe9; {LATIN}"
    add(f"e10 Latin-1{ending}", b"caf\xe9", container, None, bad=((1, reason),), problem=none_usable(reason, 1))
_SEPARATED = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
for kind in ("jsonl", "array", "wrapped", "csv", "tsv", "parquet"):
    base, container = WRITERS[kind][:2]
    rows = [{"text": _SEPARATED}, {"text": "ok"}]
    first = 2 if kind in TABLES else 1
    become = (first, f"<bos>⟦{_SEPARATED}<eos>⟧"), (first + 1, OK_BECOMES)
    data = files.jsonl(rows) if kind == "jsonl" else corpus.write(kind, rows)
    add(f"e12 separators, {kind}{base.removeprefix('rows')}", data, container, "text", *become)
for ending, container in DOCUMENTS.items():
    add(f"e12 separators{container}", _SEPARATED.encode(), ending, "text", (1, f"<bos>⟦{_SEPARATED}<eos>⟧"))

# --- E14

BOMB = 20 << 20
"""Bytes that a bomb unpacks to here, where the tests allow 16 MiB."""
for ending in (".jsonl", ".csv", ".txt"):
    data = {".jsonl": b'{"text": "', ".csv": b"text\n", ".txt": b"\n"}[ending]
    for packed in (".gz", ".zst"):
        filling = b"\n" if ending == ".txt" else b"0"  # a document of white space is no row
        whole = PACKED[packed](data + filling * BOMB)
        name = f"e14 a bomb{ending}{packed}"
        problem = (
            f"it holds {len(whole)} bytes and unpacks to more than {max(16 << 20, 1000 * len(whole))}; no data "
            "compresses so well, so it is taken for one made to do harm. If it is good, unpack it and drop it as it is"
        )
        container = {".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}[ending] + packed
        CASES[name] = Case(name, whole, container, None, problem=problem)
