"""Taking over bytes that `add` was given: checked, then kept durably where the intake worker finds them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightschool import durable
from nightschool.errors import DataError
from nightschool.words import escape
from nightschool.workspace import Layout

LONGEST_NAME = 200
"""Bytes in a file's name; names must fit with a suffix into what file systems take."""
SCRATCH = "add-"
"""Folders in `.nightschool/tmp` begin so while something is copied; one left by a power cut is cleared a day later."""


def keep(layout: Layout, source: Path, label: str) -> Path:
    """A durable copy of a file's bytes, called `label`, in `incoming/`.

    Copied in a folder of its own first: processes that start clear what looks unfinished out of the shared ones.

    Raises:
        StorageError: the disk refuses, or the file changed while it was read.
    """
    with scratch(layout) as folder:
        durable.copy_file(source, folder / "data")
        place = layout.incoming / label
        durable.replace_file(folder / "data", place)
    return place


@contextmanager
def scratch(layout: Layout) -> Iterator[Path]:
    """A folder on the workspace's file system that is gone afterwards."""
    folder = layout.tmp / f"{SCRATCH}{os.urandom(8).hex()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain_file(path: Path) -> Path:
    """The file itself (a link named by the user is followed), or a DataError that says what is wrong with it."""
    shown = escape(path)
    try:
        real = path.resolve(strict=True)
        if real.is_dir():
            raise DataError(f"{shown} is a folder. Name the files in it, for instance {shown}/*.jsonl.")
        if not real.is_file():
            raise DataError(f"{shown} is a pipe or a device, not a file.")
    except FileNotFoundError:
        raise DataError(f"{shown} does not exist.") from None
    except (OSError, RuntimeError) as error:
        raise DataError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not os.access(real, os.R_OK):
        raise DataError(f"{shown} cannot be read: permission denied.")
    return real


def checked_name(name: str) -> str:
    """`name`, if a file can be called so everywhere in a workspace; else a DataError."""
    shown = escape(name)
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise DataError(f"{shown!r} is no name for a file.")
    if shown != name:
        raise DataError(
            f"The name {shown} holds a line break, a control character or bytes that are no UTF-8. Rename it."
        )
    if len(name.encode()) > LONGEST_NAME:
        raise DataError(f"The name {shown[:40]}… is longer than {LONGEST_NAME} bytes. Rename the file.")
    return name


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSONL; a DataError names the first one that is no JSON object."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        number = 0
        for number, row in enumerate(rows, start=1):
            file.write(_row_text(row, number))
    if number == 0:
        raise DataError("There are no rows to add.")


def _row_text(row: Any, number: int) -> str:
    if not isinstance(row, Mapping):
        raise DataError(
            f"Row {number} is of type {type(row).__name__}, not a dict. Give rows as dicts; of a DatasetDict, name one "
            "split; a DataFrame has to_dict('records')."
        )
    try:
        text = json.dumps(dict(row), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"Row {number} cannot be written as JSON: {error}.") from None
    return text + "\n"
