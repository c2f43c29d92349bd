"""Programs that come first (`machine.yield_to`): which names can be meant, and whether a process has one. Pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from nightschool.errors import SettingsError

COMM_BYTES = 15
"""Linux cuts the name that a process shows for itself after so many bytes."""

_DELETED = " (deleted)"


def check_names(names: Sequence[str]) -> None:
    """Look at the names in machine.yield_to.

    Raises:
        SettingsError: one of them is no name that a program can have.
    """
    for name in names:
        if name.strip() != name or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise SettingsError(
                f"`machine.yield_to`: {name!r} is not the name of a program. Write it as `ps -e` shows it, without a "
                'folder or spaces around it, as in ["steam", "ollama"].'
            )


def matching(names: Sequence[str], comm: str, exe: str, argv0: str) -> str | None:
    """The first of `names` that a process has, or None.

    Upper and lower case are told apart.

    Args:
        names: as they are in machine.yield_to.
        comm: what it calls itself, cut by the system; of a longer name only the beginning is compared.
        exe: path of the program it runs; "" where that is not known.
        argv0: what it was started as; "" where that is not known.
    """
    called = {PurePosixPath(exe.removesuffix(_DELETED)).name, PurePosixPath(argv0).name} - {""}
    for name in names:
        if name in called or os.fsencode(name)[:COMM_BYTES] == os.fsencode(comm):
            return name
    return None
