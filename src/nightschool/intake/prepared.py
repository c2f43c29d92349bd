"""A prepared dataset on disk: one record per sequence, read back by number. Sealed as a whole by `durable`.

    data.arrow      Arrow IPC file; columns input_ids list<int32>, train list<int8>, lengths list<int32>, rows
                    list<int32>
    holdout.arrow   the same for the rows that are never trained on, one to a sequence; where there are any
    meta.json       recipe, counts, shape, digest

`train` is 1 where the token is learned: the loss is taken where the *predicted* token has 1. `lengths` are those of the
parts packed into the sequence, `rows` the 0-based number of the row that each part comes from.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nightschool.errors import DataError
from nightschool.intake.packing import Packed

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DATA, HOLDOUT, META = "data.arrow", "holdout.arrow", "meta.json"
FORMAT = 1
PER_BATCH = 64
"""Sequences in one record batch: what has to be read to get at one of them."""

_COLUMNS = ("input_ids", "train", "lengths", "rows")


class Digest:
    """SHA-256 over sequences in order: '<II' of the two lengths, ids as int32, train as int8, lengths as int32.

    Which rows the parts come from is left out: it is for people, and changes nothing in training.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, ids: np.ndarray, train: np.ndarray, lengths: np.ndarray) -> None:
        """Take in one sequence."""
        self._hash.update(struct.pack("<II", len(ids), len(lengths)))
        self._hash.update(ids.astype("<i4").tobytes())
        self._hash.update(train.astype("<i1").tobytes())
        self._hash.update(lengths.astype("<i4").tobytes())

    def hexdigest(self) -> str:
        """The digest so far, in hex."""
        return self._hash.hexdigest()


def _to_arrow(values: np.ndarray) -> pa.Array:
    """The same memory. `pa.array` and `to_numpy` would first import pandas, where it is installed: 0.4 s a process."""
    import pyarrow as pa

    kind = {1: pa.int8(), 4: pa.int32()}[values.itemsize]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _to_numpy(values: pa.Array) -> np.ndarray:
    """The same memory, read-only; there are no nulls."""
    import numpy as np

    kind = np.dtype(f"int{values.type.bit_width}")
    if not len(values):
        return np.empty(0, kind)
    found = np.frombuffer(values.buffers()[1], kind, len(values), values.offset * kind.itemsize)
    found.flags.writeable = False
    return found


class PreparedWriter:
    """Writes `data.arrow`, or another `name`, into `folder`, a few sequences at a time. The caller seals the folder."""

    def __init__(self, folder: Path, name: str = DATA) -> None:
        import pyarrow as pa

        self.sequences = 0
        self.tokens = 0
        self.label_tokens = 0
        self._digest = Digest()
        self._waiting: list[Packed] = []
        types = {"input_ids": pa.int32(), "train": pa.int8(), "lengths": pa.int32(), "rows": pa.int32()}
        self._schema = pa.schema([pa.field(name, pa.list_(kind), nullable=False) for name, kind in types.items()])
        self._file = (folder / name).open("wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    @property
    def data_digest(self) -> str:
        """Digest of the sequences written so far."""
        return self._digest.hexdigest()

    def write(self, sequence: Packed) -> None:
        """Append a sequence."""
        self._digest.add(sequence.ids, sequence.train, sequence.lengths)
        self.sequences += 1
        self.tokens += len(sequence.ids)
        self.label_tokens += int(sequence.train.sum())
        self._waiting.append(sequence)
        if len(self._waiting) >= PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        import numpy as np
        import pyarrow as pa

        columns = []
        for name, field in zip(("ids", "train", "lengths", "rows"), self._schema, strict=True):
            values = [getattr(sequence, name) for sequence in self._waiting]
            offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
            flat = np.concatenate(values).astype(f"int{field.type.value_type.bit_width}", casting="same_kind")
            columns.append(pa.ListArray.from_arrays(_to_arrow(offsets), _to_arrow(flat)))
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._waiting = []

    def close(self) -> None:
        """Write what waits, and the end of the file."""
        if self._waiting:
            self._flush()
        self._writer.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` into a folder that is about to be sealed."""
    text = json.dumps({"format": FORMAT, **meta}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def read_meta(folder: Path) -> dict[str, Any]:
    """Read `meta.json` of a prepared folder.

    Raises:
        DataError: it is missing, damaged or of a newer format.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        version = int(meta["format"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"The prepared data in {folder} cannot be read ({type(error).__name__}: {error}).") from None
    if version > FORMAT:
        raise DataError(
            f"The prepared data in {folder} has format {version}; this version reads up to {FORMAT}. "
            "Use the newer nightschool that wrote it, or remove the folder: it will be prepared again."
        )
    return meta


class PreparedReader:
    """Reads the sequences of a prepared folder, or those held out (`name`), in any order.

    A few record batches are kept in memory.

    The file is read, not mapped: a mapped file that someone truncates ends the process.
    """

    def __init__(self, folder: Path, keep_batches: int = 64, name: str = DATA) -> None:
        import pyarrow as pa

        self._folder = folder
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._keep = keep_batches
        self.meta = read_meta(folder)
        try:
            self._file = pa.OSFile(str(folder / name), "rb")
            self._reader = pa.ipc.open_file(self._file)
            self._batches = self._reader.num_record_batches
            last = self._reader.get_batch(self._batches - 1).num_rows if self._batches else 0
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(error) from None
        self._length = max(0, self._batches - 1) * PER_BATCH + last
        if tuple(self._reader.schema.names) != _COLUMNS:
            raise self._damaged("unexpected columns")

    def __len__(self) -> int:
        return self._length

    def sequence(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (input_ids int32, train int8, lengths int32, rows int32) of sequence `index`, read-only.

        Raises:
            IndexError: there is no such sequence.
            DataError: the file is damaged.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"there is no sequence {index} among {self._length}")
        columns = self._batch(index // PER_BATCH)
        row = index % PER_BATCH
        ids, train, lengths, rows = (values[offsets[row] : offsets[row + 1]] for offsets, values in columns)
        return ids, train, lengths, rows

    def digest(self) -> str:
        """Compute the digest again from what is on disk."""
        digest = Digest()
        for index in range(len(self)):
            ids, train, lengths, _ = self.sequence(index)
            digest.add(ids, train, lengths)
        return digest.hexdigest()

    def _batch(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        import pyarrow as pa

        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        try:
            batch = self._reader.get_batch(number)
            batch.validate()
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(error) from None
        if batch.num_rows != PER_BATCH and number != self._batches - 1:
            raise self._damaged(f"record batch {number} holds {batch.num_rows} sequences")
        if any(column.null_count or column.values.null_count for column in batch.columns):
            raise self._damaged(f"values are missing in record batch {number}")
        columns = [(_to_numpy(column.offsets), _to_numpy(column.values)) for column in batch.columns]
        self._kept[number] = columns
        while len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return columns

    def _damaged(self, error: object) -> DataError:
        return DataError(
            f"The prepared data in {self._folder} is damaged ({error}). Remove the folder; the file will be prepared "
            "again from the archive."
        )

    def close(self) -> None:
        """Close the file."""
        self._kept.clear()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
