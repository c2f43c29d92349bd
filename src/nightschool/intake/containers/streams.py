"""From the bytes of a file to a stream of UTF-8: decompressed, decoded, and bounded in what it may become."""

from __future__ import annotations

import codecs
import io
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from nightschool.errors import DataError

CHUNK = 1 << 20
HEAD = 1 << 16
"""Bytes by which it is told what a file is."""

GROWTH, ALWAYS, NEVER = 1000, 256 << 20, 1 << 40
"""A compressed file may unpack to ALWAYS bytes, or to GROWTH times its own size where that is more, but never to over
NEVER bytes (1 TiB). Text packs to a third or a tenth; rows that all repeat one long prompt to a few hundredths. A file
made to fill a disk packs to less than a thousandth. Memory does not depend on it: everything is read in pieces."""

GZIP, ZSTD = "gzip", "zstd"
ENDINGS = {".gz": GZIP, ".gzip": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
SHORT = {GZIP: "gz", ZSTD: "zst"}


def compression_of(head: bytes) -> str | None:
    """`gzip` or `zstd` where a file that begins with `head` is so compressed."""
    if head.startswith(b"\x1f\x8b\x08"):
        return GZIP
    # A zstd file may begin with a frame to be skipped; 0x50 to 0x5f are its kinds.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return ZSTD
    return None


def most_unpacked(size: int) -> int:
    """Bytes that a file of `size` bytes may unpack to."""
    return min(NEVER, max(ALWAYS, GROWTH * size))


def a_bomb(size: int, most: int) -> DataError:
    """The error for a file that unpacks to more than `most` bytes."""
    return DataError(
        f"it holds {size} bytes and unpacks to more than {most}; no data compresses so well, so it is taken for one "
        "made to do harm. If it is good, unpack it and drop it as it is"
    )


class Source(io.RawIOBase):
    """The file itself. It remembers what the disk said, because decoders report their own errors in the same words."""

    def __init__(self, file: BinaryIO | io.RawIOBase) -> None:
        self._file = file
        self.failure: OSError | None = None
        file.seek(0, io.SEEK_END)
        self.size = file.tell()
        file.seek(0)

    def readable(self) -> bool:
        """As every raw stream does."""
        return True

    def seekable(self) -> bool:
        """As every raw stream does."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As every raw stream does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As every raw stream does."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """As every raw stream does."""
        try:
            data = self._file.read(len(buffer)) or b""
        except OSError as error:
            self.failure = error
            raise
        buffer[: len(data)] = data
        return len(data)


class Unpacked(io.RawIOBase):
    """What a compressed file holds. Members and frames one after the other are read as one.

    Raises, when read:
        DataError: the data is damaged, cut off, or unpacks to more than `most_unpacked` allows.
    """

    def __init__(self, source: Source, codec: str) -> None:
        import pyarrow as pa

        self._source = source
        self._codec = codec
        self._stream = pa.CompressedInputStream(pa.PythonFile(source, "r"), codec)
        self._most = most_unpacked(source.size)
        self.size = 0

    def readable(self) -> bool:
        """As every raw stream does."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As every raw stream does."""
        try:
            data = self._stream.read(len(buffer))
        except (OSError, ValueError) as error:  # Arrow's own errors are one or the other
            if self._source.failure is not None:
                raise self._source.failure from None
            raise DataError(self._in_words(str(error))) from None
        self.size += len(data)
        if self.size > self._most:
            raise a_bomb(self._source.size, self._most)
        buffer[: len(data)] = data
        return len(data)

    def _in_words(self, message: str) -> str:
        if "Truncated" in message:
            return f"its {self._codec} data ends too early: it was not copied or written to its end"
        if "too much memory" in message:
            return f"its {self._codec} data needs a window of over 128 MiB to unpack; compress it without --long"
        return f"its {self._codec} data is damaged; copy or write it again"


class Rewound(io.RawIOBase):
    """A stream from its beginning again, after `head` was read from it."""

    def __init__(self, head: bytes, rest: io.RawIOBase) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        """As every raw stream does."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """As every raw stream does."""
        if not self._head:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count] = self._head[:count]
        self._head = self._head[count:]
        return count


def read_head(stream: io.RawIOBase, size: int = HEAD) -> bytes:
    """The first bytes of a stream, `size` of them if there are so many."""
    head = bytearray()
    while len(head) < size and (data := stream.read(size - len(head))):
        head += data
    return bytes(head)


def spooled(stream: io.RawIOBase, folder: Path | None) -> BinaryIO:
    """A stream's bytes in a file without a name, for what has to be read from its end. The caller closes it."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        while data := stream.read(CHUNK):
            file.write(data)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


# --- encodings


_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def encoding_of(head: bytes) -> tuple[str, int]:
    """(encoding, bytes to skip) of a file that begins with `head`, at least four bytes of it where there are so many.

    The byte order mark decides; without one, where the zero bytes of the first characters lie: JSON, and the head of a
    table, begin in ASCII.
    """
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8", len(codecs.BOM_UTF8)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    zeros = "".join("0" if byte == 0 else "x" for byte in head[:4])
    guesses = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
    return guesses.get(zeros, "utf-8"), 0


def as_utf8(stream: io.BufferedReader) -> io.BufferedReader:
    """The text of a stream as UTF-8, without its byte order mark."""
    encoding, skip = encoding_of(stream.peek(4)[:4])
    stream.read(skip)
    if encoding == "utf-8":
        return stream
    return io.BufferedReader(_Transcoded(stream, encoding), CHUNK)


class _Transcoded(io.RawIOBase):
    """A UTF-16 or UTF-32 stream as UTF-8. What stands for no character becomes invalid UTF-8: only its row is bad."""

    def __init__(self, file: io.BufferedReader, encoding: str) -> None:
        codecs.register_error("nightschool-broken", _broken)
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("nightschool-broken")
        self._pending = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and not self._ended:
            raw = self._file.read(CHUNK)
            self._ended = not raw
            text = self._decoder.decode(raw, final=self._ended)
            self._pending = memoryview(text.encode("utf-8", "surrogatepass"))
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def _broken(error: UnicodeError) -> tuple[str, int]:
    # A lone surrogate can be held in a string, and comes out as three bytes that are no UTF-8.
    assert isinstance(error, UnicodeDecodeError)
    return "\ud800", error.end
