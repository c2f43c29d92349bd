"""What a checkpoint says about itself, and whether it belongs to the run. Imports no torch.

Equal lineage and equal numerics mean equal bits: `belongs` is the one place where that is decided.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable
from nightschool.curriculum import Entry, Part
from nightschool.errors import CheckpointError
from nightschool.ledger import Ledger
from nightschool.settings import canonical
from nightschool.workspace import Layout

FORMAT = 2
"""1: every entry over one file. 2: over one or several."""
RECORD = "nightschool.json"


@dataclass(frozen=True)
class Record:
    """`nightschool.json`: the position of a checkpoint and all that its bits depend on.

    Attributes:
        step: optimizer steps done.
        generation: number of cuts that had happened.
        lineage: hash chain over the root and the curriculum cut at `step`.
        root: the run's root, whole.
        curriculum: the entries, as `curriculum.to_record` gives them.
        numerics: processes, cell size, threads, versions, device.
        numerics_changes: [{"step": N, "changes": [words]}] since the run began.
        digests: {"weights": xxh3-128, "optimizer": xxh3-128} of the saved tensors.
        file: name of the data file the last step was on.
    """

    step: int
    generation: int
    lineage: str
    root: dict[str, Any]
    curriculum: dict[str, Any]
    numerics: dict[str, Any]
    numerics_changes: list[dict[str, Any]]
    digests: dict[str, str]
    file: str | None
    format: int = FORMAT

    @property
    def entries(self) -> list[Entry]:
        """The curriculum when the checkpoint was written."""
        return curriculum.from_record(self.curriculum)


def read_record(folder: Path) -> Record:
    """The record of a checkpoint.

    Raises:
        CheckpointError: it is missing, unreadable, or of a newer format.
    """
    try:
        raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if raw["format"] > FORMAT:
            raise CheckpointError(
                f"{folder} was written by a newer nightschool (checkpoint format {raw['format']}; this one reads up to "
                f"{FORMAT}). Update nightschool to go on from it."
            )
        return Record(**raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD} cannot be read: {error}.") from None


def root_digest(root: dict[str, Any]) -> str:
    """SHA-256 of the root's canonical JSON: the beginning of every lineage."""
    return hashlib.sha256(canonical(root).encode()).hexdigest()


def entries_of(ledger: Ledger) -> list[Entry]:
    """The curriculum as the ledger has it."""
    return [
        Entry(tuple(Part(*part) for part in row.parts), row.recipe, row.start, row.stop) for row in ledger.entries.all()
    ]


def belongs(record: Record, root: str, entries: list[Entry]) -> str | None:
    """Why a checkpoint is not part of the curriculum `entries` over the root with digest `root`, or None if it is."""
    total = curriculum.total_steps(entries)
    if record.step > total:
        return f"it is at step {record.step}, and the run as it is now has {total} steps"
    if curriculum.lineage(root, entries, record.step) != record.lineage:
        return "its lineage is another: it was trained on other files, settings or another base"
    return None


def read_generation(layout: Layout) -> int:
    """The number of cuts so far, as kept outside the ledger."""
    try:
        return int(layout.generation_file.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0
    except ValueError:
        raise CheckpointError(
            f"{layout.generation_file} is damaged: it should hold one number, the highest `generation` in the "
            "nightschool.json of the checkpoints. Write that number into it."
        ) from None


def write_generation(layout: Layout, generation: int) -> None:
    """Note the number of cuts outside the ledger: an older ledger that is put back must not bring undone ones back."""
    durable.write_file(layout.generation_file, f"{generation}\n")
