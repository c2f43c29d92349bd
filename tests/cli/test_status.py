from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from nightschool import durable
from nightschool.ledger import Arrival, Ledger, StepRow
from nightschool.workspace import Layout
from tests.cli.conftest import Run

STABLE = [
    "state",
    "step",
    "lineage",
    "current_file",
    "queued",
    "learned",
    "rejected",
    "loss",
    "learning_rate",
    "tokens_per_second",
    "last_checkpoint",
    "last_snapshot",
]


def fill(layout: Layout, loss: float = 1.5) -> None:
    """A machine in the middle of its work."""
    with Ledger.open(layout.ledger) as ledger:
        ids = ledger.files.arrive([Arrival(f"{n}.jsonl", f"/gone/{n}") for n in range(5)])
        for id, state in zip(ids, ("learned", "training", "ready", "archived", "rejected"), strict=True):
            ledger.files.set_state(id, state)  # type: ignore[arg-type]
        ledger.steps.record([StepRow(7, 0, loss, 1e-4, 1.0, 100, 90, 0.5)])
        ledger.checkpoints.publish(5, 0, "ab" * 32, "checkpoint-5", 1000, 2000, 0.1, 0.01)
        ledger.machine.set("state", {"word": "training", "reason": "1.jsonl", "since": "2026-11-22T20:00:00+00:00"})
        ledger.machine.set("trainer", {"tokens_per_second": 812.3, "phase": "training"})


def test_a_new_workspace_is_stopped_and_has_nothing(here: Run) -> None:
    found = here("status", "--json").json
    assert list(found)[: len(STABLE)] == STABLE
    assert found["state"] == "stopped"
    assert (found["step"], found["queued"], found["learned"]) == (0, 0, 0)
    assert found["lineage"] is found["loss"] is found["last_checkpoint"] is found["last_snapshot"] is None


def test_status_tells_where_the_machine_is(here: Run, layout: Layout) -> None:
    fill(layout)
    with durable.Lock(layout.supervisor_lock, "nightschool run"):
        found = here("status", "--json").json
        text = here("status").out
    assert found["state"] == "training"
    assert (found["step"], found["loss"], found["learning_rate"]) == (7, 1.5, 1e-4)
    assert (found["queued"], found["learned"], found["rejected"]) == (2, 1, 1)
    assert (found["current_file"], found["tokens_per_second"]) == ("1.jsonl", 812.3)
    assert found["lineage"] == "ab" * 32
    assert found["last_checkpoint"]["step"] == 5
    assert found["last_checkpoint"]["path"] == "current_model/checkpoint-5"
    for part in ("training: 1.jsonl", "2 waiting, 1 learned, 1 rejected", "current_model/checkpoint-5", "812 tokens"):
        assert part in text


def test_b8_a_machine_that_was_killed_is_shown_as_stopped(here: Run, layout: Layout) -> None:
    fill(layout)
    found = here("status", "--json").json
    assert (found["state"], found["pid"], found["tokens_per_second"]) == ("stopped", None, None)


def test_a_failure_is_shown_also_when_the_machine_has_ended(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("state", {"word": "failed", "reason": "The model is gone.", "since": None})
    assert here("status", "--json").json["state"] == "failed"
    assert "The model is gone." in here("status").out


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_f2_a_loss_that_is_no_number_is_null_in_json(here: Run, layout: Layout, loss: float) -> None:
    fill(layout, loss)
    text = here("status", "--json").out
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["loss"] is None


def test_c10_a_missing_part_is_an_error_and_not_an_empty_workspace(here: Run, layout: Layout) -> None:
    layout.inbox.rename(layout.root / "away")
    result = here("status")
    assert result.code == 4
    assert "inbox is missing" in result.err


HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "accelerate",
    "pyarrow",
    "numpy",
    "rich",
    "prometheus_client",
}


def modules_of(*arguments: str) -> set[str]:
    """The modules a command has imported when it ends."""
    code = (
        "import json, sys\n"
        "from nightschool.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "command", ["status", "queue", "files", "log", "events", "checkpoints", "pause", "resume", "stop"]
)
def test_quick_commands_import_neither_torch_nor_anything_else_that_is_slow(layout: Layout, command: str) -> None:
    assert HEAVY & modules_of("-C", str(layout.root), command) == set()


def test_control_the_modules_are_really_looked_at(layout: Layout) -> None:
    assert "sqlite3" in modules_of("-C", str(layout.root), "status")


@pytest.mark.parametrize("command", ["settings", "doctor", "verify", "lineage"])
def test_no_command_imports_torch(layout: Layout, command: str) -> None:
    assert (HEAVY - {"numpy"}) & modules_of("-C", str(layout.root), command) == set()
