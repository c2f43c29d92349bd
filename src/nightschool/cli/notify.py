"""`nightschool notify`: who is told what happens, and whether messages arrive there."""

from __future__ import annotations

from typing import Annotated

import typer

from nightschool.cli.common import Json, layout_of, print_json
from nightschool.words import escape

PATIENCE = 30.0


def notify(
    ctx: typer.Context,
    test: Annotated[bool, typer.Option("--test", help="Send a message to each address now.")] = False,
    json: Json = False,
) -> None:
    """Show where messages go, without the secrets in the addresses, and how many have not arrived yet.

    With --test a message is sent to each address now, and it is said for each whether it arrived and why not. Ends
    with exit code 1 if it did not arrive everywhere, and with 3 if no address is set.
    """
    from nightschool.errors import SettingsError
    from nightschool.ledger import Ledger
    from nightschool.settings import load_settings
    from nightschool.telling import teller
    from nightschool.telling.targets import targets_of

    layout = layout_of(ctx)
    settings = load_settings(layout.settings_file).notify
    targets = targets_of(settings)
    if not targets:
        raise SettingsError(
            f"Nobody is told: no address is set in {layout.settings_file}. Set notify.webhook to an http address, or "
            'notify.urls to addresses of apprise, such as urls = ["mailto://user:password@example.com"].'
        )
    if test:
        whys = teller.trial(targets, teller.sample(layout), PATIENCE)
        if json:
            pairs = zip(targets, whys, strict=True)
            print_json([{"target": one.name, "arrived": why is None, "why": why} for one, why in pairs])
        else:
            for target, why in zip(targets, whys, strict=True):
                print(f"{escape(target.name)}: {'arrived' if why is None else f'did not arrive. {escape(why)}'}")
        if any(whys):
            raise typer.Exit(1)
        return
    with Ledger.open(layout.ledger) as ledger:
        waiting = teller.waiting(ledger)
    if json:
        found = [{"target": target.name, "waiting": waiting.get(target.key, 0)} for target in targets]
        print_json({"targets": found, "on": settings.on, "morning": settings.morning})
        return
    for target in targets:
        number = waiting.get(target.key, 0)
        left = f"  {number} message{'' if number == 1 else 's'} not arrived yet" if number else ""
        print(f"{escape(target.name)}{left}")
    print(f"What is told: {', '.join(settings.on) or 'nothing'}. The summary of the night comes at {settings.morning}.")
    print("To try it: nightschool notify --test")
