"""`nightschool service`: keep the machine running, as a service of systemd."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from nightschool.cli.common import Json, confirm, layout_of, print_json
from nightschool.words import duration, escape

if TYPE_CHECKING:
    from nightschool.service.manager import Seen, Unit
    from nightschool.service.unit import Scope


class Verb(str, Enum):  # noqa: UP042 - as in init.py
    """What to do with the service."""

    install = "install"
    status = "status"
    uninstall = "uninstall"


def service(
    ctx: typer.Context,
    verb: Annotated[Verb, typer.Argument(help="What to do with it.")],
    of: Annotated[
        bool | None,
        typer.Option(
            "--user/--system",
            help="A service of your own, or of the machine, which only root installs. Default: of the machine for "
            "root, your own for others; for status and uninstall, the one that is there.",
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="With install: start it at once as well.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the unit, or say what would be removed; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With uninstall: do not ask.")] = False,
    json: Json = False,
) -> None:
    """Have systemd keep `nightschool run` going for this workspace, from boot on.

    install writes a hardened unit, in which every line is explained, and has it started by itself. Each workspace has
    its own. Installing again writes it anew, after the workspace or Python has moved, say. uninstall stops it, which
    saves, and removes the unit; the workspace stays as it is. status ends with exit code 1 where none is installed.

    Where there is no systemd, install says so, prints the unit, and ends with exit code 1. Nothing is written then.
    """
    from nightschool.service import manager
    from nightschool.settings import load_settings

    if now and verb is not Verb.install:
        raise typer.BadParameter("--now goes with install.")
    if yes and verb is not Verb.uninstall:
        raise typer.BadParameter("--yes goes with uninstall.")
    layout = layout_of(ctx)
    settings = load_settings(layout.settings_file)
    scope: Scope | None = None if of is None else "user" if of else "system"
    if verb is Verb.install:
        from nightschool.durable import holder

        pid = holder(layout.supervisor_lock)
        _install(manager.plan(layout, settings, scope or manager.default_scope()), pid, now, dry_run, json)
        return
    units = [manager.plan(layout, settings, scope)] if scope else manager.installed(layout, settings)
    if verb is Verb.status:
        _status(units or [manager.plan(layout, settings, manager.default_scope())], json)
    else:
        _uninstall([found for found in units if found.path.exists()], dry_run, yes, json)


def _install(wanted: Unit, pid: int | None, now: bool, dry_run: bool, json: bool) -> None:
    from nightschool.service import manager

    if dry_run:
        if json:
            print_json({"name": wanted.name, "path": wanted.path, "text": wanted.text})
        else:
            print(f"# It would be {escape(wanted.path)}\n{wanted.text}", end="")
        return
    try:
        done = manager.install(wanted, now=now, holder=pid)
    except manager.NoSystemd as refused:
        print(f"nightschool: {refused} Nothing was written. This is the unit:", file=sys.stderr)
        print(wanted.text, end="")
        raise typer.Exit(1) from None
    linger = manager.lingers() if wanted.scope == "user" else None
    if json:
        print_json({"name": wanted.name, "path": wanted.path, "done": done, "linger": linger})
        return
    for line in done:
        print(escape(line))
    flag = " --user" if wanted.scope == "user" else ""
    if not now:
        print(f"To start it now: systemctl{flag} start {wanted.name}")
    if linger is False:
        print("It ends when you log out, and does not start before you log in, until you say: loginctl enable-linger")
    print(f"What it writes: journalctl{flag} -u {wanted.name}, or nightschool log")


def _status(units: list[Unit], json: bool) -> None:
    from nightschool.service import manager

    seen = [manager.look(found) for found in units]
    if json:
        print_json([one.to_dict() for one in seen])
    else:
        for one in seen:
            _print(one)
    if not any(one.installed for one in seen):
        raise typer.Exit(1)


def _print(seen: Seen) -> None:
    if not seen.installed:
        print("No service is installed: `nightschool service install` installs one.")
    else:
        print(f"{seen.name}, a service of {'this user' if seen.scope == 'user' else 'the machine'}")
        print(f"  unit     {escape(seen.path)}")
        if not seen.current:
            print("  current  no: it is not what would be written today; `nightschool service install` writes it anew")
    if seen.why_not:
        print(f"  systemd  {escape(seen.why_not)}")
    elif seen.installed:
        told = seen.details
        restarts = told.get("NRestarts", "0")
        print(f"  enabled  {'yes' if seen.enabled else 'no: it is not started by itself'}")
        print(f"  state    {seen.active} ({told.get('SubState', '')}), started again {restarts} times by systemd")
        if told.get("MainPID", "0") != "0":
            print(f"  process  {told['MainPID']}")
        if told.get("StatusText"):
            print(f"  it says  {escape(told['StatusText'])}")
        if seen.linger is False:
            print("  linger   no: it runs only while you are logged in; `loginctl enable-linger` changes that")


def _uninstall(units: list[Unit], dry_run: bool, yes: bool, json: bool) -> None:
    from nightschool.service import manager
    from nightschool.service.unit import STOP_SECONDS

    if not units and not json:
        print("No service is installed: there is nothing to remove.")
    if not json:
        for found in units:
            print(f"{'Would stop' if dry_run else 'To stop'}, disable and remove: {escape(found.path)}")
    done: list[str] = []
    if units and not dry_run:
        if not json:
            print(f"If it runs, it saves first, which may take up to {duration(STOP_SECONDS)}.")
        confirm("Remove it?", yes)
        for found in units:
            done += manager.uninstall(found)
    if json:
        print_json({"found": [found.path for found in units], "done": done})
    else:
        for line in done:
            print(escape(line))
        if done:
            print("The workspace is as it was.")
