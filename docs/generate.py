"""Write the pages that are made from the program itself: `python docs/generate.py`, or `--check` that they are current.

A test runs the check, so that no command, option, exit code or setting can be without its line.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from typer import main as typer_main

from nightschool import errors
from nightschool.cli.app import COMMANDS, build_app
from nightschool.settings import LORA_DEFAULTS, sections

HERE = Path(__file__).parent
WIDTH = 96
MADE_BY = "<!-- Made by docs/generate.py; change the program, not this page. -->\n"


def cli_page() -> str:
    """docs/cli.md: the help of every command, and the exit codes."""
    root: Any = typer_main.get_command(build_app())
    above = root.make_context("nightschool", [], resilient_parsing=True)
    parts = [
        "# Command line\n",
        MADE_BY,
        "`-C DIR` goes before the command. Listings take `--json`. Errors go to standard error as plain sentences.\n",
        _help(root, None, "nightschool"),
    ]
    for name in COMMANDS:
        parts.append(f"## {name}\n")
        parts.append(_help(root.get_command(above, name), above, name))
    parts.append(_exit_codes())
    return "\n".join(parts)


def _help(command: Any, parent: Any, name: str) -> str:
    context = command.make_context(name, [], parent, resilient_parsing=True, terminal_width=WIDTH)
    return f"```\n{command.get_help(context).rstrip()}\n```\n"


def _exit_codes() -> str:
    found = {
        # The first sentence; what follows is about attributes, for programmers.
        kind.exit_code: re.split(r"[.;] `|\.$", (kind.__doc__ or "").strip().splitlines()[0])[0] + "."
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.NightschoolError)
    }
    rows = {
        0: "Done, or stopped as asked.",
        1: "`doctor` found something bad, or an error without a code of its own.",
        2: "The command line was not understood.",
        **{code: text for code, text in found.items() if code > 2},
        130: "Ended at once by Ctrl-C; for `run`, by the second one.",
    }
    lines = ["## Exit codes\n", "They are stable.\n", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {text} |" for code, text in sorted(rows.items())]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md: every setting with its default, class and meaning."""
    parts = [
        "# Settings\n",
        MADE_BY,
        "`nightschool.toml` in the workspace. `nightschool settings` shows what is set. An unknown key is an error.\n",
        "The running machine looks at the file, and takes a change a second or two after it was written, as a whole: "
        "a file with a mistake in it changes nothing, and the log, `nightschool status` and `nightschool settings` say "
        "why. What it takes is copied, and goes for every part of the machine that has to be started again.\n",
        "An *operational* setting takes effect now. For those that the trainer reads when it starts (the device, the "
        "cell, threads, ...) it saves, ends and is started again by itself; a change of the numerics is announced.\n",
        "An *entry* setting is for the next file. It is frozen for each file: those in `[data]`, `inbox.columns` and "
        "`model.chat_template_kwargs` when the file is prepared, the rest when its training begins. A file that was "
        "prepared but has not begun is prepared again. `nightschool settings --now` lets the file in training go on "
        "with the learning rate, schedule, warm-up, weight decay, betas, epsilon and clipping that the file says now: "
        "the weights are those of a run in which its steps were two ranges under two settings. What decides which rows "
        "a step trains on cannot change in the middle of a file.\n",
        "A *run* setting is fixed once training has begun. A change of one is not taken; `nightschool init NEW --from "
        "OLD` makes a new run, in which every archived file waits again, in order.\n",
    ]
    for section, model in sections().items():
        parts.append(f"## [{section}]\n")
        rows = ["| setting | default | class | meaning |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            extra: Any = field.json_schema_extra or {}
            default = "required" if field.is_required() else _code(field.get_default(call_default_factory=True))
            rows.append(f"| `{key}` | {default} | {extra['class']} | {_cell(field.description)} |")
        parts.append("\n".join(rows) + "\n")
        if section == "model":
            parts.append("## [lora]\n")
            parts.append(
                "Any key of PEFT's `LoraConfig` that comes back from a checkpoint with the same bits; class run.\n"
            )
            rows = ["| setting | default |", "|---|---|"]
            rows += [f"| `{key}` | {_code(value)} |" for key, value in LORA_DEFAULTS.items()]
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _code(value: Any) -> str:
    return "not set" if value is None else f"`{json.dumps(value)}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


PAGES = {"cli.md": cli_page, "settings.md": settings_page}


def main(check: bool) -> int:
    """Write the pages, or say which are not current."""
    stale = 0
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"{path} is not current: run python docs/generate.py", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
