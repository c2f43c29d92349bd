"""`export` as people ask for it: an adapter is copied here, a model is made by a child process that has torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from nightschool import errors
from nightschool.errors import NightschoolError, SettingsError
from nightschool.exporting import facts, folder
from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.workspace import Layout

SHARD_SIZE = "5GB"
_SIZE = re.compile(r"[1-9]\d*(?:\.\d+)?\s*(?:KB|MB|GB|TB)?", re.IGNORECASE)


def export(layout: Layout, target: Path, at: str | None, merged: bool, shard_size: str) -> dict[str, Any]:
    """Give away a state; see `Workspace.export`.

    Raises:
        NightschoolError: whatever stands in the way; `target` is as it was.
    """
    if not _SIZE.fullmatch(shard_size.strip()):
        raise SettingsError(f"{shard_size!r} is no size of a shard. Write it as 5GB or 500MB.")
    layout.require()
    target = folder.checked(layout, target)
    settings = load_settings(layout.settings_file)
    with Ledger.open(layout.ledger) as ledger:
        saved = folder.find(layout, ledger, at)
        if not merged and folder.is_adapter(saved):
            told = facts.collect(settings, ledger, saved.record, "adapter")
            return folder.export_adapter(layout, saved, told, target)
    facts.check_base(settings, saved.record.root, layout.fingerprint_cache)
    return _in_child(layout, target, saved.name, shard_size.strip())


def _in_child(layout: Layout, target: Path, at: str, shard_size: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "nightschool.training", "export", "--workspace", str(layout.root)]
    command += ["--to", str(target), "--at", at, "--shard-size", shard_size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the process that exports ended with code {done.returncode}."]
        raise _kind(done.returncode)(said[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def _kind(code: int) -> type[NightschoolError]:
    """The class of error with this exit code."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, NightschoolError) and kind.exit_code == code:
            return kind
    return NightschoolError
