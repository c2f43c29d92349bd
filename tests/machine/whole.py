"""A whole machine in processes of its own: started by the command line, killed by the process group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightschool import durable
from nightschool.demo.story import kill_session
from nightschool.ledger import Ledger
from nightschool.settings import render_default_toml
from nightschool.workspace import Layout

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3, "warmup_steps": 3},
    "data": {"max_length": 64},
    "inbox": {"settle_seconds": 0.0, "rescan_seconds": 0.2},
    "numerics": {"threads": 1},
    "checkpoints": {"save_steps": 7},
}


def workspace(root: Path, base: Path, **changes: dict[str, Any]) -> Layout:
    """A workspace on disk with small settings."""
    layout = Layout(root)
    layout.create()
    values: dict[str, dict[str, Any]] = {"model": {"name": str(base), "device": "cpu"}, **SETTINGS}
    for section, content in changes.items():
        values[section] = {**values.get(section, {}), **content}
    layout.settings_file.write_text(render_default_toml(values))
    Ledger.create(layout.ledger).close()
    return layout


class Machine:
    """`nightschool run` on a workspace, in a process group of its own."""

    def __init__(self, layout: Layout, *options: str) -> None:
        self.layout = layout
        with (layout.root / "run.out").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nightschool", "-C", str(layout.root), "run", *options],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip

    def kill_group(self) -> None:
        """SIGKILL to every process of the machine: the supervisor's children lead groups of their own."""
        kill_session(self.process.pid)
        self.process.wait()

    def stop(self, seconds: float = 120) -> int:
        """SIGTERM to the supervisor alone, as a service manager sends it; returns the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def finish(self, seconds: float = 300) -> int:
        """Wait until it ends by itself; returns the exit code."""
        return self.process.wait(seconds)

    def wait_for(self, what: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait until `what` gives something true; fails when the machine ends or time runs out."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := what():
                return found
            if self.process.poll() is not None:
                return what() or self.fail("ended before it came that far")
            time.sleep(0.02)
        return self.fail(f"did not come that far in {seconds} s")

    def fail(self, why: str) -> None:
        """Fail the test with what the machine said."""
        said = (self.layout.root / "run.out").read_text(errors="replace")[-3000:]
        raise AssertionError(f"the machine {why}; it said:\n{said}")


def trainer(layout: Layout) -> dict[str, Any]:
    """What the trainer says of itself."""
    with Ledger.open(layout.ledger) as ledger:
        return ledger.machine.get("trainer") or {}


def step(layout: Layout) -> int:
    """Steps recorded so far."""
    with Ledger.open(layout.ledger) as ledger:
        last = ledger.steps.last()
        return last.step if last else 0


def run_undisturbed(layout: Layout) -> None:
    """Run until nothing is left."""
    code = Machine(layout, "--until-idle").finish()
    assert code == 0, (layout.root / "run.out").read_text()[-3000:]


def outcome(layout: Layout) -> dict[str, Any]:
    """The bits at the end, from the tensors themselves, and what belongs to them."""
    import torch
    from safetensors.torch import load_file

    from nightschool.training import state

    number, folder = layout.checkpoints()[-1]
    assert durable.check(folder) == []
    path = next(p for p in (folder / "adapter_model.safetensors", folder / "model.safetensors") if p.exists())
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    digests = state.digests(load_file(path), optimizer)
    record = json.loads((folder / "nightschool.json").read_text())
    return {"step": number, "weights": digests.weights, "optimizer": digests.optimizer, "lineage": record["lineage"]}


def losses(layout: Layout) -> list[tuple[int, float]]:
    """(step, loss) of every recorded step."""
    with Ledger.open(layout.ledger) as ledger:
        return [(row.step, row.loss) for page in ledger.steps.losses() for row in page]


def alive(pid: int) -> bool:
    """Whether a process is there and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
