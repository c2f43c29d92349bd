"""A workspace that was found on the disk: where it is, what it is set to, and its ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightschool.ledger import Ledger
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from nightschool.settings import Settings


class Opened:
    """What all parts of `Workspace` stand on."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.layout.root)!r})"

    @property
    def root(self) -> Path:
        """The workspace's folder."""
        return self.layout.root

    @property
    def settings(self) -> Settings:
        """What `nightschool.toml` says now.

        Raises:
            SettingsError: it is malformed.
        """
        from nightschool.settings import load_settings

        return load_settings(self.layout.settings_file)

    def ledger(self) -> Ledger:
        """Open the ledger, for what has no method here; close it, or use it in a `with`."""
        return Ledger.open(self.layout.ledger)

    def _tell(self, kind: str, text: str, **values: Any) -> None:
        with self.ledger() as ledger, ledger.transaction():
            for key, value in values.items():
                ledger.machine.set(key, value)
            ledger.events.add(kind, text)
