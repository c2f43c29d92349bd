"""`export` as people ask for it: an adapter is copied here, a model is made by a child process that has torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nightschool import trainingjobs
from nightschool.errors import SettingsError
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
    return trainingjobs.run(layout, "export", "--to", str(target), "--at", at, "--shard-size", shard_size)
