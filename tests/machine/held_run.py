"""The real program, but for two things that a test asks for with files in the workspace's root.

`hold`: its trainer waits before each step behind the one that is named there; `held` says that it waits.
`freeze`: the child that is named there, `train` or `intake`, stops in the middle of its next change of the ledger.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nightschool import cli
from nightschool.intake import __main__ as intake
from nightschool.ledger.database import Database
from nightschool.supervisor import run as supervisor
from nightschool.training import __main__ as training
from nightschool.training.loop import Loop
from nightschool.workspace import Layout

real_step, real_commands, real_transaction = Loop.step, supervisor.default_commands, Database.transaction


def workspace() -> Path:
    """That of a child."""
    return Path(sys.argv[sys.argv.index("--workspace") + 1])


def hold(root: Path) -> int | None:
    with suppress(FileNotFoundError):
        return int((root / "hold").read_text())
    return None


def step(self: Loop) -> Any:
    root = workspace()
    while (last := hold(root)) is not None and self.done >= last:
        (root / "held").write_text(str(last))
        time.sleep(0.01)
    return real_step(self)


@contextmanager
def transaction(self: Database) -> Iterator[None]:
    with real_transaction(self):
        yield
        asked = workspace() / "freeze"
        with suppress(FileNotFoundError):
            if asked.read_text() == sys.argv[1]:
                asked.unlink()
                os.kill(os.getpid(), signal.SIGSTOP)


def commands(layout: Layout) -> supervisor.Commands:
    found = real_commands(layout)
    here = (sys.executable, "-P", __file__)
    trainer = (*here, *found.trainer[found.trainer.index("train") :])
    return supervisor.Commands(
        trainer, (*here, "intake", *found.intake[found.intake.index("--workspace") :]), found.tracker, found.page
    )


Loop.step = step
supervisor.default_commands = commands
if sys.argv[1] in ("train", "intake"):
    Database.transaction = transaction
sys.exit(
    training.main() if sys.argv[1] == "train" else intake.main(sys.argv[2:]) if sys.argv[1] == "intake" else cli.main()
)
