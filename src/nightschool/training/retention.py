"""When to save and which checkpoints to keep: pure policies that say why."""

from __future__ import annotations

from collections.abc import Sequence

YOUNG_SECONDS = 60.0


def save_due(
    *,
    done: int,
    saved: int,
    seconds_since_save: float,
    save_steps: int,
    save_minutes: float,
    file_ended: bool,
    more_waits: bool,
) -> str | None:
    """Why a checkpoint is due after `done` steps, or None.

    `saved` is the step of the last save. At a file's end the save is left out only while the last one is younger than
    a minute and more work waits: ten thousand small files are not ten thousand saves.
    """
    if done == saved:
        return None
    if done % save_steps == 0:
        return f"every {save_steps} steps"
    if seconds_since_save >= save_minutes * 60:
        return f"every {save_minutes:g} minutes"
    if file_ended and not (more_waits and seconds_since_save < YOUNG_SECONDS):
        return "the end of a file"
    return None


def retire(steps: Sequence[int], limit: int, entry_began: int) -> dict[int, str]:
    """The checkpoints to remove, each with the reason.

    Kept are the newest `limit`, and the newest at or before `entry_began` (the number of steps done when the file in
    progress began): setting that file aside goes back there.

    Args:
        steps: steps of the whole checkpoints that belong to the run, in any order.
        limit: how many to keep.
        entry_began: steps done before the file in progress.
    """
    ordered = sorted(steps)
    keep = set(ordered[-limit:])
    before = [step for step in ordered if step <= entry_began]
    keep.update(before[-1:])
    return {step: f"older than the newest {limit}" for step in ordered if step not in keep}
