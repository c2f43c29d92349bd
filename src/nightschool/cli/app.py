"""All commands under one name, and the options that go before them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

COMMANDS = (
    "init",
    "run",
    "add",
    "status",
    "queue",
    "preview",
    "files",
    "log",
    "events",
    "dashboard",
    "checkpoints",
    "snapshot",
    "snapshots",
    "rollback",
    "forget",
    "restore",
    "pause",
    "resume",
    "skip",
    "stop",
    "verify",
    "lineage",
    "diff",
    "export",
    "settings",
    "service",
    "notify",
    "doctor",
    "demo",
)
"""Each is the function of that name in the module of that name; help shows them in this order."""

# Plain text: the same in a terminal, in a pipe and in the docs, and rich costs `status` a tenth of a second.
PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(TyperGroup):
    """Imports a command's module when the command is asked for: `status` must not wait for what `verify` needs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        del ctx
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Which command is meant; for a name that is none, the error suggests one that is near."""
        if args and args[0] not in COMMANDS:
            self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        app = typer.Typer(**PLAIN)
        function = getattr(importlib.import_module(f"nightschool.cli.{cmd_name}"), cmd_name)
        app.command(cmd_name, context_settings=CONTEXT)(function)
        return typer.main.get_command(app)


def build_app() -> typer.Typer:
    """The program."""
    app = typer.Typer(name="nightschool", cls=Commands, no_args_is_help=True, context_settings=CONTEXT, **PLAIN)
    app.callback()(nightschool)
    return app


def _version(asked: bool) -> None:
    if asked:
        from nightschool import __version__

        print(f"nightschool {__version__}")
        raise typer.Exit


def nightschool(
    ctx: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Option("-C", metavar="DIR", help="Work on the workspace in DIR; default: the one you are in."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A machine that keeps teaching one language model, file after file, as one continuous run."""
    del version
    ctx.obj = directory
