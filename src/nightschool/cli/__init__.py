"""The command line: one file per command. `main` is the program `nightschool`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. See docs/cli.md for the codes."""
    if sys.platform == "win32":
        print("nightschool needs Linux: use WSL2, with the workspace on its Linux file system.", file=sys.stderr)
        return 1
    # Looking for plugins of pydantic, which typer uses, reads the metadata of everything that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from nightschool.cli.app import build_app
    from nightschool.errors import NightschoolError

    for stream in (sys.stdout, sys.stderr):
        # A file name must never end a command because the terminal's encoding has no such letter.
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        build_app()(args=None if arguments is None else list(arguments), prog_name="nightschool")
    except NightschoolError as error:
        print(f"nightschool: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(bool(exit.code))
    return 0
