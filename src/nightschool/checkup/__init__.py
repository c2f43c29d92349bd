"""The checks of `nightschool doctor`: everything to look at before going to bed. Imports neither torch nor numpy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nightschool import basemodel, durable, gpus, hours
from nightschool.checkup import around, night, rehearsing, sizes
from nightschool.checkup.finding import Finding
from nightschool.creation import check_model
from nightschool.errors import NightschoolError
from nightschool.intake.worker import size_below
from nightschool.ledger import Ledger
from nightschool.settings import Settings, load_settings
from nightschool.words import in_bytes
from nightschool.workspace import Layout

LITTLE_ROOM = 2_000_000_000
PLACE_PATIENCE = 5.0
"""Seconds for which the second place is waited for; a disk that sleeps takes some to spin up."""
SHOWN = ("torch", "transformers", "peft", "accelerate", "trl", "datasets")


def examine(find: Callable[[], Layout], rehearse: bool = False, now: datetime | None = None) -> Iterator[Finding]:
    """All findings, in the order they are made.

    Args:
        find: gives the workspace or raises.
        rehearse: make a step, a save and a load as well.
        now: the wall clock here.
    """
    now = now or hours.local_now()
    yield from machine()
    try:
        layout = find()
        layout.require()
    except NightschoolError as error:
        yield Finding("workspace", "bad", str(error))
        return
    yield Finding("workspace", "good", str(layout.root))
    yield from permissions(layout)
    yield from ledger(layout)
    yield from holders(layout)
    try:
        settings = load_settings(layout.settings_file)
    except NightschoolError as error:
        yield Finding("settings", "bad", str(error))
        return
    yield Finding("settings", "good", f"{layout.settings_file.name} is well-formed")
    yield from around.secrets(layout, settings)
    yield from model(settings)
    result = None
    if rehearse:
        result, said = rehearsing.rehearse(layout)
        yield from rehearsing.findings(result, said)
    else:
        yield rehearsing.NOT_MADE
    measured = None if result is None else int(result["checkpoint_bytes"])
    yield from room(layout, settings, measured)
    yield from night.snapshot_room(layout, settings, coming_bytes(layout, settings, measured), measured)
    yield from second_place(layout, settings)
    yield from prepared(layout)
    yield from night.tonight_clock(layout, settings, now)
    yield around.service(layout, settings)
    yield around.notifications(settings)
    if gpu_memory() is not None:
        yield from around.others_on_gpu(_ours(layout))
    yield around.open_hours(settings, now)
    yield rehearsing.queue_done(layout, settings, result, now)


def machine() -> Iterator[Finding]:
    """Python, the libraries and the GPU."""
    version = ".".join(map(str, sys.version_info[:3]))
    system = f"Python {version} on {sys.platform}, SQLite {sqlite3.sqlite_version}"
    if sys.platform == "linux":
        yield Finding("system", "good", system)
    else:
        yield Finding("system", "note", system, "Only Linux is tested.")
    wrong = [*_unmet()]
    versions = ", ".join(f"{name} {_version(name) or 'missing'}" for name in SHOWN)
    if wrong:
        yield Finding("libraries", "bad", "; ".join(wrong), "Install them again: pip install --upgrade nightschool")
    else:
        yield Finding("libraries", "good", versions)
    memory = gpu_memory()
    if memory is None:
        yield Finding("gpu", "note", "no NVIDIA GPU found (nvidia-smi)", "Training works on the CPU, slowly.")
    else:
        yield Finding("gpu", "good", f"NVIDIA, {in_bytes(memory)}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _unmet() -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in metadata.requires("nightschool") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None:
            yield f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} is {installed}, needed is {requirement.specifier}"


def gpu_memory() -> int | None:
    """Bytes of the largest NVIDIA GPU's memory; None without one."""
    sizes_told = [int(line) for line in gpus.query("gpu", "memory.total") if line.strip().isdigit()]
    return max(sizes_told) * 1024 * 1024 if sizes_told else None


def permissions(layout: Layout) -> Iterator[Finding]:
    """Whether every folder that is written to can be."""
    folders = (
        layout.root, layout.inbox, layout.archive, layout.rejected, layout.current_model, layout.state,
        layout.prepared, layout.incoming, layout.tmp,
    )  # fmt: skip
    missing = [f for f in folders if not f.is_dir()]
    closed = [f for f in folders if f.is_dir() and not os.access(f, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        names = ", ".join(str(f.relative_to(layout.root.parent)) for f in closed)
        yield Finding(
            "permissions", "bad", f"not writable: {names}", f"Give this user the right to write: chown -R {_user()} DIR"
        )
    elif missing:
        names = ", ".join(str(f.relative_to(layout.root)) for f in missing)
        yield Finding("permissions", "note", f"missing: {names}", "They are made again when they are needed.")
    else:
        yield Finding("permissions", "good", "all folders can be written")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def ledger(layout: Layout) -> Iterator[Finding]:
    """Whether the ledger opens and is sound."""
    try:
        with Ledger.open(layout.ledger) as opened:
            problems = opened.check()
            files = sum(opened.files.counts().values())
    except NightschoolError as error:
        yield Finding("ledger", "bad", str(error))
        return
    if problems:
        yield Finding("ledger", "bad", "; ".join(problems[:3]), "Make it again: nightschool doctor --rebuild-ledger")
    else:
        yield Finding("ledger", "good", f"sound; it knows {files:,} {'file' if files == 1 else 'files'}")


def holders(layout: Layout) -> Iterator[Finding]:
    """Who works on this workspace right now."""
    try:
        supervisor = durable.holder(layout.supervisor_lock)
        trainer = durable.holder(layout.trainer_lock)
    except NightschoolError as error:
        yield Finding("machine", "bad", str(error))
        return
    if supervisor is not None:
        training = f", its trainer is process {trainer}" if trainer is not None else ", its trainer does not run"
        yield Finding("machine", "good", f"runs as process {supervisor}{training}")
    elif trainer is not None:
        yield Finding(
            "machine", "note", f"does not run, but a trainer (process {trainer}) does",
            "It saves and ends by itself; if it hangs, kill it.",
        )  # fmt: skip
    else:
        yield Finding("machine", "good", "does not run: `nightschool run` starts it")


def model(settings: Settings) -> Iterator[Finding]:
    """Whether the base model can be read, and fits."""
    try:
        folder = check_model(settings.model.name, settings.model.revision)
    except NightschoolError as error:
        yield Finding("model", "bad", str(error))
        return
    needed = [*basemodel.model_files(folder), *basemodel.tokenizer_files(folder)]
    closed = [path.name for path in needed if not os.access(path, os.R_OK)]
    if closed:
        yield Finding("model", "bad", f"{folder}: cannot read {', '.join(closed)}", "Give this user the right to read.")
        return
    size = sizes.weight_bytes(folder)
    yield Finding("model", "good", f"{folder} ({in_bytes(size)} of weights)")
    if settings.model.quantization != "none" and _version("bitsandbytes") is None:
        yield Finding("quantization", "bad", "bitsandbytes is not installed", "pip install 'nightschool[quantization]'")
    memory = gpu_memory() if settings.model.device != "cpu" else None
    if memory is not None and settings.model.quantization == "none" and size > 0.8 * memory:
        yield Finding(
            "fit", "bad", f"the weights ({in_bytes(size)}) leave too little of the GPU's {in_bytes(memory)}",
            'Set model.quantization = "4bit" before training begins, or use a smaller base model.',
        )  # fmt: skip


def coming_bytes(layout: Layout, settings: Settings, measured: int | None = None) -> int:
    """Bytes that the checkpoints to come take; 0 where that is not known."""
    try:
        size, _ = sizes.checkpoint_bytes(layout, settings, measured)
    except (OSError, NightschoolError):
        return 0
    # One is written while the old ones are still there.
    return max(1, settings.checkpoints.save_total_limit + 1 - len(layout.checkpoints())) * size


def room(layout: Layout, settings: Settings, measured: int | None = None) -> Iterator[Finding]:
    """Whether the disk has room for the checkpoints to come; `measured`: the size of one, if it is known."""
    try:
        free = shutil.disk_usage(layout.current_model).free
        size, told = sizes.checkpoint_bytes(layout, settings, measured)
    except (OSError, NightschoolError) as error:
        yield Finding("disk", "bad", f"{layout.current_model} cannot be looked at: {error}")
        return
    needed, kept = coming_bytes(layout, settings, measured), settings.machine.min_free_gb * 1e9
    found = f"{in_bytes(free)} free; {told}"
    if free < needed:
        yield Finding(
            "disk", "bad", f"{found}, so {in_bytes(needed)} are needed",
            "Free some space, or lower checkpoints.save_total_limit. Training waits when the disk is full.",
        )  # fmt: skip
    elif free < size + kept:
        yield Finding(
            "disk", "bad", f"{found}, and {in_bytes(kept)} are to be left free (machine.min_free_gb)",
            "Free some space: until then training waits.",
        )  # fmt: skip
    elif free < needed + kept + LITTLE_ROOM:
        yield Finding("disk", "note", found, "It will be full soon: archive and prepared files grow too.")
    else:
        yield Finding("disk", "good", found)


def second_place(layout: Layout, settings: Settings) -> Iterator[Finding]:
    """Whether snapshots can be copied to where they shall be."""
    if not settings.snapshots.copy_to:
        return
    from nightschool.snapshots import second

    place = Path(settings.snapshots.copy_to)

    def look() -> tuple[str | None, str]:
        problem = second.problem_of(place, row)
        return problem, "" if problem else f"; {in_bytes(shutil.disk_usage(place).free)} free"

    row: dict[str, Any] | None = None
    try:
        with Ledger.open(layout.ledger) as opened:
            row = opened.machine.get(second.ROW)
        problem, free = second.within(look, PLACE_PATIENCE)
    except TimeoutError:
        problem, free = second.silent(place), ""
    except (NightschoolError, OSError) as error:
        problem, free = str(error), ""
    if problem:
        yield Finding("copies", "bad", problem, "Until then there is no second copy of what it has learned.")
    else:
        last = (row or {}).get("copied_at")
        yield Finding("copies", "good", f"{place} can be written{free}; last copy: {last or 'none yet'}")


def prepared(layout: Layout) -> Iterator[Finding]:
    """How much room the tokenised data takes."""
    size = size_below(layout.prepared)
    yield Finding("prepared", "good", f"{in_bytes(size)} of tokenised data; what no file needs any more goes by itself")


def _ours(layout: Layout) -> set[int]:
    """The processes that work on this workspace."""
    found = set()
    for lock in (layout.supervisor_lock, layout.trainer_lock):
        with suppress(NightschoolError):
            found.add(durable.holder(lock))
    return {pid for pid in found if pid is not None}
