"""A file whose SHA-256 is known once it has been read, in whatever order."""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO


class Hashed(io.RawIOBase):
    """A seekable file that is hashed while it is read. What is read ahead of its turn is read again for the hash."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._position = 0

    def readable(self) -> bool:
        """As every raw stream does."""
        return True

    def seekable(self) -> bool:
        """As every raw stream does."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As every raw stream does."""
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        """As every raw stream does."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As every raw stream does."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        start, self._position = self._position, self._position + len(data)
        if start <= self._hashed < self._position:
            self._hash.update(data[self._hashed - start :])
            self._hashed = self._position
        return len(data)

    def finish(self) -> str:
        """Read what is not hashed yet, and give the SHA-256 of everything."""
        self._file.seek(self._hashed)
        while data := self._file.read(1 << 20):
            self._hash.update(data)
        return self._hash.hexdigest()
