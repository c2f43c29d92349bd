"""`nightschool dashboard`: the page, also while no machine runs."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool.cli.common import layout_of
from nightschool.errors import SettingsError
from nightschool.status import read_status


def dashboard(
    ctx: typer.Context,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on, instead of page.host.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on, instead of page.port.")] = None,
) -> None:
    """Serve the page in the browser until Ctrl-C, also while no machine runs.

    `nightschool run` does so by itself: where the page is there already, its address is said, and that is all.
    """
    layout = layout_of(ctx)
    layout.require()
    if there := read_status(layout).page:
        print(f"The page is at {there} already.")
        return
    from nightschool import logs
    from nightschool.dashboard.serving import serve
    from nightschool.settings import load_settings

    settings = load_settings(layout.settings_file)
    page = settings.page.at(host, port)
    if not page.port:
        raise SettingsError("page.port is 0, so there is no page. Name a port: nightschool dashboard --port 8420.")
    # What goes wrong inside is told there, as the page says to whoever it fails.
    logs.setup(layout, settings, "page")
    serve(layout, page, say=lambda line: print(line, flush=True))
