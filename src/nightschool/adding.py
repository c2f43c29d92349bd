"""Taking over bytes that `add` was given: checked, then kept durably where the intake worker finds them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from nightschool import durable
from nightschool.errors import DataError, StorageError
from nightschool.intake import sidecar, watch
from nightschool.ledger.order import natural_key
from nightschool.words import escape
from nightschool.workspace import SETTINGS_NAME, Layout

LONGEST_NAME = watch.LONGEST_NAME
"""Bytes in a file's name; names must fit with a suffix into what file systems take."""
SCRATCH = "add-"
"""Folders in `.nightschool/tmp` begin so while something is copied; one left by a power cut is cleared a day later."""


_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Offered:
    """A file to be added: where it is, what it is called, and where settings for it lie, if there are any."""

    path: Path
    name: str
    settings: Path | None = None


@dataclass(frozen=True)
class Offer:
    """What the arguments of `add` come to. `left_out` are items found in folders that are no data files, with why."""

    files: list[Offered]
    left_out: list[tuple[Path, str]]


def offer(given: Sequence[str | os.PathLike[str]]) -> Offer:
    """The files that paths, folders and patterns name.

    A folder gives all the files in it, as if it were dropped into the inbox: `data/` gives `data/a/b.jsonl`. A pattern
    (`data/**/*.jsonl`) gives names relative to the folder before its first wildcard. In both, hidden and unfinished
    files are passed over, and links are not followed.

    Raises:
        DataError: an argument names no readable data file; nothing was added.
    """
    files: list[Offered] = []
    left_out: list[tuple[Path, str]] = []
    for one in given:
        path = Path(one)
        if _WILD.search(str(one)) and not os.path.lexists(path):
            found = _matching(path)
        elif path.is_dir():
            found = _below(path)
        else:
            files.append(single(path))
            continue
        below: list[Offered] = []
        for name, inner in found:
            if isinstance(inner, str):
                left_out.append((path / name if path.is_dir() else Path(name), inner))
            else:
                below.append(Offered(plain_file(inner), name, _settings_of(inner)))
        files += sorted(below, key=lambda file: natural_key(file.name))
        if not below:
            raise DataError(f"{escape(path)} {'holds no data files' if path.is_dir() else 'names no file'}.")
    return Offer(files, left_out)


def single(path: Path, name: str | None = None) -> Offered:
    """The file at `path`, called `name` or as it is called there. Raises DataError where it is no data file."""
    real = plain_file(path)
    return Offered(real, checked_name(name or path.name), _settings_of(path))


def _settings_of(path: Path) -> Path | None:
    beside = path.with_name(path.name + sidecar.ENDING)
    return plain_file(beside) if os.path.lexists(beside) else None


def _below(folder: Path) -> Iterator[tuple[str, Path | str]]:
    """(name, path) of the data files in a folder in the order of their names; or (path, reason) of what is none."""
    top = folder.resolve()
    prefix = f"{top.name}/" if top.name else ""
    if reason := watch.name_refusal(top.name) if top.name else None:
        raise DataError(f"{escape(folder)} cannot be added: {reason}.")
    if (top / SETTINGS_NAME).exists():
        raise DataError(f"{escape(folder)} is a workspace. Name a folder of data files.")
    for above, folders, names in os.walk(top, onerror=_cannot_read):
        folders[:] = sorted(name for name in folders if not watch.ignored(name))
        here = Path(above)
        inner = here.relative_to(top).as_posix()
        inner = "" if inner == "." else f"{inner}/"
        for name in list(folders):
            if (here / name).is_symlink():
                yield inner + name, "a symbolic link, which is not followed"
            elif (here / name / SETTINGS_NAME).exists():
                folders.remove(name)
                yield inner + name, "a workspace"
        yield from _data_files(here, sorted(names), inner, prefix)


def _cannot_read(error: OSError) -> None:
    raise DataError(f"{escape(error.filename)} cannot be read: {error.strerror}.")


def _matching(pattern: Path) -> Iterator[tuple[str, Path | str]]:
    """Like `_below`, for a pattern."""
    parts = pattern.parts
    fixed = next(n for n, part in enumerate(parts) if _WILD.search(part))
    base = Path(*parts[:fixed])
    inner: dict[str, list[str]] = {}
    for path in base.glob(str(PurePosixPath(*parts[fixed:]))):
        name = path.relative_to(base)
        if path.is_dir() or any(watch.ignored(part) for part in name.parts):
            continue
        above = "" if name.parent == Path() else f"{name.parent.as_posix()}/"
        inner.setdefault(above, []).append(path.name)
    for above in sorted(inner):
        if any(folder.is_symlink() for folder in _between(base, above)):
            yield str(base / above), "reached through a symbolic link, which is not followed"
        else:
            for name, path in _data_files(base / above, sorted(inner[above]), above, ""):
                yield (name, path) if isinstance(path, Path) else (str(base / name), path)


def _between(base: Path, above: str) -> Iterator[Path]:
    for part in PurePosixPath(above).parts:
        base = base / part
        yield base


def _data_files(folder: Path, names: Sequence[str], inner: str, prefix: str) -> Iterator[tuple[str, Path | str]]:
    for name in names:
        path = folder / name
        if watch.ignored(name):
            continue
        if name.endswith(sidecar.ENDING):
            if not os.path.lexists(path.with_suffix("")):
                yield inner + name, "it holds settings for a file that is not there"
            continue
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            yield inner + name, "a symbolic link, which is not followed" if stat.S_ISLNK(found.st_mode) else "no file"
        elif reason := watch.name_refusal(name, prefix + inner):
            raise DataError(f"{escape(path)} cannot be added: {reason}.")
        else:
            yield prefix + inner + name, path


def keep_stream(folder: Path, stream: BinaryIO) -> Path:
    """What a stream gives until its end, as a file in `folder`. Raises DataError where that is nothing."""
    place = folder / "stream"
    try:
        with place.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
            size = file.tell()
    except OSError as error:
        text = f"What came on standard input cannot be kept: {error.strerror or error}."
        raise StorageError(text, error.errno) from error
    if not size:
        raise DataError("Nothing came on standard input.")
    return place


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


def forget(layout: Layout, label: str) -> None:
    """Remove what `keep` kept under a label and its settings, after an error."""
    for name in (label, label + sidecar.ENDING):
        if (layout.incoming / name).exists():
            durable.remove_file(layout.incoming / name)


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
            raise DataError(f"{shown} is a folder, not a file.")
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
    if name.endswith(sidecar.ENDING):
        raise DataError(
            f"{shown} holds settings, not data. Add the data file; settings beside it, in NAME.toml, are taken with it."
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
