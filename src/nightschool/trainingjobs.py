"""A job of the room `training` in a child process of its own: what needs torch is done there, and not here."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightschool import errors
from nightschool.errors import NightschoolError

if TYPE_CHECKING:
    from nightschool.workspace import Layout

Say = Callable[[str], Any]


def to_stderr(text: str) -> None:
    """Show a line beside what the command prints."""
    print(text, file=sys.stderr, flush=True)


def run(layout: Layout, job: str, *options: str, say: Say = to_stderr) -> dict[str, Any]:
    """Do a job and wait for it.

    Args:
        layout: the workspace.
        job, options: as `python -m nightschool.training` takes them.
        say: called with a line while the job waits for something, or begins a long piece of work.

    Returns:
        The last JSON object that the job printed.

    Raises:
        NightschoolError: what the job met, as the error that it was there.
    """
    command = [sys.executable, "-P", "-m", "nightschool.training", job, "--workspace", str(layout.root), *options]
    result: dict[str, Any] | None = None
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True, errors="replace") as process:
            assert process.stdout is not None
            for line in process.stdout:
                told = told_by(line)
                if told.keys() == {"say"}:
                    say(str(told["say"]))
                elif told:
                    result = told
        if process.returncode or result is None:
            noise.seek(0)
            lines = noise.read().strip().splitlines()
            said = lines[-1] if lines else f"The process for `{job}` ended with code {process.returncode}."
            raise kind_of(process.returncode)(said)
    return result


def told_by(line: str) -> dict[str, Any]:
    """The JSON object in a line; an empty one where there is none: libraries may print lines of their own."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def kind_of(code: int) -> type[NightschoolError]:
    """The class of error with this exit code."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NightschoolError)]
    return next((kind for kind in kinds if kind.exit_code == code), NightschoolError)
