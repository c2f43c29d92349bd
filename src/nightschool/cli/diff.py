"""`nightschool diff`: what lies between two points."""

from __future__ import annotations

import json as jsons
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightschool.cli.common import Json, count, print_json, print_row, workspace_of
from nightschool.words import escape, in_bytes

if TYPE_CHECKING:
    from nightschool.snapshots.compare import Difference, Side

WIDTHS = (-9, -9, -8, -10, 0)
SHOWN = 50


def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="A step, checkpoint-N, a snapshot's date or name, latest, ...")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other; default: the newest checkpoint.")] = "current",
    json: Json = False,
) -> None:
    """Say what lies between two points: checkpoints, snapshots, or states that were undone.

    How far their histories are the same, which files only one of them has learned, and what differs in settings,
    numerics, loss and size. The weights themselves are not compared.
    """
    found = workspace_of(ctx).diff(a, b)
    if json:
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Difference) -> None:
    print(escape(found.words()))
    for letter, side in (("A", found.a), ("B", found.b)):
        loss = f", loss {side.loss:.3f} at its end" if side.loss is not None else ""
        size = in_bytes(side.bytes)
        print(f"{letter}  {escape(side.name)}: step {side.step:,}, generation {side.generation}, {size}{loss}")
        print(f"   lineage {side.lineage}")
    if found.common:
        print(f"The first {count(found.common, 'step')} are the same.")
    _only("A", found.a)
    _only("B", found.b)
    for what, differing in (
        ("Settings of the files that only one has", found.settings),
        ("What is fixed for a run", found.root),
        ("Numerics", found.numerics),
    ):
        if differing:
            print(f"\n{what}")
            for key, (one, other) in differing.items():
                print(escape(f"  {key}: {_value(one)} in A, {_value(other)} in B"))


def _only(letter: str, side: Side) -> None:
    if side.only:
        print(f"\nOnly in {letter}")
        print_row(("FROM", "TO", "OF", "ROWS", "FILE"), WIDTHS)
        for one in side.only[:SHOWN]:
            rows = "" if one.rows is None else f"{one.rows:,}"
            print_row((f"{one.first:,}", f"{one.last:,}", f"{one.of:,}", rows, one.name), WIDTHS)
        if len(side.only) > SHOWN:
            print(f"  and {len(side.only) - SHOWN:,} more files; --json lists all")
    for text in side.numerics:
        print(escape(f"Only in {letter}, the numerics changed at {text}"))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(_value(one) for one in value) if value else "none"
    text = value if isinstance(value, str) else jsons.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 100 else f"{text[:97]}..."
