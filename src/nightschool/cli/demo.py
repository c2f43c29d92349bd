"""`nightschool demo`: the main job on real text, with nothing downloaded."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from nightschool.errors import VerifyError


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to work; an earlier demo is replaced.")] = Path(
        "demo"
    ),
) -> None:
    """Train a small model on three files, kill the machine in the middle, go on, and compare the bits.

    Makes a byte-level base model on the spot, drops three files of Python's own documentation, kills everything with
    SIGKILL while the second is being learned, goes on, and shows the loss across all files beside a run that was
    never disturbed. Takes about two minutes on two cores.
    """
    from nightschool.demo.plot import loss_curve
    from nightschool.demo.story import tell

    story = tell(folder, lambda line: print(line, flush=True))
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    print()
    print(loss_curve(story.losses, story.boundaries, story.killed_at, width, 20, sys.stdout.isatty()))
    ends = [*story.boundaries, len(story.losses)]
    for name, begin, end in zip(story.files, [0, *story.boundaries], ends, strict=True):
        print(f"  {name}: steps {begin + 1} to {end}")
    print(f"  │ marks the passages from file to file, X the kill in step {story.killed_at}")
    window = min(20, len(story.losses))
    first, last = (sum(part) / window for part in (story.losses[:window], story.losses[-window:]))
    print(f"  loss: {first:.2f} over the first {window} steps, {last:.2f} over the last {window}")
    print()
    if not story.equal:
        raise VerifyError(f"The weights are NOT those of the undisturbed run: {'; '.join(story.differences)}.")
    print("The adapter and the optimizer equal those of the undisturbed run, bit for bit.")
    print(f"({story.seconds:.0f} s.) The workspace is {story.workspace}; look around in it:")
    for command in ("dashboard", "status", "files", "verify --replay", "log"):
        print(f"  nightschool -C {story.workspace} {command}")
