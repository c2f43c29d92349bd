"""`nightschool doctor`: is everything there that training needs?"""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nightschool.cli.common import Json, confirm, count, layout_of, print_json
from nightschool.words import escape

if TYPE_CHECKING:
    from nightschool.rebuilding.rebuild import Report

SHOWN = 20


def doctor(
    ctx: typer.Context,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Make a step of full size, a save and a load as well. Takes a minute or a few."
        ),
    ] = False,
    rebuild_ledger: Annotated[
        bool, typer.Option("--rebuild-ledger", help="Make a lost or damaged ledger again; the old file is kept.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --rebuild-ledger: say what it would do; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --rebuild-ledger: do not ask.")] = False,
    json: Json = False,
) -> None:
    """Check this machine and the workspace, and say what to do: what one looks at before going to bed.

    The libraries, the GPU and who is on it, the folders, the settings, the base model, the room on the disk for
    checkpoints and snapshots, the clock, the service, the notifications, and when tonight's queue will be done. Changes
    nothing. Ends with exit code 1 if something is bad.

    With --rehearse, the model is loaded with its newest checkpoint, makes steps as large as any can be, on made-up
    tokens, saves into a scratch folder and takes that up again, which must be equal to the last bit. Nothing of the run
    is touched. No trainer may run meanwhile.

    With --rebuild-ledger, .nightschool/ledger.db is made again from the newest whole copy in snapshots/ or undone/, if
    there is one, and from the checkpoints, the archive and the prepared data. The run goes on from there, bit for bit.
    Archived files that nothing was learned from wait again. Where it cannot be told whether a file was to be learned,
    it is set aside, and said. The old file is moved to .nightschool/ledger.db.broken-TIME. No machine may run.
    """
    if rehearse and rebuild_ledger:
        raise typer.BadParameter("--rehearse and --rebuild-ledger do not go together.")
    if rebuild_ledger:
        _rebuild(ctx, dry_run, yes, json)
        return
    if dry_run or yes:
        raise typer.BadParameter("--dry-run and --yes go with --rebuild-ledger.")
    from nightschool.checkup import examine

    findings = []
    for finding in examine(lambda: layout_of(ctx), rehearse):
        findings.append(finding)
        if not json:
            text = f"{finding.found.rstrip('.')}. {finding.advice}" if finding.advice else finding.found
            head = f"{finding.verdict:<5} {finding.what:<13} "
            print(
                textwrap.fill(
                    head + escape(text), 100, subsequent_indent=" " * len(head), break_long_words=False,
                    break_on_hyphens=False,
                )
            )  # fmt: skip
    bad = [finding for finding in findings if finding.verdict == "bad"]
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print("Everything is in order." if not bad else f"{len(bad)} to put right.")
    if bad:
        raise typer.Exit(1)


def _rebuild(ctx: typer.Context, dry_run: bool, yes: bool, json: bool) -> None:
    from nightschool.rebuilding.rebuild import rebuild

    layout = layout_of(ctx)
    if not yes or dry_run:
        report = rebuild(layout, dry_run=True)
        if not json:
            _print(report)
        elif dry_run:
            print_json(report.to_dict())
        if dry_run:
            return
        confirm("Make the ledger again like this?", yes)
    report = rebuild(layout)
    if json:
        print_json(report.to_dict())
        return
    if yes:
        _print(report)
    kept = f" The old file is {report.broken}." if report.broken else ""
    print(f"Done.{escape(kept)} `nightschool verify` looks at the whole; `nightschool run` goes on.")


def _print(report: Report) -> None:
    source = f"from {report.copy} and what came after it" if report.copy else "from nothing but what it described"
    state = f"; {report.state} says what was learned, to step {report.step:,}" if report.state else ""
    print(escape(f"The ledger is made again {source}{state}."))
    print("Files: " + (", ".join(f"{number:,} {state}" for state, number in sorted(report.files.items())) or "none"))
    _list("wait again", report.queued)
    _list(
        "set aside, because it cannot be told whether they were to be learned",
        [f"{n}: {why}" for n, why in report.held],
    )
    if report.held:
        print("  `nightschool add` with the file's place in archive/ has one of them learned after all.")
    _list("matched to their bytes by name; proved when they are prepared again", report.by_name)
    _list(
        "learned, but which bytes they were is not known: they can be neither replayed nor trained on", report.unmatched
    )
    if report.lost:
        lost = sum(last - first + 1 for first, last in report.lost)
        print(f"{count(lost, 'step')} of {report.step:,} lose their place in the loss curve.")
    for note in report.notes:
        print(escape(note))


def _list(what: str, lines: list[str]) -> None:
    if lines:
        print(f"{count(len(lines), 'file')} {what}:")
        for line in lines[:SHOWN]:
            print(f"  {escape(line)}")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN:,} more")
