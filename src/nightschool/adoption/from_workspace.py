"""A new run over everything another workspace has learned, in the order in which it learned it: for a new base model,
or another shape of the adapter.

The bytes are copied, never linked: a file that is one under two names would be changed in both. What the old ledger
says of each file's bytes is checked while they are copied. The old workspace is only read; its ledger is copied before
it is opened, because opening a database may write to it.
"""

from __future__ import annotations

import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nightschool import adding, creation, durable
from nightschool.adoption.making import Adopted
from nightschool.adoption.staged import staged
from nightschool.errors import BusyError, DataError, StorageError
from nightschool.intake import sidecar
from nightschool.ledger import Arrival, FileRow, Ledger
from nightschool.settings import load_settings, parse_settings
from nightschool.words import escape, in_bytes
from nightschool.workspace import Layout

AT_ONCE = 500
"""Files entered in one transaction."""
TELL_EVERY = 1_000_000_000
"""Bytes copied between two lines of progress."""

_WHY_NOT = {
    "arrived": "not archived yet: what is still in its inbox, drop here",
    "duplicate": "the same bytes as another",
    "rejected": "rejected",
    "set_aside": "set aside",
    "forgotten": "forgotten",
}


def queue_again(
    root: Path, old: Layout, model: str | None, given: Mapping[str, Mapping[str, Any]], say: Callable[[str], Any]
) -> Adopted:
    """Make a workspace with the settings of `old` and all its files waiting.

    Args:
        root: where; empty or not there.
        old: the workspace to read.
        model: the base model; that of `old` if not given.
        given: sections of settings that count over those of `old`.
        say: called with a line now and then.

    Raises:
        BusyError: the machine works on the old workspace.
        DataError: the archive of the old workspace lacks a file, or holds other bytes than were archived.
    """
    creation.must_be_free(Layout(root))
    old.require()
    _must_be_still(old)
    values, notes = _settings(old, root, model, given)
    with staged(root) as layout:
        with adding.scratch(layout) as scratch, _read_only(old, scratch) as ledger:
            rows = list(_in_order(ledger))
            left = _left_out(ledger, {row.id for row in rows})
            if (ledger.machine.get("root") or {}).get("adopted"):
                notes += _warming_up(values, given.get("training", {}))
        _must_be_still(old)
        say(f"Copying {_files(len(rows))}, {in_bytes(sum(row.bytes or 0 for row in rows))}.")
        with Ledger.open(layout.ledger) as ledger:
            _copy(old, layout, ledger, rows, say)
            ledger.events.add("adopted", f"Queued {_files(len(rows))} of {old.root} again.", folder=old.root)
        durable.write_file(layout.settings_file, creation.rendered(values, root))
    queued = f"Queued: {_files(len(rows))} of {escape(old.root)}, in the order in which it learned them."
    return Adopted(Layout(root), (queued, *left, *notes))


def _files(number: int) -> str:
    return f"{number:,} file{'' if number == 1 else 's'}"


def _must_be_still(old: Layout) -> None:
    for lock in (old.supervisor_lock, old.trainer_lock, old.intake_lock, old.way_back_lock):
        pid = durable.holder(lock)
        if pid is not None:
            raise BusyError(
                f"{old.root} is being worked on by process {pid}, so its ledger cannot be copied. Stop it first: "
                f"nightschool -C {old.root} stop",
                pid,
            )


def _settings(
    old: Layout, root: Path, model: str | None, given: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The sections of the new settings file, and what is to be said of them."""
    known = load_settings(old.settings_file)
    values: dict[str, dict[str, Any]] = tomllib.loads(old.settings_file.read_text(encoding="utf-8"))
    notes: list[str] = []
    section = values["model"]
    # Relative paths are meant from the old folder.
    section["name"] = known.model.name
    if known.model.chat_template:
        template = Path(known.model.chat_template).expanduser()
        section["chat_template"] = str(template if template.is_absolute() else old.root / template)
    if model is not None:
        folder = creation.check_model(model, given.get("model", {}).get("revision"))
        section["name"] = str(folder) if Path(model).expanduser().is_dir() else model
        section.pop("revision", None)
        if section.get("chat_template"):
            notes.append(f"model.chat_template is still {section['chat_template']}: look whether it suits {model}.")
        if isinstance(values.get("lora", {}).get("target_modules"), list):
            notes.append("lora.target_modules lists modules by name: look whether the new base model has them.")
    if values.get("snapshots", {}).pop("copy_to", None):
        notes.append("snapshots.copy_to is not taken over: two workspaces cannot share one second place.")
    for name, content in given.items():
        values[name] = {**values.get(name, {}), **creation.set_values(content)}
    if values.get("training", {}).get("method") == "full" and values.pop("lora", None):
        notes.append("[lora] is not taken over: every parameter is trained.")
    parsed = parse_settings(values, "settings", base=root)
    creation.check_model(parsed.model.name, parsed.model.revision)
    return values, notes


def _warming_up(values: dict[str, dict[str, Any]], own: Mapping[str, Any]) -> list[str]:
    """Let a run whose predecessor came with warm moments begin as all do: it has none."""
    training = values.get("training", {})
    taken = {key: training[key] for key in ("lr_scheduler_type", "warmup_steps") if key in training and key not in own}
    if taken != {"lr_scheduler_type": "constant", "warmup_steps": 0}:
        return []
    for key in taken:
        del training[key]
    return ["The learning rate warms up: that run did not, because it had taken over an optimizer's moments."]


def _read_only(old: Layout, scratch: Path) -> Ledger:
    """A copy of the old ledger, opened: with its journal, from which SQLite mends what a crash left half-written."""
    copy = scratch / "old.db"
    for ending in ("", "-journal"):
        source = old.ledger.with_name(f"{old.ledger.name}{ending}")
        if source.exists():
            shutil.copyfile(source, copy.with_name(f"{copy.name}{ending}"))
    return Ledger.open(copy)


def _in_order(ledger: Ledger) -> Iterator[FileRow]:
    """The files to queue: as the run learned them, then as they wait. None twice."""
    done: set[int] = set()
    for entry in ledger.entries.all():
        for number in entry.file_ids:
            row = ledger.files.get(number)
            if number not in done and row.archive is not None and row.state not in _WHY_NOT:
                done.add(number)
                yield row
    after: FileRow | None = None
    while page := ledger.files.queue(after):
        after = page[-1]
        # Of one whose training was undone, an entry may be left.
        yield from (row for row in page if row.state != "arrived" and row.id not in done)


def _left_out(ledger: Ledger, queued: set[int]) -> list[str]:
    counts: Counter[str] = Counter()
    for row in ledger.files.each():
        if row.id in queued:
            continue
        if row.state in _WHY_NOT:
            counts[_WHY_NOT[row.state]] += 1
        elif row.archive is None:
            counts["without data: what that run itself had taken over"] += 1
        else:
            counts[f"{row.state}, but not part of the run"] += 1
    return [f"Not queued: {_files(number)}, {why}." for why, number in sorted(counts.items())]


def _copy(old: Layout, layout: Layout, ledger: Ledger, rows: list[FileRow], say: Callable[[str], Any]) -> None:
    """Copy the bytes into the new archive, under the same day and name, and enter the files as archived.

    The day stays because a template may ask for it; each file is an arrival of its own, so that the order stays.
    """
    copied = told = 0
    for first in range(0, len(rows), AT_ONCE):
        page = rows[first : first + AT_ONCE]
        for row in page:
            copied += _copy_one(old, layout, row)
            if copied - told >= TELL_EVERY:
                told = copied
                say(f"Copied {in_bytes(copied)}.")
        with ledger.transaction():
            for row in page:
                place = str(row.archive)
                (number,) = ledger.files.arrive([Arrival(row.name, old.root / place, options=row.options)])
                ledger.files.archived(number, str(row.sha256), int(row.bytes or 0), place)


def _copy_one(old: Layout, layout: Layout, row: FileRow) -> int:
    assert row.archive is not None
    target = layout.root / row.archive
    if ".." in Path(row.archive).parts or Path(row.archive).is_absolute():
        raise DataError(f"The ledger of {old.root} names {escape(row.archive)}, which is not in its archive.")
    if target.exists():
        return 0
    try:
        copied = durable.copy_file(old.root / row.archive, target)
    except StorageError as error:
        if (old.root / row.archive).exists():
            raise
        raise DataError(
            f"{escape(old.root / row.archive)} is missing, so {escape(row.name)} cannot be learned again. Put it back "
            f"from a backup. ({error})"
        ) from None
    if copied.sha256 != row.sha256:
        raise DataError(
            f"{escape(old.root / row.archive)} is not what was archived: its SHA-256 is {copied.sha256}, not "
            f"{row.sha256}. Put it back from a backup."
        )
    beside = old.root / (row.archive + sidecar.ENDING)
    if beside.is_file():
        durable.copy_file(beside, layout.root / (row.archive + sidecar.ENDING))
    return copied.bytes
