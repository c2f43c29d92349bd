"""The settings that a running machine goes by: the last `nightschool.toml` that was whole and could be taken.

The supervisor looks at the file, and keeps what it takes as a byte copy. Its children read the copy: one that is
started again at night does not die of a file that somebody is half through editing.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from nightschool import durable
from nightschool.errors import SettingsError
from nightschool.settings import Settings, parse_settings
from nightschool.workspace import Layout

Stamp = tuple[int, int, int] | None
"""Time of the last change in ns, size and inode; None where there is no file."""


def accept(layout: Layout, data: bytes) -> None:
    """Keep the bytes of a settings file that was checked. Raises StorageError where the disk refuses."""
    durable.write_file(layout.accepted_settings, data, like=layout.settings_file)  # passwords may be in it


def parse(layout: Layout, data: bytes, path: Path | None = None) -> Settings:
    """The settings in the bytes of a workspace's file. Raises SettingsError; relative paths are read from there."""
    where = path or layout.settings_file
    try:
        return parse_settings(tomllib.loads(data.decode("utf-8")), str(where), base=layout.root)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where} is not valid TOML: {error}.") from None


def read(layout: Layout) -> Settings:
    """The settings in force; where nothing was ever accepted, those in the file.

    Raises:
        SettingsError: there is no file, or it cannot be used.
    """
    for path in (layout.accepted_settings, layout.settings_file):
        try:
            return parse(layout, path.read_bytes(), path)
        except FileNotFoundError:
            continue
    raise SettingsError(f"{layout.settings_file} is missing. `nightschool init` writes one.")


def stamp(path: Path) -> Stamp:
    """What tells whether a file was changed, without reading it."""
    try:
        found = os.stat(path)  # noqa: PTH116 (at every step)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Follower:
    """Tells a child of the machine when other settings are in force."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp = stamp(layout.accepted_settings)

    def look(self) -> Settings | None:
        """The settings in force, if others were accepted since the last look. Costs one `stat`."""
        now = stamp(self._layout.accepted_settings)
        if now == self._stamp or now is None:
            return None
        self._stamp = now
        return read(self._layout)
