"""What a file is, told by its first bytes; the name decides only where the bytes can be read in several ways.

begins with "{" or "["      JSON Lines if most of its first lines are whole objects, else JSON, else what the name says
name ends in .jsonl ...     JSON Lines; rows that are none are bad rows
name ends in .csv, .tsv     a table
name ends in .md ...        Markdown, one document
anything else               plain text, one document, unless its bytes are those of some other kind of file
"""

from __future__ import annotations

import codecs
import re
from pathlib import PurePath

from nightschool.intake.containers.jsondocument import is_wrapper

JSONL, JSON, CSV, TSV, TEXT, MARKDOWN, PARQUET = "jsonl", "json", "csv", "tsv", "text", "markdown", "parquet"

NAMED = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".jl"), JSONL),
    ".json": JSON,
    ".csv": CSV,
    **dict.fromkeys((".tsv", ".tab"), TSV),
    **dict.fromkeys((".txt", ".text"), TEXT),
    **dict.fromkeys((".md", ".markdown", ".mdown"), MARKDOWN),
    **dict.fromkeys((".parquet", ".pq", ".parq"), PARQUET),
}
"""What endings mean, by themselves."""

_EXPORT = "export what is to be learned as JSON Lines, CSV or Parquet"
_CONVERT = "convert it to text or Markdown"
_UNPACK = "unpack it, and drop the files in it"
_WEIGHTS = "it holds weights, not rows"

_ZIPS = {
    ".xlsx": ("an Excel workbook", "save the sheet as CSV UTF-8"),
    ".xlsm": ("an Excel workbook", "save the sheet as CSV UTF-8"),
    ".ods": ("an OpenDocument spreadsheet", "save the sheet as CSV UTF-8"),
    ".docx": ("a Word document", _CONVERT),
    ".odt": ("an OpenDocument text", _CONVERT),
    ".pptx": ("a PowerPoint presentation", _CONVERT),
    ".epub": ("an EPUB book", _CONVERT),
    ".npz": ("a NumPy archive", _EXPORT),
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), ("a PyTorch file (a zip archive with a pickle in it)", _EXPORT)),
}
"""Kinds of zip archives by ending."""

_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (0, b"ARROW1\0", "an Arrow or Feather file", "write it as Parquet"),
    (0, b"ORC", "an ORC file", "write it as Parquet"),
    (0, b"Obj\x01", "an Avro file", "write it as Parquet"),
    (0, b"%PDF-", "a PDF document", _CONVERT),
    (0, b"{\\rtf", "an RTF document", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (xls, doc, ppt)", "save it as CSV UTF-8 or text"),
    (0, b"\x89PNG\r\n", "a PNG image", "images are not learned"),
    (0, b"\xff\xd8\xff", "a JPEG image", "images are not learned"),
    (0, b"GIF8", "a GIF image", "images are not learned"),
    (0, b"II*\0", "a TIFF image", "images are not learned"),
    (0, b"MM\0*", "a TIFF image", "images are not learned"),
    (8, b"WEBP", "a WebP image", "images are not learned"),
    (8, b"WAVE", "a WAV sound", "sound is not learned"),
    (8, b"AVI ", "an AVI film", "films are not learned"),
    (0, b"ID3", "an MP3 sound", "sound is not learned"),
    (0, b"OggS", "an Ogg sound", "sound is not learned"),
    (0, b"fLaC", "a FLAC sound", "sound is not learned"),
    (4, b"ftyp", "an MP4 film or sound", "films are not learned"),
    (0, b"\x1aE\xdf\xa3", "a Matroska film", "films are not learned"),
    (0, b"BZh", "a bzip2 archive", "unpack it, or use gzip or zstd"),
    (0, b"\xfd7zXZ\0", "an xz archive", "unpack it, or use gzip or zstd"),
    (0, b"\x04\x22\x4d\x18", "an LZ4 archive", "unpack it, or use gzip or zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x93NUMPY", "a NumPy array", _EXPORT),
    (0, b"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (0, b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (0, b"GGUF", "a GGUF model", _WEIGHTS),
    (0, b"\x7fELF", "a program", ""),
    (0, b"MZ\x90\0", "a Windows program", ""),
    (0, b"version https://git-lfs.github.com/spec", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
)
"""(offset, bytes, what it is, what to do)."""

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes of which a file that is no text has one soon."""

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_SAFETENSORS = re.compile(rb'.{5}\0\0\0\{\s*"', re.DOTALL)
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html[\s>])", re.IGNORECASE)
_LINES = 20
"""Lines looked at to tell JSON Lines from JSON."""


def foreign(head: bytes, name: str) -> str | None:
    """What a file is that is not read, and what to do; None where it may be one that is.

    Args:
        head: its first bytes, unpacked, not decoded.
        name: its name, without an ending for compression.
    """
    ending = PurePath(name).suffix.lower()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        what, advice = _ZIPS.get(ending, ("a zip archive", _UNPACK))
        return f"it is {what}; {advice}"
    for offset, magic, what, advice in _MAGIC:
        if head[offset : offset + len(magic)] == magic and not (magic.strip().isalnum() and _is_plain(head)):
            return f"it is {what}; {advice}" if advice else f"it is {what}"
    if _PICKLE.match(head) and b"\n" not in head[:2]:
        return f"it is a Python pickle, which is never opened, because that runs what is in it; {_EXPORT}"
    if _SAFETENSORS.match(head):
        return f"it is a safetensors file; {_WEIGHTS}"
    if _WEB_PAGE.match(head) and NAMED.get(ending) not in (TEXT, MARKDOWN):
        return f"it is a web page (HTML), perhaps an error page in place of a download; {_CONVERT}"
    return None


def _is_plain(head: bytes) -> bool:
    """Whether a file is text, its first letters notwithstanding: a text may begin with "PARENTS" or "ORCAS"."""
    if len(head) < 16 or _NO_TEXT.search(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def kind_of(head: bytes, name: str, whole: bool) -> str:
    """What kind of text a file is.

    Args:
        head: its first bytes as UTF-8.
        name: its name, without an ending for compression.
        whole: that is all there is of it.

    Raises:
        ValueError: it is no text; the message says why.
    """
    named = NAMED.get(PurePath(name).suffix.lower())
    begin = head.lstrip(b" \t\r\n")[:1]
    if begin in (b"{", b"["):
        json = _json_kind(head, named, whole)
        if json:
            return json
    if named in (JSONL, JSON):
        return JSONL
    if named == PARQUET and head.strip():
        raise ValueError("its name says Parquet, but it does not begin as a Parquet file does; it may be damaged")
    # Rows with zero bytes are what a crash leaves of a good file; anywhere else they mean that this is no text.
    if named not in (CSV, TSV) and b"\0" in head:
        raise ValueError(f"it is no text: zero bytes begin at byte {head.index(0)}. If it is data, {_EXPORT}")
    return named if named and named != PARQUET else TEXT


def _json_kind(head: bytes, named: str | None, whole: bool) -> str | None:
    """JSONL or JSON for what begins with a bracket; None if it is neither, by all that can be seen."""
    pieces = head.split(b"\n")
    lines = [line for piece in (pieces if whole else pieces[:-1]) if (line := piece.strip(b" \t\r"))][:_LINES]
    kinds = [_whole_value(line) for line in lines]
    array = head.lstrip(b" \t\r\n").startswith(b"[")
    if 2 * kinds.count("object") > len(kinds) - (not array) and lines:
        # One line is a row, in .json or elsewhere, unless it is a wrapper around rows.
        return JSON if len(kinds) == 1 and whole and (named == JSON or is_wrapper(lines[0])) else JSONL
    looks = _BEGINS_AS_JSON.match(head) is not None
    if not looks and named not in (JSON, JSONL):
        # What Python prints for a dict is no text either: its rows will be named as bad.
        return JSONL if named is None and _BEGINS_AS_PYTHON.match(head) else None
    if not lines:  # the first goes on beyond what is looked at
        return JSON if array or named == JSON else JSONL
    if kinds[0] == "list":
        return JSONL if len(kinds) > 1 else JSON  # one list per line is no row, but it is lines
    if named == JSONL and (kinds[0] != "beginning" or not looks):
        return JSONL  # a row by itself, or a broken one: however many of the next are broken, lines they are
    return JSON


_BEGINS_AS_JSON = re.compile(
    rb'\s*+(?:\{\s*+(?:"(?:[^"\\]++|\\.)*+"\s*+:|\}|\Z)|\[\s*+(?:\{\s*+["}]|\]|\Z))', re.DOTALL
)
_BEGINS_AS_PYTHON = re.compile(rb"\s*+(?:\[\s*+)?+\{\s*+'")


def _whole_value(line: bytes) -> str:
    """Whether a line is by itself an `object`, a `list`, another value (`value`), the beginning of one, or `broken`."""
    import msgspec

    try:
        value = msgspec.json.decode(line, type=msgspec.Raw)
    except RecursionError:
        return "broken"
    except ValueError as error:
        return "beginning" if "truncated" in str(error) else "broken"
    return {b"{": "object", b"[": "list"}.get(bytes(value)[:1], "value")
