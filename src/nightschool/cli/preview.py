"""`nightschool preview`: what the model would see of a file."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightschool.cli.add import columns_of
from nightschool.cli.common import Json, count, layout_of, print_json
from nightschool.errors import WorkspaceError
from nightschool.words import escape

if TYPE_CHECKING:
    from rich.console import Console

    from nightschool.intake.preview import Part, Preview
    from nightschool.settings import Settings

CHARACTERS = 700
"""Of each row shown, unless `--full`."""
PARTS = 4
"""Rows shown, unless `--full`."""
BARS = 40


def preview(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data file. It is read, and stays as it is.")],
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=THEIRS", help="The column OURS is called THEIRS there. May be repeated."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="Read only so many rows; 0: all.")] = 0,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Base model to look with; default: the workspace's.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show the first sequences whole.")] = False,
    json: Json = False,
    lifeline: Annotated[int | None, typer.Option("--lifeline", hidden=True)] = None,
) -> None:
    """Show what the model would see of a file: rows, tokens, steps, bad rows, and the first sequences.

    What is learned is green in a terminal and stands in ⟦ ⟧ elsewhere. Nothing is added, and no machine need run.
    """
    from nightschool import adding
    from nightschool.intake import sidecar

    if lifeline is not None:
        threading.Thread(target=_end_with, args=(lifeline,), name="lifeline", daemon=True).start()
    settings = _settings(ctx, model)
    # As `add` takes it: a link is followed, and its own name counts, which may say what the file is.
    path, name = adding.plain_file(file), file.name
    beside = file.with_name(name + sidecar.ENDING)
    options = sidecar.merged(
        sidecar.read(beside, name) if beside.is_file() else {}, {"columns": columns_of(columns or []) or {}}
    )
    with _progress(path) as between:
        found = _look(path, name, settings, options, rows or None, between)
    if json:
        print_json(found.to_dict())
        return
    _show(found, settings, full)


def _end_with(lifeline: int) -> None:
    """End this process, and what it started, when the page that asked for it has ended: it reads for nobody then.

    Nothing is ever written into the pipe: its end is that of whoever holds the other one, however it went.
    """
    while os.read(lifeline, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _settings(ctx: typer.Context, model: str | None) -> Settings:
    from nightschool.settings import load_settings, parse_settings

    try:
        found = load_settings(layout_of(ctx).settings_file)
    except WorkspaceError as error:
        if model is None:
            raise WorkspaceError(f"{error} Or name a base model to look with: --model NAME.") from None
        return parse_settings({"model": {"name": model}}, base=Path.cwd())
    if model is None:
        return found
    return found.model_copy(update={"model": found.model.model_copy(update={"name": model})})


def _look(
    path: Path,
    name: str,
    settings: Settings,
    options: dict[str, Any],
    rows: int | None,
    between: Callable[[int], None],
) -> Preview:
    from nightschool.intake.preview import preview as look
    from nightschool.intake.tools import Tools

    tools = Tools(settings)
    return look(
        path, name, tools, tools.recipe(time.strftime("%Y-%m-%d"), options),
        batch=settings.training.train_batch_size, epochs=options.get("epochs") or settings.training.epochs,
        most=rows, between=between,
    )  # fmt: skip


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while a terminal waits."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Reading"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=max(1, path.stat().st_size))
        yield lambda done: progress.update(task, completed=done)


def _show(found: Preview, settings: Settings, full: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    kind = ", ".join(part for part in (found.container, found.shape) if part) or "no data file"
    console.print(f"{escape(found.name)}: {kind}", style="bold", markup=False)
    if not found.complete:
        console.print(f"  Only the first {found.rows_good + found.rows_bad:,} rows were read (--rows).", markup=False)
    for label, text in _facts(found, settings):
        console.print(f"  {label:<9} {text}", markup=False)
    if found.lengths:
        console.print("\nRows by length in tokens", style="bold")
        most = max(rows for _, _, rows in found.lengths)
        for first, last, rows in found.lengths:
            bar = "█" * max(1, round(BARS * rows / most))
            console.print(f"  {f'{first:,} to {last:,}':>19}  {bar} {rows:,}", markup=False)
    if found.bad_rows:
        console.print("\nBad rows", style="bold")
        for bad in found.bad_rows[: None if full else 10]:
            console.print(f"  {bad['line']:>7,}  {escape(bad['reason'])}", markup=False)
        if found.rows_bad > 10 and not full:
            console.print(f"  and {found.rows_bad - 10:,} more", markup=False)
    _show_examples(console, found, full)
    for warning in found.warnings:
        console.print(f"\n! {escape(warning)}", style="yellow", markup=False)
    if found.problem:
        console.print(f"\nIt would be rejected: {escape(found.problem)}.", style="red", markup=False)


def _facts(found: Preview, settings: Settings) -> Iterator[tuple[str, str]]:
    held = f", {found.rows_held_out:,} of them held out of training" if found.rows_held_out else ""
    yield "rows", f"{found.rows_good:,} good{held}; {found.rows_bad:,} bad"
    if not found.sequences:
        return
    share = found.label_tokens / found.tokens
    yield "tokens", f"{found.tokens:,} in {count(found.sequences, 'sequence')} of up to {settings.data.max_length:,}"
    yield "learned", f"{found.label_tokens:,} of the tokens ({share:.0%})"
    yield "steps", f"{found.steps:,}, of {settings.training.train_batch_size} sequences"
    if found.rows_truncated:
        yield "cut", f"{count(found.rows_truncated, 'row')}, {found.tokens_cut:,} tokens left out"
    if found.rows_split:
        yield "split", count(found.rows_split, "row")
    for repair, rows in found.repairs.items():
        yield "repaired", f"{escape(repair)} in {count(rows, 'row')}"


def _show_examples(console: Console, found: Preview, full: bool) -> None:
    from rich.text import Text

    left = None if full else PARTS
    for number, sequence in enumerate(found.examples, 1):
        if left == 0:
            return
        title = f"Sequence {number}: {sum(part.tokens for part in sequence):,} tokens, {count(len(sequence), 'row')}"
        console.print(f"\n{title}", style="bold", markup=False)
        for part in sequence[:left]:
            learned = f"{part.learned:,} of {part.tokens:,} tokens learned"
            console.print(f"  ── row {part.row:,}: {learned} ──", style="cyan", markup=False)
            text = Text()
            for piece, shown in _cut(part, None if full else CHARACTERS):
                plain = piece if console.is_terminal or not shown else f"⟦{piece}⟧"
                text.append(plain, "green" if shown else "dim")
            console.print(text)
        if left is not None:
            rest = len(sequence) - left
            if rest > 0:
                console.print(f"  and {count(rest, 'more row')} in it (--full shows all)", markup=False)
            left = max(0, left - len(sequence))


def _cut(part: Part, most: int | None) -> Iterator[tuple[str, bool]]:
    """The pieces of a row as safe text, up to so many characters."""
    left = most
    for piece in part.pieces:
        text = "\n".join(escape(line) for line in piece.text.split("\n"))
        if left is not None and len(text) > left:
            yield text[:left] + " …", piece.learned
            return
        yield text, piece.learned
        if left is not None:
            left -= len(text)
