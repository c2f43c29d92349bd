"""Containers: from the bytes of a data file to numbered rows, one at a time, in bounded memory.

What a file is, its bytes decide: `sniff` says how, and when its name does. A file may be compressed with gzip or zstd,
whatever it is called, and in UTF-8, UTF-16 or UTF-32.

    jsonl      `jsonlines`       one object per line
    json       `jsondocument`    an array of rows, an object with one list of rows in it, or objects one after the other
    csv, tsv   `table`           a header line, then one row per record
    parquet    `parquet`         columns
    text, markdown  `document`   one document is one row

A mistake in a row makes it a bad row. A mistake after which nobody can tell where rows begin, and data that is damaged
or cut off, make the whole file one that cannot be used: nothing is half-read.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from nightschool.errors import DataError
from nightschool.intake.containers import document, jsondocument, jsonlines, parquet, sniff, streams, table
from nightschool.intake.rows import Rows


class Opened(NamedTuple):
    """A file as rows; `container` is jsonl, json, csv, tsv, parquet, text or markdown, with `.gz` or `.zst` behind."""

    container: str
    rows: Rows


def open_rows(
    file: BinaryIO | io.RawIOBase, name: str, *, columns: Mapping[str, str] | None = None, scratch: Path | None = None
) -> Opened:
    """Tell what a file is and read its rows as they are asked for.

    Args:
        file: seekable; it is read from its beginning, and stays open.
        name: what it is called.
        columns: names of its columns where they differ, ours to theirs.
        scratch: a folder for what has to be unpacked to be read; by default the system's.

    Raises:
        DataError: it is a kind of file that is not read. Reading the rows raises it where the file as a whole turns out
            to be damaged. OSError is the disk's, and nothing that the file does.
    """
    source = streams.Source(file)
    base, codec, stream = _unpacked(source, name)
    head = streams.read_head(stream)
    ending = f".{streams.SHORT[codec]}" if codec else ""
    reason = sniff.foreign(head, base)
    if reason is None and codec and streams.compression_of(head):
        reason = "it is compressed twice; unpack it once"
    if reason is not None:
        raise DataError(f"{reason}{' (when unpacked)' if codec else ''}")
    if codec is None:
        source.seek(0)
    else:
        stream = streams.Rewound(head, stream)
    if head.startswith(parquet.MAGIC):
        rows = _spooled(stream, columns, scratch) if codec else parquet.read(source, columns)
        return Opened(sniff.PARQUET + ending, rows)
    whole = len(head) < streams.HEAD
    text = _decoded(head)
    try:
        kind = sniff.kind_of(text, base, whole)
    except ValueError as error:
        raise DataError(str(error)) from None
    kind, rows = _rows(kind, streams.as_utf8(io.BufferedReader(stream, streams.CHUNK)), text, columns)
    return Opened(kind + ending, rows)


def kind_named(name: str) -> str | None:
    """The kind of file that a name says, without compression; None if it says nothing."""
    return sniff.NAMED.get(PurePath(_without_compression(name)).suffix.lower())


def _without_compression(name: str) -> str:
    path = PurePath(name)
    return path.stem if path.suffix.lower() in streams.ENDINGS else path.name


def _unpacked(source: streams.Source, name: str) -> tuple[str, str | None, io.RawIOBase]:
    """(name without an ending for compression, codec, stream)."""
    base = _without_compression(name)
    codec = streams.compression_of(streams.read_head(source, 4))
    source.seek(0)
    return base, codec, streams.Unpacked(source, codec) if codec else source


def _spooled(stream: io.RawIOBase, columns: Mapping[str, str] | None, scratch: Path | None) -> Rows:
    with streams.spooled(stream, scratch) as file:
        yield from parquet.read(streams.Source(file), columns)


def _decoded(head: bytes) -> bytes:
    """The beginning of a file as UTF-8, as far as it goes."""
    encoding, skip = streams.encoding_of(head)
    if encoding == "utf-8":
        return head[skip:]
    return head[skip:].decode(encoding, "replace").encode()


def _rows(kind: str, stream: io.BufferedReader, head: bytes, columns: Mapping[str, str] | None) -> tuple[str, Rows]:
    """(container, rows) of a stream of text."""
    if kind == sniff.JSONL:
        return kind, jsonlines.read(stream)
    if kind == sniff.JSON:
        return kind, jsondocument.read(stream, keys=(columns or {}).values())
    if kind in (sniff.CSV, sniff.TSV):
        delimiter, named = table.delimiter_of(head.decode("utf-8", "replace"), "\t" if kind == sniff.TSV else ",")
        rows = table.read(stream, delimiter, named, columns)
        return (sniff.TSV if delimiter == "\t" else sniff.CSV), rows
    return kind, document.read(stream)
