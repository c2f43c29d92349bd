"""`python -m nightschool.dashboard --workspace DIR --lifeline FD`: the page as a process.

Ends when its supervisor does (the lifeline, a pipe, is closed), or on SIGTERM, with exit code 0. Ctrl-C at a terminal
reaches the supervisor, which ends its children itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from nightschool import inforce, logs
from nightschool.dashboard.serving import serve
from nightschool.errors import NightschoolError
from nightschool.settings import load_settings
from nightschool.workspace import Layout

NICENESS = 5

log = logging.getLogger("nightschool.page")


def main(arguments: list[str] | None = None) -> int:
    """Serve the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nightschool.dashboard", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="the workspace folder")
    parser.add_argument("--lifeline", type=int, help="descriptor of a pipe; its end is the page's")
    parser.add_argument("--host", help="address to listen on, instead of page.host")
    parser.add_argument("--port", type=int, help="port to listen on, instead of page.port; 0: any that is free")
    options = parser.parse_args(arguments)
    layout = Layout(options.workspace.resolve())
    supervised = options.lifeline is not None
    if supervised:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before any Hugging Face library is imported, should a preview need one: nothing is fetched.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        layout.require()
        settings = inforce.read(layout) if supervised else load_settings(layout.settings_file)
        logs.setup(layout, settings, "page")
        page = settings.page.at(options.host, options.port)
        if settings.page.port == 0 and options.port is None:
            log.info("No page is served: page.port is 0.")
            return 0
        # The trainer comes first.
        os.nice(NICENESS)
        serve(layout, page, options.lifeline)
    except NightschoolError as error:
        log.error("%s", error)
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    logs.leave(main())
