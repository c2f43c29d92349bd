"""Making a workspace whole or not at all.

It is made in `DIR/.tmp-init-…/`, where nobody looks for one, and its parts are renamed into DIR at the end,
`nightschool.toml` last: without that, a folder is no workspace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nightschool import creation, durable
from nightschool.errors import BusyError
from nightschool.ledger import Ledger
from nightschool.workspace import Layout

LABEL = "init"


@contextmanager
def staged(root: Path) -> Iterator[Layout]:
    """A workspace without settings to fill; when the block ends well it is at `root`, else nothing of it is left.

    Raises:
        WorkspaceError: `root` holds something.
        BusyError: another process is making a workspace there.
    """
    creation.must_be_free(Layout(root))
    made = [level for level in (root, *root.parents) if not level.exists()]
    durable.make_dirs(root)
    _clear_remains(root)
    layout = Layout(durable.staging(root, LABEL))
    try:
        layout.create()
        with durable.Lock(layout.supervisor_lock, "nightschool init"):
            Ledger.create(layout.ledger).close()
            yield layout
            _publish(layout, root)
    except BaseException:  # Ctrl-C too
        with suppress(Exception):
            durable.remove_tree(layout.root)
        for level in made:
            with suppress(OSError):
                level.rmdir()
        raise


def _publish(layout: Layout, root: Path) -> None:
    # Every file in it was made durable when it was written; so are now the folders that they lie in.
    for above, _, _ in os.walk(layout.root):
        durable.make_dirs(Path(above))
    for part in sorted(layout.root.iterdir()):
        if part != layout.settings_file:
            durable.publish(part, root / part.name)
    durable.replace_file(layout.settings_file, root / layout.settings_file.name)
    layout.root.rmdir()


def _clear_remains(root: Path) -> None:
    """Remove what an `init` that was cut off has left: known to be empty folders, an empty ledger and unfinished work.

    A folder that is no longer empty stays, and its name is then found taken.
    """
    for left in root.glob(f".tmp-{LABEL}-*"):
        pid = durable.holder(Layout(left).supervisor_lock)
        if pid is not None:
            raise BusyError(f"Another `nightschool init` (process {pid}) is making a workspace in {root}.", pid)
    durable.sweep(root)
    layout = Layout(root)
    for file in (layout.ledger, layout.ledger.with_name(f"{layout.ledger.name}-journal")):
        durable.remove_file(file)
    for above, _, _ in os.walk(root, topdown=False):
        if Path(above) != root:
            with suppress(OSError):
                Path(above).rmdir()
