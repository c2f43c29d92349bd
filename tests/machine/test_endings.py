"""Supervisor and trainer as real processes, and how they end: asked to, killed together, or one without the other."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests import tiny
from tests.machine import whole
from tests.machine.conftest import Start

pytestmark = pytest.mark.slow


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Files take hours, and nothing is saved but what is asked for."""
    base = tiny.make_model(tmp_path / "base")
    return whole.workspace(
        tmp_path / "school", base, training={"epochs": 100_000}, checkpoints={"save_steps": 1_000_000}
    )


def steps(layout: Layout) -> int:
    """Steps recorded in the ledger, which has no hole."""
    # In one go: between two reads a trainer that starts may take steps back that no checkpoint holds.
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        last = ledger.steps.last()
        count = last.step if last else 0
        assert ledger.steps.count() == count
        return count


def stopped_at(layout: Layout) -> tuple[int, str]:
    """The step and reason of the log's last line on a trainer that stopped."""
    step, why = re.findall(r"Stopped at step (\d+), because (.*)\.", whole.log(layout))[-1]
    return int(step), why


def test_b5_sigterm_saves_the_last_step_and_a_second_ctrl_c_ends_at_once(layout: Layout, start: Start) -> None:
    whole.drop(layout, "endless.jsonl", count=16, seed=0)
    machine = start(layout, cold=True)
    machine.wait_for(lambda: steps(layout) >= 3)
    assert whole.newest(layout) == 0
    assert machine.stop() == 0
    assert machine.others() == []
    step = whole.newest(layout)
    assert step >= 3
    assert stopped_at(layout) == (step, "the supervisor asked for it")
    assert whole.told(layout)["step"] == steps(layout) == step
    assert whole.state(layout) == "stopped"

    machine = start(layout)
    machine.wait_for(lambda: steps(layout) > step)
    hung = machine.trainer()
    whole.freeze(layout, hung)  # a trainer that saves for a long time
    os.kill(machine.pid, signal.SIGINT)
    machine.wait_for(lambda: whole.state(layout) == "stopping")
    assert machine.process.poll() is None
    os.kill(machine.pid, signal.SIGINT)
    assert machine.finish() == 130
    assert machine.others() == []
    assert whole.newest(layout) == step

    machine = start(layout)
    machine.wait_for(lambda: steps(layout) > step + 3 and len(whole.events(layout, "resumed")) == 2)
    assert machine.stop() == 0
    assert whole.newest(layout) == steps(layout) > step + 3
    assert whole.command(layout, "verify")[0] == 0


def test_b8_b9_b10_killed_supervisors_leave_no_trainer_and_the_next_one_waits_for_it(
    layout: Layout, start: Start
) -> None:
    whole.drop(layout, "endless.jsonl", count=16, seed=0)
    first = start(layout)
    first.wait_for(lambda: steps(layout) >= 3)
    code, said = whole.command(layout, "run")
    assert code == 5
    assert f"process {first.pid}" in said

    trainer = first.trainer()
    assert os.getpgid(trainer) != first.pid, "a kill of the group would reach it, and prove nothing"
    first.kill_group()
    with suppress(ProcessLookupError):
        # Held for a while, if it is still there, so that the next supervisor meets it. Not before the kill: the kernel
        # hangs up on stopped processes when their last parent in the session goes.
        whole.freeze(layout, trainer)
    met = whole.alive(trainer)
    second = start(layout)
    if met:
        second.wait_for(lambda: f"process {trainer}" in reason(layout))
        os.kill(trainer, signal.SIGCONT)
    whole.wait_until(lambda: not whole.alive(trainer))
    whole.wait_until(lambda: not first.others())
    step, why = stopped_at(layout)
    assert why == "its supervisor is gone"
    assert step >= 3
    second.wait_for(lambda: steps(layout) > step + 3)
    with Ledger.open(layout.ledger) as ledger:
        assert [event.fields["step"] for event in ledger.events.of_kind("resumed")] == [step]
    assert second.stop() == 0
    assert whole.newest(layout) == steps(layout) > step + 3


def reason(layout: Layout) -> str:
    with Ledger.open(layout.ledger) as ledger:
        return (ledger.machine.get("state") or {}).get("reason", "")


ORPHAN = """
import subprocess, sys
child = subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_b8_b10_control_without_a_lifeline_it_stays_but_two_trainers_never_publish(layout: Layout) -> None:
    """A trainer that outlives its parent goes on training. Another is refused; and if that one is made to start by
    force, with the lock's file taken away, it is the only one that publishes.
    """
    whole.add(layout, "endless", count=16, seed=0)
    command = ["-m", "nightschool.training", "train", "--workspace", str(layout.root)]
    parent = whole.start(layout, "-c", ORPHAN, *command)
    whole.wait_until(lambda: steps(layout) >= 3)
    orphan = whole.told(layout)["pid"]
    usurper = None
    try:
        parent.kill()
        parent.wait()
        before = steps(layout)
        whole.wait_until(lambda: steps(layout) > before + 10)
        assert whole.alive(orphan), "so it is the lifeline that ends a trainer, and nothing else"

        refused = whole.start(layout, *command)
        assert refused.wait(whole.PATIENCE) == 5
        assert f"process {orphan}" in (layout.root / "run.out").read_text()
        assert whole.newest(layout) == 0

        whole.freeze(layout, orphan)
        copy = layout.state / "copy"
        copy.write_bytes(b"")
        copy.replace(layout.trainer_lock)
        usurper = whole.start(layout, *command)
        whole.wait_until(lambda: whole.told(layout)["pid"] == usurper.pid and whole.told(layout)["step"] >= 3)
        usurper.terminate()
        assert usurper.wait(whole.PATIENCE) == 0
        published = contents(layout)
        assert list(published) == [f"checkpoint-{whole.newest(layout)}"]

        os.kill(orphan, signal.SIGCONT)
        os.kill(orphan, signal.SIGTERM)
        whole.wait_until(lambda: not whole.alive(orphan))
        assert "is no longer held by this trainer" in whole.log(layout)
        assert contents(layout) == published
    finally:
        parent.kill()
        for pid in (orphan, usurper.pid if usurper and usurper.poll() is None else None):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL) if pid else None


def contents(layout: Layout) -> dict[str, dict[str, str]]:
    """What each checkpoint says of itself, by name."""
    return {path.name: json.loads((path / "MANIFEST.json").read_text()) for _, path in layout.checkpoints()}
