"""What a file is, its bytes say: every container in every guise, and every kind of file that is refused by name."""

from __future__ import annotations

import gzip
import io
import json

import pytest

from nightschool.errors import DataError
from nightschool.intake.containers import open_rows, sniff
from nightschool.intake.rows import BadRow

from .files import PACKED, SHAPES, WRITERS, array, jsonl, parquet, read, table, values, wrapped

TEXTS = [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_container_gives_back_rows_of_every_shape(kind, shape, packed):
    name, container, write = WRITERS[kind]
    rows = SHAPES[shape]
    data = PACKED[packed](write(rows))
    found, numbered = read(data, name + packed)
    assert found == container + packed
    assert [value for _, value in numbered] == rows
    numbers = [number for number, _ in numbered]
    assert numbers == sorted(set(numbers))
    # Control: the name alone did not do it.
    if container not in ("csv", "tsv"):
        assert read(data, "rows")[1] == numbered


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.md", "a.csv", "a.dat", "a", "a.jsonl.gz"])
def test_lines_of_json_are_json_lines_under_any_name(name):
    assert read(jsonl(TEXTS), name) == ("jsonl", [(1, TEXTS[0]), (2, TEXTS[1])])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a", "a.ndjson"])
@pytest.mark.parametrize("data", [array(TEXTS), wrapped(TEXTS), json.dumps({"rows": TEXTS}).encode()])
def test_an_array_and_a_wrapper_are_json_under_any_name(name, data):
    assert read(data, name) == ("json", [(1, TEXTS[0]), (2, TEXTS[1])])


def test_one_object_is_one_row():
    for row in ({"text": "a"}, SHAPES["messages"][0], SHAPES["conversations"][0], {"text": "a", "more": [{"b": 1}]}):
        for data in (json.dumps(row).encode(), json.dumps(row, indent=1).encode()):
            for name in ("a.json", "a.jsonl", "a"):
                assert values(data, name) == [row]


def test_a_list_of_messages_under_another_name_is_one_row_too():
    row = {"dialogue": SHAPES["messages"][0]["messages"]}
    assert values(json.dumps(row, indent=1).encode(), "a.json") == [row]
    turns = {"turns": [{"speaker": "a", "says": "b"}, {"speaker": "b", "says": "c"}]}
    data = json.dumps(turns).encode()
    assert values(data, "a.json", columns={"messages": "turns"}) == [turns]
    # Control: without the mapping nobody can know.
    assert values(data, "a.json") == turns["turns"]


@pytest.mark.parametrize(
    ("data", "name", "container"),
    [
        (b"[1] See there.\n[2] And there.\n", "notes.txt", "text"),
        (b"[![badge](https://x)](y)\n# Title\n", "README.md", "markdown"),
        (b"[[link]] and more", "a.md", "markdown"),
        (b"{% if x %}\n{{ y }}\n", "template.txt", "text"),
        (b"{ not json", "a.txt", "text"),
        (b"<p align=center>Hi</p>", "a.md", "markdown"),
        (b"#!/bin/sh\necho\n", "run.sh", "text"),
        (b"plain", "LICENSE", "text"),
        (b"a,b\n1,2\n", "a.txt", "text"),
        (b"a,b\n1,2\n", "a.csv", "csv"),
        (b"a\tb\n1\t2\n", "a.csv", "tsv"),
        (b"hello\n", "a.jsonl", "jsonl"),
        (b"hello\n", "a.json", "jsonl"),
        (b"{'text': 'a'}\n{'text': 'b'}\n", "a", "jsonl"),
        (b"", "a.parquet", "text"),
    ],
)
def test_the_name_decides_where_the_bytes_do_not(data, name, container):
    assert read(data, name)[0] == container


def test_a_broken_first_line_does_not_make_json_lines_something_else():
    for first in (b'{"text": "cut', b"{'text': 'a'}", b"junk", b"[", b'{"text": NaN}'):
        container, rows = read(first + b"\n" + jsonl(TEXTS * 2), "a.jsonl")
        assert container == "jsonl"
        assert [isinstance(value, BadRow) for _, value in rows] == [True] + [False] * 4


FOREIGN = {
    "a PDF document": b"%PDF-1.7\n",
    "a PNG image": b"\x89PNG\r\n\x1a\n",
    "a JPEG image": b"\xff\xd8\xff\xe0",
    "a GIF image": b"GIF89a",
    "a WebP image": b"RIFF\0\0\0\0WEBPVP8 ",
    "a WAV sound": b"RIFF\0\0\0\0WAVEfmt ",
    "an MP3 sound": b"ID3\x04",
    "an MP4 film or sound": b"\0\0\0\x20ftypisom",
    "a zip archive": b"PK\x03\x04rest",
    "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c",
    "a RAR archive": b"Rar!\x1a\x07\x01",
    "a tar archive": b"a.txt".ljust(257, b"\0") + b"ustar\x0000",
    "a bzip2 archive": b"BZh91AY",
    "an xz archive": b"\xfd7zXZ\0",
    "an LZ4 archive": b"\x04\x22\x4d\x18",
    "a Python pickle": b"\x80\x04\x95\x10\0\0",
    "a NumPy array": b"\x93NUMPY\x01",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "an SQLite database": b"SQLite format 3\0",
    "a safetensors file": b"\x40\0\0\0\0\0\0\0" + b'{"w":{}}',
    "a GGUF model": b"GGUF\x03",
    "an Arrow or Feather file": b"ARROW1\0\0",
    "an ORC file": b"ORC\x01",
    "an Avro file": b"Obj\x01",
    "an encrypted Parquet file": b"PARE",
    "an RTF document": b"{\\rtf1",
    "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "a program": b"\x7fELF\x02",
    "a web page": b"\n<!DOCTYPE html><html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_what_is_no_data_is_refused_by_the_name_of_what_it_is(what, packed):
    for name in ("a.jsonl", "a", "a.csv"):
        with pytest.raises(DataError, match=f"^it is {what}"):
            read(PACKED[packed](FOREIGN[what]), name)


@pytest.mark.parametrize("text", ["PARENTS of small children", "ORCAS are dolphins, \u00e9", "A first WEBP, and more"])
def test_a_text_that_begins_with_the_letters_of_another_kind_is_text(text):
    assert read(text.encode(), "a.txt") == ("text", [(1, {"text": text})])


def test_control_without_the_table_of_kinds_a_pdf_would_be_learned(monkeypatch):
    monkeypatch.setattr(sniff, "_MAGIC", ())
    assert read(FOREIGN["a PDF document"], "a.pdf")[0] == "text"


@pytest.mark.parametrize(
    ("name", "what"),
    [("a.xlsx", "an Excel workbook; save the sheet"), ("a.docx", "a Word"), ("a.pt", "a PyTorch file")],
)
def test_zip_archives_are_told_apart_by_their_names(name, what):
    with pytest.raises(DataError, match=what):
        read(b"PK\x03\x04", name)


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"text\0more", "a.txt", "no text: zero bytes begin at byte 4"),
        (b"\0\1\2\3", "a.bin", "no text"),
        (gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "a.gz", "compressed twice"),
        (b"hello", "a.parquet", "does not begin as a Parquet file"),
        (b"PAR1", "a.parquet", "cannot be read as Parquet"),
        (b'{"a":[{"x":1}],"b":[{"x":1}]}', "a.json", 'several lists of objects \\("a" and "b"\\)'),
    ],
)
def test_what_cannot_be_read_says_why(data, name, words):
    with pytest.raises(DataError, match=words):
        read(data, name)


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n ", b"\xef\xbb\xbf", b"\xff\xfe", "\ufeff \r\n".encode("utf-16-le")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.md", "a.parquet", "a", "a.gz"])
@pytest.mark.parametrize("packed", PACKED)
def test_e7_an_empty_file_has_no_rows_under_any_name(data, name, packed):
    assert read(PACKED[packed](data), name)[1] == []


def test_e7_a_file_of_a_frame_and_no_rows_is_said_to_be_so():
    for data, name in ((b"[]", "a.json"), (b'{"data": []}', "a.json")):
        assert [value for value in values(data, name) if value != {"data": []}] == []
    with pytest.raises(DataError, match="a header line and no rows"):
        read(b"text,n\n", "a.csv")
    with pytest.raises(DataError, match="a Parquet file without rows"):
        read(parquet([]), "a.parquet")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "parquet"])
def test_e10_every_text_container_is_read_in_every_encoding_of_unicode(kind, encoding):
    name, container, write = WRITERS[kind]
    rows = [{"text": "né ☃ \U0001f600 Ċ਀", "n": "x"}, {"text": "b", "n": "y"}]
    data = write(rows).decode().encode(encoding)
    assert values(data, name) == rows
    assert read(data, name)[0] == container


def test_e10_a_document_in_utf_16_needs_its_mark_and_latin_1_is_a_bad_row_with_advice():
    assert values("né".encode("utf-16"), "a.txt") == [{"text": "né"}]
    (bad,) = values("né".encode("latin-1"), "a.txt")
    assert (bad.reason, "iconv" in bad.detail) == ("not valid UTF-8", True)


def test_rows_are_read_as_they_are_asked_for():
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.count += 1
            return super().read(size)

    file = Counting(table([{"text": "x" * 1000}] * 20_000))
    opened = open_rows(file, "a.csv")
    assert next(opened.rows)[0] == 2
    assert file.tell() < 3 << 20
    assert file.count < 6
