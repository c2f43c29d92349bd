"""A stand-in for trainer or intake worker: `fake_child.py ROLE BEHAVIOUR --workspace DIR --lifeline FD`. No torch.

Roles: `trainer` takes ready files through to learned, one step each; `intake` makes arrived files ready; `sleeper` does
nothing. Behaviours: `good`; `deaf` (ignores SIGTERM); `exit:CODE[:TIMES]` (ends so, the first TIMES times, with a last
word); `kill:TIMES` (kills itself after its first step); `exit-after-step:CODE`; `leased:NAME` (holds that lease);
`after:ROLE` (waits until that child has started, and hears signals); `said:WORDS` (waits until they are in the log);
`holds:SQL` (the first time, begins a transaction so when its first work is done and the supervisor has read that all
is learned, and hangs in it).
What happened is left in DIR as files `ROLE.started`, `ROLE.saved`, `ROLE.orphaned`, each a line per event.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import sys
import time
from pathlib import Path

from nightschool.leases import Lease
from nightschool.ledger import Ledger, StepRow
from nightschool.workspace import Layout

role, behaviour, *rest = sys.argv[1:]
options = dict(zip(rest[::2], rest[1::2], strict=True))
layout = Layout(Path(options["--workspace"]))
lifeline = int(options["--lifeline"])
kind, _, argument = behaviour.partition(":")


def note(what: str) -> int:
    """Write down an event; how often it has happened."""
    path = layout.root / f"{role}.{what}"
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def leave(*_: object) -> None:
    note("saved")
    sys.exit(0)


signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "deaf" else leave)
times = note("started")


def misbehave(after_step: bool) -> None:
    code, _, limit = argument.partition(":")
    if kind == ("exit-after-step" if after_step else "exit") and times <= int(limit or 10**9):
        print(f"noise of {role} {times}")
        print(f"last words of {role}")
        sys.exit(int(code))
    if kind == "kill" and after_step and times <= int(argument):
        os.kill(os.getpid(), signal.SIGKILL)


misbehave(after_step=False)
if kind == "leased":
    Lease(argument, layout.root).acquire()
ledger = Ledger.open(layout.ledger)
worked = False


def idle() -> bool:
    """Whether the supervisor, as far as it has read, knows of nothing to do."""
    return (ledger.machine.get("state") or {"word": "idle"})["word"] == "idle"


def held_back() -> bool:
    if kind == "after":
        return not (layout.root / f"{argument}.started").exists()
    if kind == "holds" and times == 1 and not worked:
        return idle()  # or it would not be told from the first time that it is
    return kind == "said" and argument not in layout.log_file.read_text()


def hang() -> None:
    connection = sqlite3.connect(layout.ledger, isolation_level=None)
    for statement in argument.split(";"):
        connection.execute(statement).fetchall()
    note("holding")
    while True:
        time.sleep(1)


def work() -> None:
    global worked
    files = ledger.files
    if role == "intake":
        for row in files.listing("arrived"):
            source = Path(row.source)
            target = layout.archive / source.name
            source.rename(target)
            files.archived(row.id, "0" * 64, 1, str(target.relative_to(layout.root)))
        archived = files.listing("archived")
        for row in archived:
            files.prepared_as(
                row.id,
                "p",
                shape="text",
                rows_good=1,
                rows_bad=0,
                tokens=1,
                label_tokens=1,
                sequences=1,
                data_digest="d",
            )
        worked = worked or bool(archived)
    if role == "trainer":
        for row in files.listing("ready"):
            files.begin(row.id)
            ledger.machine.set("trainer", {"phase": "training", "file": row.name, "pid": os.getpid()})
        for row in files.listing("training"):
            last = ledger.steps.last()
            ledger.steps.record([StepRow((last.step if last else 0) + 1, 0, 1.0, 0.1, 1.0, 1, 1, 0.1)])
            misbehave(after_step=True)
            files.trained(row.id)
            with ledger.transaction():  # who reads that all is learned reads the other as well
                files.learned([row.id])
                ledger.machine.set("trainer", {"phase": "waiting", "pid": os.getpid()})
            worked = True


print(f"hello from {role}")
while True:
    readable, _, _ = select.select([lifeline], [], [], 0.02)
    if readable:
        note("orphaned")
        sys.exit(0)
    if not held_back():
        work()
    if kind == "holds" and times == 1 and worked and idle():
        hang()
    if kind == "deaf":
        time.sleep(0.02)
