"""`nightschool status`: what the machine is doing."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool.cli.common import Json, count, layout_of, local_time, print_json, print_row
from nightschool.status import Status, read_status
from nightschool.words import duration, in_bytes


def status(
    ctx: typer.Context,
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Go on showing it until Ctrl-C, also while no machine runs.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what the machine is doing.

    With --json: state, step, lineage, current_file, queued, learned, rejected, loss, learning_rate,
    tokens_per_second, last_checkpoint, last_snapshot, and more. These names are stable. With --watch it is one object
    per line, a new one as something changes.
    """
    layout = layout_of(ctx)
    layout.require()
    if watch:
        from nightschool.view.watching import watch as go_on

        go_on(layout, json)
        return
    found = read_status(layout)
    if json:
        print_json(found.to_dict())
        return
    for label, text in _lines(found):
        print_row((label, text), (11, 0))


def _lines(found: Status) -> list[tuple[str, str]]:
    state = f"{found.state}: {found.reason}" if found.reason else found.state
    if found.paused and found.pid is None:
        state += " (and `nightschool resume` ends the pause)"
    since = f" (since {local_time(found.since)})" if found.since else ""
    files = [f"{found.queued:,} waiting", f"{found.learned:,} learned"]
    for number, word in ((found.rejected, "rejected"), (found.duplicates, "duplicate"), (found.set_aside, "set aside")):
        if number:
            files.append(f"{number:,} {word}")
    lines = [("state", state + since), ("files", ", ".join(files)), ("step", f"{found.step:,}")]
    if found.steps_queued:
        time = "" if found.seconds_left is None else f", about {duration(found.seconds_left)} of training in all"
        lines.append(("queue", f"about {count(found.steps_queued, 'step')}{time}"))
    if found.current_file:
        lines.insert(1, ("learning", found.current_file))
    if found.loss is not None:
        lines.append(("loss", f"{found.loss:.4f}"))
    if found.learning_rate is not None:
        lines.append(("rate", f"{found.learning_rate:.3g}"))
    if found.tokens_per_second is not None:
        lines.append(("speed", f"{count(round(found.tokens_per_second), 'token')} per second"))
    saved = found.last_checkpoint
    text = f"{saved['path']}, {local_time(saved['written_at'])}" if saved else "none yet"
    lines.append(("checkpoint", text))
    if found.settings_problem:
        lines.append(("settings", found.settings_problem))
    if found.catching_up is not None:
        lines.append(("in use", f"the model from before a file was forgotten, until step {found.catching_up:,}"))
    kept = found.last_snapshot
    if kept:
        lines.append(("snapshot", f"{kept['path']} (step {kept['step']:,}), {local_time(kept['taken_at'])}"))
    if found.page:
        lines.append(("page", found.page))
    if found.metrics:
        lines.append(("metrics", found.metrics))
    if found.prepared_bytes:
        lines.append(("prepared", f"{in_bytes(found.prepared_bytes)} of tokenised data"))
    if found.lineage:
        lines.append(("lineage", found.lineage[:16]))
    return lines
