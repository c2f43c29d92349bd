"""NAME.toml beside the data file NAME: settings for that file alone.

    epochs = 3            passes over this file, instead of training.epochs

    [columns]             names of the columns where they differ, ours first
    prompt = "ask"
    completion = "reply"

The file is read when the data file is taken, and kept beside it in the archive.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nightschool.errors import DataError
from nightschool.intake.shapes import check_columns

ENDING = ".toml"
LONGEST = 64 << 10
"""Bytes in such a file, at most."""

KEYS = ("columns", "epochs")


def read(path: Path, name: str) -> dict[str, Any]:
    """The settings for the data file `name` that are at `path`. Raises DataError like `parse`, and OSError."""
    with path.open("rb") as file:
        return parse(file.read(LONGEST + 1), PurePosixPath(name).name + ENDING)


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The settings in the bytes of a file called `name`, as the file's own options.

    Raises:
        DataError: it is no TOML, or a key is unknown or malformed; the nearest known key is named.
    """
    if len(data) > LONGEST:
        raise DataError(f"{name} is longer than {LONGEST} bytes; settings for a file are a few lines.")
    try:
        found = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{name} is not valid UTF-8; save it as UTF-8.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"{name} is not valid TOML: {error}.") from None
    for key in found:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(KEYS)}."
            raise DataError(f"{name}: `{key}` is unknown; {hint}")
    return checked(found, name)


def checked(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`options` with `epochs` and `columns` looked at; what is None or empty is left out.

    Raises:
        DataError: one of them is malformed. `where` begins the sentence.
    """
    result = {key: value for key, value in options.items() if value is not None}
    epochs = result.get("epochs", 1)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or not 1 <= epochs < 2**31:
        raise DataError(f"{where}: `epochs` is a whole number from 1 on, not {epochs!r}.")
    columns = result.pop("columns", None)
    if columns is not None and not isinstance(columns, Mapping):
        raise DataError(f'{where}: `columns` is a table of names, ours first, as in prompt = "ask".')
    try:
        check_columns(columns or {})
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return {**result, "columns": dict(columns)} if columns else result


def merged(beside: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a file: those beside it, and over them those it was handed over with."""
    columns = {**beside.get("columns", {}), **own.get("columns", {})}
    return {**beside, **own, **({"columns": columns} if columns else {})}
