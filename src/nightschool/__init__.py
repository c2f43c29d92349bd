"""nightschool: teaches one language model night after night, as one continuous run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightschool.api import Workspace

__version__ = "0.1.0"
__all__ = ["Workspace", "__version__"]


def __getattr__(name: str) -> Any:
    # The command line and the child processes import this package too, and most of them need no Workspace.
    if name == "Workspace":
        from nightschool.api import Workspace

        return Workspace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
