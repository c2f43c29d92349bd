"""`nightschool settings`: what is set, where it comes from, and when a change takes effect."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nightschool.cli.common import Json, print_json, print_row, workspace_of
from nightschool.words import escape

WIDTHS = (32, 26, 16, 10, 0)


def settings(
    ctx: typer.Context,
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Let the file in training go on with what the file says now, as far as that can be."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """List every setting with its value, where that comes from, and when a change takes effect.

    While the machine runs it looks at nightschool.toml, and takes a change a second or two after it was written. `now`:
    at once. `next file`: a file is read and learned by the settings of when it begins. `new run`: fixed once training
    has begun; `nightschool init NEW --from OLD` makes a new run of the same files. A file with a mistake in it changes
    nothing. IN FORCE is what the running machine, or the file in training, goes by where that is something else.

    With --now the learning rate, its schedule, weight decay, the optimizer's betas and epsilon, and the clipping of
    gradients count from the next step of the file in training on; what decides its steps does not.
    """
    workspace = workspace_of(ctx)
    if now:
        print(escape(workspace.settings_now()))
        return
    from nightschool.settings import WHEN
    from nightschool.settings.changes import masked, shown
    from nightschool.standing import standing

    found = standing(workspace.layout)
    if json:
        print_json([_plain(one) for one in found.settings])
        return
    if found.problem:
        print(f"{escape(found.problem)}\n")
    print_row(("SETTING", "VALUE", "FROM", "A CHANGE", "IN FORCE"), WIDTHS)
    for one in found.settings:
        force = "" if not one.differs else f"{shown(masked(one.name, one.in_force))} ({one.by})"
        print_row((one.name, shown(masked(one.name, one.value)), one.source, WHEN[one.kind], force), WIDTHS)


def _plain(one: Any) -> dict[str, Any]:
    from nightschool.settings import WHEN
    from nightschool.settings.changes import masked

    value, in_force = masked(one.name, one.value), masked(one.name, one.in_force)
    return {
        "name": one.name, "value": value, "default": one.default, "class": one.kind, "takes_effect": WHEN[one.kind],
        "source": one.source, "in_force": in_force, "in_force_by": one.by if one.differs else None,
        "meaning": one.meaning,
    }  # fmt: skip
