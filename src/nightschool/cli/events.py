"""`nightschool events`: what happened, numbered, for people and programs."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from nightschool.cli.common import Json, layout_of, local_time, plain, print_row
from nightschool.ledger import EventRow, Ledger

POLL_SECONDS = 0.5


def events(
    ctx: typer.Context,
    since: Annotated[int | None, typer.Option("--since", min=0, metavar="N", help="All events after number N.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only events of this kind.")] = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=10_000, metavar="N", help="Without --since: so many of the last.")
    ] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new events until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show what happened: number, time, kind and what it was.

    With --json: one object per line, {"number", "at", "kind", "text", "fields"}; the time is UTC. These names are
    stable, numbers only grow, and docs/watching.md lists the kinds.
    """
    layout = layout_of(ctx)
    layout.require()
    try:
        with Ledger.open(layout.ledger) as ledger:
            last = since or 0
            if since is None:
                last = max((event.id for event in ledger.events.latest(1)), default=0)
                for event in _last(ledger, kind, lines):
                    _show(event, json)
                    last = max(last, event.id)
            while True:
                for event in _after(ledger, last, kind):
                    _show(event, json)
                    last = event.id
                if not follow:
                    return
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return


def _last(ledger: Ledger, kind: str | None, count: int) -> list[EventRow]:
    if count == 0:
        return []
    return ledger.events.of_kind(kind, count) if kind else ledger.events.latest(count)


def _after(ledger: Ledger, last: int, kind: str | None) -> Iterator[EventRow]:
    """Page by page: nothing is printed while the ledger is read."""
    while page := ledger.events.since(last, kind=kind):
        yield from page
        last = page[-1].id


def _show(event: EventRow, json: bool) -> None:
    if not json:
        print_row((event.id, local_time(event.at), event.kind, event.text), (-6, 19, 18, 0))
        sys.stdout.flush()
        return
    told = {"number": event.id, "at": event.at, "kind": event.kind, "text": event.text, "fields": event.fields}
    print(json_module.dumps(plain(told), ensure_ascii=False), flush=True)
