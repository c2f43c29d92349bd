"""Parquet: the columns of a row as an object, read a small batch at a time.

    text, numbers, true and false        as they are; text that is no UTF-8 makes a bad row
    nothing (null)                       the key is left out, at every level: Parquet has no other word for "not there"
    NaN, Infinity                        null
    lists, structs, maps                 lists and objects
    dates, times, decimals               text: ISO 8601, digits
    bytes                                text where they are UTF-8, else {"bytes": 4711}, which is learned nowhere

Text in a column that takes a list is read as JSON (see `cells`). Rows are numbered by their position, from 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nightschool.errors import DataError
from nightschool.intake.containers import streams
from nightschool.intake.containers.cells import Cells
from nightschool.intake.rows import LONGEST_ROW, BadRow, Rows, too_long

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1000


def read(source: streams.Source, columns: Mapping[str, str] | None = None, longest: int = LONGEST_ROW) -> Rows:
    """Rows of a file. Only a row over `longest` bytes is held whole, to be named as bad.

    Args:
        source: what to read.
        columns: names of columns where they differ, ours to theirs.
        longest: bytes in one row as Arrow holds it, at most.

    Raises:
        DataError: the file is damaged, cut off, or has two columns of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(
            pa.PythonFile(source, "r"), pre_buffer=False, buffer_size=streams.CHUNK, page_checksum_verification=True
        )
        names = parquet.schema_arrow.names
        again = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if again is not None:
            raise DataError(f'two of its columns have the name "{again[:200]}"; rename one')
        metadata = parquet.metadata
        average = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) // max(
            1, metadata.num_rows
        )
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, average)))
        cells = Cells(names, columns or {})
        number = size = 0
        for batch in parquet.iter_batches(rows, use_threads=False):
            size += batch.nbytes
            if size > streams.most_unpacked(source.size):
                raise streams.a_bomb(source.size, streams.most_unpacked(source.size))
            for row in _rows(batch, number, longest):
                number += 1
                yield number, cells.read(number, row) if cells.some and isinstance(row, dict) else row
        if number != metadata.num_rows:
            raise DataError(f"it names {metadata.num_rows} rows and holds {number}: the file is damaged")
        if not number:
            raise DataError("it is a Parquet file without rows")
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        if source.failure is not None:
            raise source.failure from None
        raise DataError(f"it cannot be read as Parquet ({_first_line(error)}); it may be cut off or damaged") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _rows(batch: pa.RecordBatch, before: int, longest: int) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of a batch; `before` came in earlier ones."""
    if batch.nbytes > longest:
        for place in range(batch.num_rows):
            one = batch.slice(place, 1)
            if one.nbytes > longest:
                yield too_long(before + place + 1, one.nbytes, longest, b"")
            else:
                yield from _objects(one, before + place)
        return
    yield from _objects(batch, before)


def _objects(batch: pa.RecordBatch, before: int) -> Iterator[dict[str, Any] | BadRow]:
    try:
        columns = [_values(column) for column in batch.columns]
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:
            for place in range(batch.num_rows):
                yield from _objects(batch.slice(place, 1), before + place)
        else:
            yield BadRow(before + 1, "not valid UTF-8", f"byte 0x{error.object[error.start]:02x} in a text")
        return
    names = batch.schema.names
    for values in zip(*columns, strict=True) if columns else itertools.repeat((), batch.num_rows):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values. Nested ones are read a whole column at a time, which is much faster than by cell."""
    import pyarrow as pa
    import pyarrow.types as t

    kind = column.type
    if t.is_string(kind) or t.is_large_string(kind) or t.is_integer(kind) or t.is_boolean(kind) or t.is_null(kind):
        return column.to_pylist()
    if t.is_floating(kind):
        return [value if value is None or math.isfinite(value) else None for value in column.to_pylist()]
    if isinstance(column, pa.ExtensionArray):
        return _values(column.storage)
    if isinstance(column, pa.DictionaryArray):
        return _values(column.dictionary_decode())
    if isinstance(column, pa.StructArray):
        names = [field.name for field in kind]
        parts = zip(*(_values(part) for part in column.flatten()), strict=True) if names else [()] * len(column)
        found = [
            {name: value for name, value in zip(names, values, strict=True) if value is not None} for values in parts
        ]
        return _with_nulls(column, found)
    if isinstance(column, pa.MapArray):
        keys, items = _cut(column, column.keys), _cut(column, column.items)
        pairs = [key and zip(key, item, strict=True) for key, item in zip(keys, items, strict=True)]
        return [None if pair is None else {str(key): value for key, value in pair} for pair in pairs]
    if isinstance(column, pa.ListArray | pa.LargeListArray):
        return _cut(column, column.values)
    if isinstance(column, pa.ListViewArray | pa.LargeListViewArray):
        return _values(column.cast(pa.large_list(kind.value_type)))
    if isinstance(column, pa.FixedSizeListArray):
        return _values(column.cast(pa.list_(kind.value_type)))
    return [None if value is None else _as_text(value) for value in column.to_pylist()]


def _with_nulls(column: pa.Array, found: list[Any]) -> list[Any]:
    if not column.null_count:
        return found
    return [value if there else None for value, there in zip(found, column.is_valid().to_pylist(), strict=True)]


def _cut(column: Any, values: pa.Array) -> list[Any]:
    """The lists of a column; `values` are those of all its lists, also of rows that are not in this slice of it."""
    ends = column.offsets.to_pylist()
    first = ends[0] if ends else 0
    found = _values(values.slice(first, ends[-1] - first if ends else 0))
    return _with_nulls(column, [found[a - first : b - first] for a, b in itertools.pairwise(ends)])


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return {"bytes": len(value)}  # no text: in a column of texts it must make a bad row
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)
