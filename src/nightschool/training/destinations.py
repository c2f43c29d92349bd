"""The experiment trackers, opened through Accelerate's classes so that the run of an earlier process goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool.training.cursor import Cursor
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PURGES = frozenset({"tensorboard"})
"""Trackers that can be told that steps were taken back. The others get a new run, with the curve from its beginning."""
TEXTLESS = frozenset({"mlflow"})
"""Trackers that take numbers only."""

_EVENTS = re.compile(r"(events\.out\.tfevents\.)(\d{10})(\..*)")


def fresh(layout: Layout) -> Cursor:
    """The cursor of a tracker that has been told nothing."""
    return Cursor(f"{plain(layout.root.name)}-{os.urandom(4).hex()}")


def plain(name: str) -> str:
    """A name with nothing in it that a tracker or a path could take for something else."""
    return re.sub(r"[^\w-]+", "-", name, flags=re.ASCII).strip("-") or "run"


def open_tracker(name: str, layout: Layout, project: str, cursor: Cursor) -> tuple[GeneralTracker, Cursor]:
    """Open a tracker of Accelerate's at the cursor; with it the cursor that has the id which the run got.

    Raises:
        Exception: whatever the tracker's library raises, where its server cannot be reached for instance.
    """
    from accelerate import PartialState

    PartialState()  # some of Accelerate's classes do without it until they are opened
    tracker: Any = _OPEN[name](layout, project, cursor)
    tracker.start()
    id = tracker.tracker.info.run_id if name == "mlflow" else cursor.title
    return tracker, replace(cursor, id=str(id))


def leave(name: str) -> None:
    """To be called before the process ends: W&B has one of its own, which may not have written everything yet."""
    if name == "wandb":
        import_module("wandb").teardown()


def _tensorboard(layout: Layout, project: str, cursor: Cursor) -> GeneralTracker:
    from accelerate.tracking import TensorBoardTracker

    in_order(layout.runs / plain(project), time.time())
    # What a killed process has written behind the cursor counts as not written.
    return TensorBoardTracker(plain(project), layout.runs, purge_step=cursor.step + 1)


def in_order(folder: Path, now: float) -> None:
    """Make event files whose names are not older than `now` (seconds) older: TensorBoard reads them by their names.

    That happens when the clock was set back, or within one second. A reader that took a new file for an older one
    would not see what was taken back.
    """
    latest = int(now) - 1
    for path in sorted(folder.glob("events.out.tfevents.*"), reverse=True) if folder.is_dir() else ():
        found = _EVENTS.fullmatch(path.name)
        if found is None:
            continue
        if int(found[2]) <= latest:
            return
        path.rename(path.with_name(f"{found[1]}{latest:010d}{found[3]}"))
        latest -= 1


def _wandb(layout: Layout, project: str, cursor: Cursor) -> GeneralTracker:
    from accelerate.tracking import WandBTracker

    layout.runs.mkdir(exist_ok=True)
    # What this process prints is in its own file; W&B need not have it.
    return WandBTracker(
        project, id=cursor.title, name=cursor.title, resume="allow", reinit="finish_previous", dir=str(layout.runs),
        settings={"console": "off"},
    )  # fmt: skip


def _mlflow(layout: Layout, project: str, cursor: Cursor) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        layout.runs.mkdir(exist_ok=True)
        import_module("mlflow").set_tracking_uri(f"sqlite:///{layout.runs / 'mlflow.db'}")
    return MLflowTracker(project, run_id=cursor.id, run_name=None if cursor.id else cursor.title)


def _trackio(layout: Layout, project: str, cursor: Cursor) -> GeneralTracker:
    # It asks for this when it is imported. Its own default is in the user's home, which a service may not write to.
    os.environ.setdefault("TRACKIO_DIR", str(layout.runs / "trackio"))
    from accelerate.tracking import TrackioTracker

    return TrackioTracker(project, name=cursor.title, resume="allow", auto_log_gpu=False, auto_log_cpu=False)


_OPEN: dict[str, Callable[[Layout, str, Cursor], GeneralTracker]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio,
}  # fmt: skip
