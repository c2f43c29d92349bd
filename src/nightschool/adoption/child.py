"""The child process that reads and writes tensors: nothing here imports torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from nightschool import durable
from nightschool.takeover import PLAN
from nightschool.trainingjobs import kind_of, told_by
from nightschool.workspace import Layout


def run(layout: Layout, plan: dict[str, Any], say: Callable[[str], Any]) -> dict[str, Any]:
    """Let `python -m nightschool.training adopt` do what `plan` says; what it returns.

    Raises:
        NightschoolError: what the child met, as the error that it was there.
    """
    path = layout.tmp / PLAN
    durable.write_file(path, json.dumps(plan))
    command = [sys.executable, "-P", "-m", "nightschool.training", "adopt", "--workspace", str(layout.root)]
    result: dict[str, Any] | None = None
    error = ""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                told = told_by(line)
                if "say" in told:
                    say(str(told["say"]))
                error = str(told.get("error", error))
                result = told.get("done", result)
        if process.returncode or result is None:
            noise.seek(0)
            said = error or (noise.read().strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
            raise kind_of(process.returncode)(said if error else f"Nothing was taken over: {said}")
    durable.remove_file(path)
    return result
