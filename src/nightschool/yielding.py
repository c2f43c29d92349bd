"""Names in `machine.yield_to`: which of them a program can have. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nightschool.errors import SettingsError


def check_names(names: Sequence[str]) -> None:
    """Look at the names of programs that come first.

    Raises:
        SettingsError: one of them is no name that a program can have.
    """
    for name in names:
        if name.strip() != name or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise SettingsError(
                f"`machine.yield_to`: {name!r} is not the name of a program. Write it as `ps -e` shows it, without a "
                'folder or spaces around it, as in ["steam", "ollama"].'
            )
