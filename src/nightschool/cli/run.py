"""`nightschool run`: the machine itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from nightschool.cli.common import layout_of


def run(
    ctx: typer.Context,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop, with a checkpoint, when nothing is left to learn.")
    ] = False,
    ignore_hours: Annotated[
        bool, typer.Option("--ignore-hours", help="Train now, also outside machine.hours.")
    ] = False,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Serve no page.")] = False,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address of the page, instead of page.host.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the page, instead of page.port.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show the lines of the log, also in a terminal, and no view.")
    ] = False,
) -> None:
    """Watch the inbox and train until told to stop.

    Ctrl-C, SIGTERM or `nightschool stop` save a checkpoint first; the next run goes on from there. A second Ctrl-C
    ends at once, and the next run goes on from the last checkpoint.

    A terminal shows what it does; where there is none, or with --plain, the log as it grows. A browser shows it at the
    address that is said at the start, http://127.0.0.1:8420 if that is free. An address that others can reach needs
    page.token in nightschool.toml.
    """
    from nightschool.settings import load_settings
    from nightschool.supervisor.run import default_commands
    from nightschool.supervisor.run import run as supervise
    from nightschool.supervisor.signals import StopSignals
    from nightschool.view.live import shown

    with StopSignals() as signals:
        layout = layout_of(ctx)
        settings = load_settings(layout.settings_file)
        commands = default_commands(layout)
        if no_dashboard:
            commands = replace(commands, page=())
        with shown(layout, plain) as view:
            code = supervise(
                layout, settings, until_idle, view.line, signals=signals, ignore_hours=ignore_hours, page=(host, port),
                commands=commands,
            )  # fmt: skip
    raise typer.Exit(code)
