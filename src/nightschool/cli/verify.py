"""`nightschool verify`: is it working?"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

from nightschool.cli.common import Json, count, layout_of, local_time, print_json, print_row
from nightschool.errors import StorageError, VerifyError
from nightschool.snapshots import verified
from nightschool.verify import BoundaryReport, Report, report
from nightschool.words import in_bytes
from nightschool.workspace import Layout

CHECKPOINT_WIDTHS = (18, -10, -10, 0)
SNAPSHOT_WIDTHS = (22, -9, 0)
BOUNDARY_WIDTHS = (-9, 28, 28, -8, -8, 0)


def verify(
    ctx: typer.Context,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Train again from the second-newest checkpoint to the newest; compare the bits."),
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of the snapshots and of the archive too.")
    ] = False,
    json: Json = False,
) -> None:
    """Prove that it works: checkpoints and snapshots whole and belonging, state carried over at every file, resumes.

    Reads every byte of every checkpoint; of snapshots the sizes, and every byte with --deep. Ends with code 10 if
    anything is not as it should be. With --replay the training between the two newest checkpoints is done once more,
    in memory; the workspace is not touched.
    """
    layout, began = layout_of(ctx), datetime.now(UTC)
    found = report(layout, replay=replay, deep=deep)
    _note(layout, found, began)
    if json:
        print_json(found.to_dict())
    else:
        _print(found)
    if not found.good:
        raise VerifyError(f"verify found {count(len(found.problems) or 1, 'problem')}; see above.")


def _note(layout: Layout, found: Report, began: datetime) -> None:
    """Let the page show when each state was read last. That it was read counts, whether or not it can be noted."""
    read = {layout.current_model / one.name: one.problem for one in found.checkpoints}
    read |= {layout.snapshots / one.name: one.problem for one in found.snapshots if one.deep}
    with suppress(StorageError):
        verified.record(layout, read, began)


def _print(found: Report) -> None:
    print(f"Step {found.step:,}" + (f", lineage {found.lineage[:16]}" if found.lineage else ""))
    print("\nCheckpoints")
    if not found.checkpoints:
        print("  none yet")
    for one in found.checkpoints:
        sizes = (f"{in_bytes(one.weights_bytes)}", f"{in_bytes(one.optimizer_bytes)}")
        print_row((f"  {one.name}", *sizes, one.problem or "whole, belongs"), CHECKPOINT_WIDTHS)
    if found.checkpoints:
        print("  (sizes: weights, optimizer)")
    if found.snapshots:
        print("\nSnapshots" + ("" if found.snapshots[0].deep else " (sizes only; --deep reads every byte)"))
    for one in found.snapshots:
        step = "" if one.step is None else f"{one.step:,}"
        print_row((f"  {one.name}", step, one.problem or one.note), SNAPSHOT_WIDTHS)
    if found.archive_files is not None:
        print(f"\nArchive\n  {count(found.archive_files, 'file')} read and compared with what was dropped")
    print("\nFrom file to file")
    if not found.boundaries:
        print("  no boundary yet: fewer than two files were begun")
    else:
        print_row(("STEP", "FROM", "TO", "LOSS", "LOSS", "STATE"), BOUNDARY_WIDTHS)
    for one in found.boundaries:
        losses = [f"{loss:.3f}" if loss is not None else "" for loss in (one.loss_before, one.loss_after)]
        print_row((f"{one.step:,}", one.before, one.after, *losses, _carried(one)), BOUNDARY_WIDTHS)
    print("\nResumes")
    if not found.resumes:
        print("  none: it has never been stopped after its first checkpoint")
    for one in found.resumes:
        print(f"  {local_time(one['at'])}  from checkpoint-{one['step']}, loaded state equal to the saved")
    if found.lost_steps:
        print(f"\n{count(found.lost_steps, 'step')} without a loss: lost with the old ledger, before it was made again")
    if found.numerics:
        print("\nChanges of the numerics (from there on equal to rounding, not to the last bit)")
        for one in found.numerics:
            print(f"  {local_time(one['at'])}  step {one['step']:,}: {'; '.join(one['changes'])}")
    if found.replay is not None:
        _print_replay(found.replay)
    print()
    for problem in found.problems:
        print(f"PROBLEM: {problem}")
    if found.good:
        print("All is as it should be.")


def _carried(one: BoundaryReport) -> str:
    if one.note:
        return one.note
    return {True: "carried over, equal bits", False: "NOT CARRIED OVER", None: "not checked"}[one.carried]


def _print_replay(replay: dict[str, object]) -> None:
    print(f"\nReplay from step {replay['from']} to step {replay['to']}")
    if replay["equal"]:
        print("  weights and optimizer equal, to the last bit")
        return
    for part in ("weights", "optimizer"):
        print(f"  {part}: {'equal' if replay[part] else 'DIFFERENT'}")
    changes = replay["numerics"]
    if isinstance(changes, list) and changes:
        print(f"  the numerics changed since, so equal bits cannot be expected: {'; '.join(changes)}")
