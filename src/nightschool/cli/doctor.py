"""`nightschool doctor`: is everything there that training needs?"""

from __future__ import annotations

import textwrap
from dataclasses import asdict

import typer

from nightschool.cli.common import Json, layout_of, print_json
from nightschool.words import escape


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check this machine and the workspace, and say what to do.

    Looks at the libraries, the GPU, the folders, the ledger, the settings, the base model and the room on the disk.
    Changes nothing. Ends with exit code 1 if something is bad.
    """
    from nightschool.checkup import examine

    findings = []
    for finding in examine(lambda: layout_of(ctx)):
        findings.append(finding)
        if not json:
            text = f"{finding.found.rstrip('.')}. {finding.advice}" if finding.advice else finding.found
            head = f"{finding.verdict:<5} {finding.what:<12} "
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
