"""`nightschool log`: what the machine has said."""

from __future__ import annotations

import json as json_module
import time
from typing import Annotated

import typer

from nightschool.cli.common import Json, layout_of
from nightschool.workspace import Layout

POLL_SECONDS = 0.2


def log(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, metavar="N", help="So many of the last lines.")] = 20,
    json: Json = False,
) -> None:
    """Show the last lines of training_output.log.

    With --json: one object per line, {"at", "text"}; the time is local.
    """
    from nightschool import logs

    layout = layout_of(ctx)
    tail = logs.Tail(layout.log_file) if follow else None
    for line in _last(layout, lines):
        _show(line, json)
    if tail is None:
        return
    try:
        while True:
            for line in tail.lines():
                _show(line, json)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        tail.close()


def _last(layout: Layout, count: int) -> list[str]:
    """The last lines, also from rotated logs where the newest has too few."""
    from nightschool import logs

    found = logs.last_lines(layout.log_file, count)
    number = 1
    while len(found) < count and logs.rotated(layout.log_file, number).exists():
        found = logs.last_lines(logs.rotated(layout.log_file, number), count - len(found)) + found
        number += 1
    return found


def _show(line: str, json: bool) -> None:
    if json:
        at, _, text = line.partition("  ")
        line = json_module.dumps({"at": at, "text": text}, ensure_ascii=False)
    print(line, flush=True)
