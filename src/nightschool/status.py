"""What the machine is doing, read from the ledger and the lock in a few milliseconds. Imports next to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from nightschool import durable, forecast, pausing
from nightschool.ledger import CheckpointRow, EntryRow, Ledger
from nightschool.ledger.files import WAITING_STATES
from nightschool.ledger.machine import SETTINGS_PROBLEM
from nightschool.workspace import Layout

WaitingOf = Callable[[Ledger, forecast.Rates], forecast.Work]


@dataclass(frozen=True)
class Status:
    """What the machine is doing. The first twelve fields are stable, also as keys of `nightschool status --json`.

    Attributes:
        state: one word or two: idle, preparing, starting, training, saving, paused, stopping, stopped, restarting,
            waiting, waiting for disk, waiting for GPU, outside hours, failed.
        step: optimizer steps done.
        lineage: hash of all that led to the newest checkpoint; None before there is one.
        current_file: name of the file in training.
        queued, learned, rejected: numbers of files.
        loss, learning_rate: of the last step; the loss is None where it was not finite.
        tokens_per_second: None while nothing is trained.
        last_checkpoint: {"step", "path", "written_at"}.
        last_snapshot: {"name", "step", "path", "taken_at"} of the snapshot taken last, if it is still there.
        reason: why it is in this state, or what to do.
        since: when the state began (UTC ISO 8601).
        pid: process id of the running machine.
        paused: whether `pause` is in force.
        duplicates, set_aside: numbers of files.
        workspace: its folder.
        steps_queued: steps that the waiting files will take, estimated where they are not prepared; None while nothing
            is known to estimate with.
        seconds_left: time to learn those and the rest of the file in training, at the speed measured last; None before.
        prepared_bytes: size of the prepared data.
        catching_up: the step from which on `current_model/` holds the newest weights again, after a file was forgotten;
            None where it does.
        settings_problem: why the running machine does not take the settings file as it is now; None where it does.
        metrics: the address that serves figures for Prometheus; None where none does.
        page: the address of the page in the browser; None where there is none.
    """

    state: str
    step: int
    lineage: str | None
    current_file: str | None
    queued: int
    learned: int
    rejected: int
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float | None
    last_checkpoint: dict[str, Any] | None
    last_snapshot: dict[str, Any] | None
    reason: str
    since: str | None
    pid: int | None
    paused: bool
    duplicates: int
    set_aside: int
    workspace: str
    steps_queued: int | None
    seconds_left: float | None
    prepared_bytes: int
    catching_up: int | None
    settings_problem: str | None
    metrics: str | None
    page: str | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """How far the file in training is: `step` of its `steps`; 0 and 0 where there is none.

    `seconds`: time to its end; None where it is not known.
    """

    step: int
    steps: int
    seconds: float | None


def read_status(layout: Layout) -> Status:
    """The status of a workspace.

    Raises:
        WorkspaceError, StorageError: the ledger is not there or cannot be read.
    """
    with Ledger.open(layout.ledger) as ledger:
        return status_of(layout, ledger)


def status_of(layout: Layout, ledger: Ledger, waiting_of: WaitingOf = forecast.work_waiting) -> Status:
    """The same from a ledger that is open. Raises StorageError where it cannot be read.

    Args:
        layout, ledger: the workspace.
        waiting_of: gives what all waiting files take; whoever asks often may remember it, for it looks at all of them.
    """
    pid = durable.holder(layout.supervisor_lock)
    told = ledger.machine.all()
    counts = ledger.files.counts()
    last = ledger.steps.last()
    done = forecast.steps_done(ledger)
    newest = ledger.checkpoints.newest()
    rates = forecast.read_rates(ledger, told)
    waiting = waiting_of(ledger, rates)
    everything = forecast.together(forecast.work_begun(ledger, rates, told), waiting)
    current = _current_file(ledger, done)
    word, reason, since = _state(told.get("state") or {}, running=pid is not None)
    speed = (told.get("trainer") or {}).get("tokens_per_second") if word == "training" else None
    return Status(
        state=word,
        step=done,
        lineage=newest.lineage if newest else None,
        current_file=current,
        queued=sum(counts[key] for key in WAITING_STATES),
        learned=counts["learned"],
        rejected=counts["rejected"],
        loss=_finite(last.loss) if last else None,
        learning_rate=_finite(last.learning_rate) if last else None,
        tokens_per_second=_finite(speed),
        last_checkpoint=None if newest is None else _described(layout, newest),
        last_snapshot=_last_snapshot(layout, told),
        reason=reason,
        since=since,
        pid=pid,
        paused=pausing.in_force(told.get(pausing.ROW), datetime.now(UTC)) is not None,
        duplicates=counts["duplicate"],
        set_aside=counts["set_aside"],
        workspace=str(layout.root),
        steps_queued=waiting.steps,
        seconds_left=_finite(everything.seconds),
        prepared_bytes=int((told.get("intake") or {}).get("prepared_bytes", 0)),
        catching_up=told.get("serving"),
        settings_problem=told.get(SETTINGS_PROBLEM) if pid is not None else None,
        metrics=told.get("metrics") if pid is not None else None,
        page=_page(layout, told.get("page") or {}),
    )


def _page(layout: Layout, row: Mapping[str, Any]) -> str | None:
    """Where the page is. One that was killed has left its row; the next one may not have written its own yet."""
    holder = durable.holder(layout.page_lock)
    # From within a container, a process outside of it has no number.
    return row.get("url") if holder is not None and holder in (row.get("pid"), durable.ELSEWHERE) else None


def progress_of(status: Status, unfinished: Sequence[tuple[EntryRow, int]], trainer: Mapping[str, Any]) -> Progress:
    """How far the file in training is.

    Args:
        status: what the machine does.
        unfinished: `ledger.entries.unfinished(status.step)`, or the first of it.
        trainer: what the trainer tells of itself: the machine row of that name.
    """
    entry, left = unfinished[0] if unfinished else (None, 0)
    length = entry.stop - entry.start if entry else 0
    live = status.state == "training" and trainer.get("phase") == "training"
    return Progress(length - left, length, _finite(trainer.get("seconds_left")) if live else None)


def _current_file(ledger: Ledger, done: int) -> str | None:
    """The file of the next step; the one whose last step is in no checkpoint yet, if there is no next."""
    unfinished = ledger.entries.unfinished(done, 1)
    if unfinished:
        return ledger.called(unfinished[0][0].file_ids)
    begun = ledger.files.listing("training", limit=1) or ledger.files.listing("trained", limit=1)
    return begun[0].name if begun else None


def _state(told: dict[str, str], running: bool) -> tuple[str, str, str | None]:
    word = told.get("word", "stopped")
    if running or word == "failed":
        return word, told.get("reason", ""), told.get("since")
    # Killed, or the power failed: then nobody could write down since when it does not run.
    since = told.get("since") if word == "stopped" else None
    return "stopped", "`nightschool run` starts it", since


def _described(layout: Layout, row: CheckpointRow) -> dict[str, Any]:
    path = layout.checkpoint(row.step).relative_to(layout.root)
    return {"step": row.step, "path": str(path), "written_at": row.written_at}


def _last_snapshot(layout: Layout, told: dict[str, Any]) -> dict[str, Any] | None:
    last = told.get("last_snapshot")
    if last and (layout.root / last["path"] / durable.MANIFEST).exists():
        return last
    # None was taken yet, or somebody removed that one: only then are the manifests worth the time.
    if not any(layout.snapshots.glob(f"[!.]*/{durable.MANIFEST}")):
        return None
    from nightschool.snapshots import states, take

    found = states.snapshots(layout.snapshots)
    return take.described(layout, found[-1]) if found else None


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
