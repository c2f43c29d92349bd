"""`run` with stand-in children, for tests that send signals to a supervisor: ROOT TRAINER INTAKE UNTIL_IDLE."""

from __future__ import annotations

import sys
from pathlib import Path

from nightschool.errors import NightschoolError
from nightschool.settings import load_settings
from nightschool.supervisor import run as supervisor
from nightschool.supervisor.signals import StopSignals
from nightschool.workspace import Layout

root, trainer, intake, until_idle = sys.argv[1:]
layout = Layout(Path(root))
fake = str(Path(__file__).parent / "fake_child.py")
workspace = ("--workspace", root)
children = supervisor.Commands(
    [sys.executable, fake, "trainer", trainer, *workspace], [sys.executable, fake, "intake", intake, *workspace]
)
try:
    with StopSignals() as signals:
        code = supervisor.run(
            layout,
            load_settings(layout.settings_file),
            bool(int(until_idle)),
            lambda line: print(line, flush=True),
            commands=children,
            signals=signals,
            tick_seconds=0.02,
        )
except NightschoolError as error:
    print(error)
    code = error.exit_code
sys.exit(code)
