"""Rows of a file that are never trained on, so that what the file taught can be measured on them.

A row is held out for what it says: a hash of its tokens lies below the share asked for. So copies of one row are on one
side together, and preparing again draws the same rows. Memory is bounded; the rows come by once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from operator import attrgetter

from nightschool.intake.tokenise import Encoded

MOST_ROWS = 64
"""Rows held out of one file, at most: those with the smallest hashes."""
LEAST_ROWS = 100
"""Nothing is held out of a file with fewer rows."""

_SPACE = 1 << 64


class Holdout:
    """Takes the rows that are held out from a stream of rows.

    Args:
        share: of the rows, about; 0 takes none.

    After `rest` has come to its end, `rows` has those taken, in the order of the file.
    """

    def __init__(self, share: float) -> None:
        self.rows: list[Encoded] = []
        self._share = share

    def rest(self, rows: Iterator[Encoded]) -> Iterator[Encoded]:
        """The rows to train on. One that had to make room for others comes later than its place in the file."""
        if self._share <= 0:
            yield from rows
            return
        held: dict[int, list[Encoded]] = {}
        limit = int(self._share * _SPACE)
        total = count = 0
        for row in rows:
            total += 1
            value = _hash(row)
            if value >= limit:
                yield row
                continue
            held.setdefault(value, []).append(row)
            count += 1
            while count > MOST_ROWS:
                # Its later copies are not taken either.
                limit = max(held)
                released = held.pop(limit)
                count -= len(released)
                yield from released
        taken = sorted((row for group in held.values() for row in group), key=attrgetter("number"))
        if total < LEAST_ROWS or count == total:
            yield from taken
        else:
            self.rows = taken


def _hash(row: Encoded) -> int:
    hashed = hashlib.blake2b(row.ids.tobytes(), digest_size=8)
    hashed.update(row.train.tobytes())
    return int.from_bytes(hashed.digest(), "little")
