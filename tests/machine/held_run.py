"""The real program, but for one thing: its trainer waits before each step behind the one that `hold` names.

`hold` and `held` are files of the workspace's root: the one says where, the other that it waits there.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nightschool import cli
from nightschool.supervisor import run as supervisor
from nightschool.training import __main__ as training
from nightschool.training.loop import Loop
from nightschool.workspace import Layout

real_step, real_commands = Loop.step, supervisor.default_commands


def hold(root: Path) -> int | None:
    with suppress(FileNotFoundError):
        return int((root / "hold").read_text())
    return None


def step(self: Loop) -> Any:
    root = Path(sys.argv[sys.argv.index("--workspace") + 1])
    while (last := hold(root)) is not None and self.done >= last:
        (root / "held").write_text(str(last))
        time.sleep(0.01)
    return real_step(self)


def commands(layout: Layout) -> supervisor.Commands:
    found = real_commands(layout)
    trainer = (sys.executable, "-P", __file__, *found.trainer[found.trainer.index("train") :])
    return supervisor.Commands(trainer, found.intake, found.tracker, found.page)


Loop.step = step
supervisor.default_commands = commands
sys.exit(training.main() if sys.argv[1] == "train" else cli.main())
