"""A whole machine in processes of its own: started by the command line, and ended in every way there is.

The supervisor begins a session; the trainer and the intake worker are in it, each in a process group of its own. So
`kill_everything` ends all of them at once, as a power cut would, and `kill_group` only the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from nightschool import durable
from nightschool.ledger import Ledger
from nightschool.ledger.holders import holders
from nightschool.settings import render_default_toml
from nightschool.workspace import Layout
from tests import device, forks, tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3, "warmup_steps": 3},
    "data": {"max_length": 64},
    "inbox": {"settle_seconds": 0.0, "rescan_seconds": 0.2, "gather_rows": 0},
    "numerics": {"threads": 1},
    "checkpoints": {"save_steps": 7},
    "page": {"port": 0},
}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
NEVER = 10**9
PATIENCE = 240.0
"""Seconds after which a test gives up waiting; long, so that a busy computer fails no test."""


def workspace(root: Path, base: Path, **changes: dict[str, Any]) -> Layout:
    """A workspace on disk with small settings; `changes` are sections laid over them."""
    layout = Layout(root)
    layout.create()
    values: dict[str, dict[str, Any]] = {"model": {"name": str(base), "device": device.NAME}, **SETTINGS}
    for section, content in changes.items():
        values[section] = {**values.get(section, {}), **content}
    layout.settings_file.write_text(render_default_toml(values))
    Ledger.create(layout.ledger).close()
    return layout


def add(layout: Layout, name: str, count: int, seed: int) -> None:
    """Put a file of `count` sequences into the ledger as if intake had prepared it, for a trainer without a machine."""
    from tests.training import rig

    rig.add(layout, name, rig.sequences(count, seed))


def drop(layout: Layout, name: str, count: int, seed: int, kind: str = "text") -> None:
    """Put a data file into the inbox as a careful copying program does: under a name that is ignored, then renamed."""
    part = tiny.rows(layout.inbox / f"{name}.part", count, seed, kind)
    part.rename(layout.inbox / name)


class Machine:
    """`nightschool run` on a workspace, in a session of its own; `cold` as in `start`.

    With `hold`, its trainer waits when it has taken so many steps, or NEVER: what must come while it trains cannot come
    too late.
    """

    def __init__(self, layout: Layout, *options: str, cold: bool = False, hold: int | None = None) -> None:
        self.layout = layout
        if hold is not None:
            self.hold(hold)
        program = ("-m", "nightschool") if hold is None else (str(Path(__file__).with_name("held_run.py")),)
        self.process = start(layout, *program, "-C", str(layout.root), "run", *options, cold=cold)

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    def others(self) -> list[int]:
        """The processes of this machine but for the supervisor, also when it is gone."""
        return [pid for pid, session in sessions() if session == self.pid and pid != self.pid]

    def trainer(self) -> int:
        """Wait until the trainer has told its process id, and return it."""
        return self.wait_for(lambda: next((pid for pid in self.others() if pid == told(self.layout).get("pid")), None))

    def hold(self, step: int | None) -> None:
        """Let the trainer go on, up to this step or, with None, to the end; only where it was started with `hold`."""
        if step is None:
            (self.layout.root / "hold").unlink()
        else:
            durable.write_file(self.layout.root / "hold", str(step))

    def wait_held(self) -> None:
        """Wait until the trainer waits where it is held."""
        hold, held = self.layout.root / "hold", self.layout.root / "held"
        self.wait_for(lambda: held.exists() and held.read_text() == hold.read_text())

    def freeze_inside(self, child: str, pid: int) -> None:
        """Have a child, `train` or `intake`, stop in the middle of a change of the ledger: it can be read, and nobody
        else can write. Only where the machine was started with `hold`.
        """
        asked = self.layout.root / "freeze"
        durable.write_file(asked, child)
        self.wait_for(lambda: not asked.exists() and _stopped(pid))
        assert pid in holders(self.layout.ledger)

    def during(self, *arguments: str, then: int | None = None) -> tuple[int, str]:
        """Run a command for which a trainer that is held must save and end; once it was asked to, it goes on to `then`.

        Returns:
            The command's exit code and all that it said.
        """
        self.wait_held()
        with begun(self.layout, *arguments) as process:
            self.wait_for(lambda: state(self.layout) == "saving")
            self.hold(then)
            return heard(process)

    def kill_everything(self) -> None:
        """SIGKILL to all processes of the machine at once, the children first."""
        while members := [*self.others(), *([self.pid] if self.process.returncode is None else [])]:
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait()

    def kill_group(self) -> None:
        """SIGKILL to the supervisor's process group: the children are not in it and have to notice by themselves."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM to the supervisor alone, as a service manager sends it; returns the exit code."""
        self.process.terminate()
        return self.finish()

    def finish(self) -> int:
        """Wait until it ends by itself; returns the exit code."""
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        """All that this and earlier machines have said on their terminal."""
        return (self.layout.root / "run.out").read_text(errors="replace")

    def wait_for(self, what: Callable[[], Any], pause: float = 0.01) -> Any:
        """Wait until `what` gives something true; fails when the machine ends or time runs out."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := what():
                return found
            if self.process.poll() is not None:
                return what() or self.fail("ended before it came that far")
            time.sleep(pause)
        return self.fail(f"did not come that far in {PATIENCE} s")

    def fail(self, why: str) -> NoReturn:
        """Fail the test with what the machine said."""
        raise AssertionError(f"the machine {why}; it said:\n{self.said()[-3000:]}")


def start(layout: Layout, *arguments: str, cold: bool = False) -> subprocess.Popen[bytes]:
    """A Python process with these arguments, in a session of its own; its output goes to `run.out`.

    It and its children are forked from a process that has imported everything, or, with `cold`, started as by a user.
    """
    with (layout.root / "run.out").open("ab") as output:
        return (forks.COLD if cold else forks.Popen)(
            [sys.executable, *arguments], stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip


def wait_until(what: Callable[[], Any]) -> Any:
    """Wait until `what` gives something true."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"that did not happen in {PATIENCE} s")


def sessions() -> Iterator[tuple[int, int]]:
    """(pid, session) of every process that has not ended."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                state, _, _, session, *_ = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                if state not in "ZX":
                    yield int(folder.name), int(session)


def alive(pid: int) -> bool:
    """Whether a process is there and not just waiting to be reaped."""
    return any(one == pid for one, _ in sessions())


def freeze(layout: Layout, pid: int) -> None:
    """Stop a process (SIGSTOP) where it holds no lock of the ledger: nobody else could write there meanwhile.

    Also none for reading: others could begin a change, and not commit it.

    Raises:
        ProcessLookupError: it has ended.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: _stopped(pid) or not alive(pid))
        with closing(sqlite3.connect(layout.ledger, timeout=0, isolation_level=None)) as ledger:
            try:
                ledger.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:  # its, or another's
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.01)
                continue
            ledger.execute("ROLLBACK")
            return
    raise AssertionError(f"process {pid} held a lock of the ledger for {PATIENCE} s")


def _stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return all((task / "stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for task in tasks)
    except (FileNotFoundError, ProcessLookupError):
        return False


def told(layout: Layout) -> dict[str, Any]:
    """What the trainer says of itself."""
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get("trainer") or {}


def state(layout: Layout) -> str:
    """The machine's word for what it is doing."""
    with Ledger.open(layout.ledger) as ledger:
        return (ledger.machine.get("state") or {}).get("word", "")


def counts(layout: Layout) -> dict[str, int]:
    """Files by state, without the states that no file is in."""
    with Ledger.open(layout.ledger) as ledger:
        return {word: count for word, count in ledger.files.counts().items() if count}


def events(layout: Layout, kind: str) -> list[str]:
    """The texts of the ledger's events of one kind."""
    with Ledger.open(layout.ledger) as ledger:
        return [event.text for event in ledger.events.of_kind(kind)]


def newest(layout: Layout) -> int:
    """Step of the newest checkpoint by its name; 0 when there is none."""
    found = layout.checkpoints()
    return found[-1][0] if found else 0


def log(layout: Layout) -> str:
    """The log that a person reads."""
    return layout.log_file.read_text(encoding="utf-8")


def run_undisturbed(layout: Layout, cold: bool = False) -> None:
    """Run until nothing is left."""
    machine = Machine(layout, "--until-idle", cold=cold)
    try:
        if machine.finish() != 0:
            machine.fail("ended with an error")
    finally:
        machine.kill_everything()


def command(layout: Layout, *arguments: str) -> tuple[int, str]:
    """Run a command of the program on the workspace; its exit code and all that it said."""
    with begun(layout, *arguments) as process:
        return heard(process)


@contextmanager
def begun(layout: Layout, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command of the program on the workspace, begun; behind this it has ended."""
    with forks.Popen(
        [sys.executable, "-m", "nightschool", "-C", str(layout.root), *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT},
    ) as process:  # fmt: skip
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def heard(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command; its exit code and all that it said."""
    said, complained = process.communicate(timeout=PATIENCE)
    return process.returncode, said + complained


def outcome(layout: Layout) -> dict[str, Any]:
    """All that law 1 speaks of: the bits at the end, from the tensors themselves, and the whole loss curve."""
    import torch
    from safetensors.torch import load_file

    from nightschool.training.state import digests

    number, folder = layout.checkpoints()[-1]
    assert durable.check(folder) == []
    path = next(p for p in (folder / "adapter_model.safetensors", folder / "model.safetensors") if p.exists())
    found = digests(load_file(path), torch.load(folder / "optimizer.pt", weights_only=True))
    record = json.loads((folder / "nightschool.json").read_text())
    with Ledger.open(layout.ledger) as ledger:
        curve = [(row.step, row.loss, row.learning_rate) for page in ledger.steps.losses() for row in page]
    assert [step for step, _, _ in curve] == list(range(1, number + 1))
    return {"step": number, "weights": found.weights, "moments": found.optimizer, "lineage": record["lineage"],
            "curve": curve}  # fmt: skip
