"""Figures about the machine for Prometheus: what there is, and how it follows from the status. Pure; no library.

docs/watching.md has the same table; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from nightschool import __version__
from nightschool.status import Status

STATES = (
    "idle", "preparing", "starting", "training", "saving", "paused", "outside hours", "waiting for GPU", "waiting",
    "waiting for disk", "restarting", "stopping", "stopped", "failed",
)  # fmt: skip
"""The state words that have a line at all times; one that is not among them has a line while it lasts."""


@dataclass(frozen=True)
class Meaning:
    """A figure: its kind and what it tells, in one sentence without a full stop."""

    kind: Literal["gauge", "counter"]
    help: str


FIGURES: dict[str, Meaning] = {
    "nightschool_state": Meaning("gauge", "1 for the state that the machine is in, 0 for the others"),
    "nightschool_step": Meaning("gauge", "Optimizer steps done; goes back after a rollback"),
    "nightschool_loss": Meaning("gauge", "Loss of the last step, in nats per token; not there where it was no number"),
    "nightschool_learning_rate": Meaning("gauge", "Learning rate of the last step"),
    "nightschool_tokens_per_second": Meaning("gauge", "Training speed; not there while nothing is trained"),
    "nightschool_queue_files": Meaning("gauge", "Files that wait"),
    "nightschool_queue_steps": Meaning("gauge", "Steps that they will take, estimated where they are not prepared"),
    "nightschool_remaining_seconds": Meaning("gauge", "Training time for them and the rest of the file in training"),
    "nightschool_files": Meaning("gauge", "Files, by where they are"),
    "nightschool_last_checkpoint_age_seconds": Meaning("gauge", "Time since the newest checkpoint was written"),
    "nightschool_last_snapshot_age_seconds": Meaning("gauge", "Time since the newest snapshot was taken"),
    "nightschool_disk_free_bytes": Meaning("gauge", "Room on the disk that the workspace lies on"),
    "nightschool_trainer_restarts_total": Meaning(
        "counter", "Times that the trainer ended by accident and was started again, since the machine was started"
    ),
    "nightschool_build_info": Meaning("gauge", "1, with the version"),
}


@dataclass(frozen=True)
class Sample:
    """One value, with the labels that tell it from others of the same name."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def samples(
    status: Status, files: Mapping[str, int], disk_free: int | None, restarts: int, now: datetime
) -> list[Sample]:
    """Every figure that is known.

    Args:
        status: what the machine does.
        files: numbers of files by state.
        disk_free: bytes.
        restarts: of the trainer.
        now: an aware time.
    """
    states = (*STATES, *(() if status.state in STATES else (status.state,)))
    found = [Sample("nightschool_state", float(word == status.state), (("state", word),)) for word in states]
    values: dict[str, float | None] = {
        "nightschool_step": status.step,
        "nightschool_loss": status.loss,
        "nightschool_learning_rate": status.learning_rate,
        "nightschool_tokens_per_second": status.tokens_per_second,
        "nightschool_queue_files": status.queued,
        "nightschool_queue_steps": status.steps_queued,
        "nightschool_remaining_seconds": status.seconds_left,
        "nightschool_last_checkpoint_age_seconds": _age(status.last_checkpoint, "written_at", now),
        "nightschool_last_snapshot_age_seconds": _age(status.last_snapshot, "taken_at", now),
        "nightschool_disk_free_bytes": disk_free,
        "nightschool_trainer_restarts_total": restarts,
    }
    found += [Sample(name, float(value)) for name, value in values.items() if value is not None]
    found += [Sample("nightschool_files", number, (("state", state),)) for state, number in sorted(files.items())]
    return [*found, Sample("nightschool_build_info", 1.0, (("version", __version__),))]


def _age(what: dict[str, Any] | None, key: str, now: datetime) -> float | None:
    # A clock that was set back must not make an alarm of an age below nothing.
    return None if what is None else max(0.0, (now - datetime.fromisoformat(what[key])).total_seconds())
