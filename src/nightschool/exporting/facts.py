"""What is known of a saved state: from its own record, and from the ledger for the names of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nightschool import basemodel, curriculum
from nightschool.curriculum import Entry, Part
from nightschool.errors import ModelError
from nightschool.ledger import HoldoutRow, Ledger
from nightschool.record import Record, root_digest
from nightschool.settings import Settings

Kind = Literal["adapter", "merged", "model"]
"""`adapter`: PEFT's files alone. `merged`: base and adapter as one model. `model`: one that was trained in full."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Learned:
    """A stretch of steps on one file.

    Attributes:
        name: of the file; None where the ledger does not know it any more.
        rows, tokens, sha256: of the file, where known.
        first, last: steps, both included.
        of: steps that the file would take in all; more than `last - first + 1` where the state is in the middle of it.
        differs: settings that are not those of most files, by name.
        loss_before, loss_after: nats on the rows held out, where they were measured within this history.
    """

    name: str | None
    rows: int | None
    tokens: int | None
    sha256: str | None
    first: int
    last: int
    of: int
    differs: Mapping[str, Any]
    loss_before: float | None
    loss_after: float | None


@dataclass(frozen=True)
class Facts:
    """All that a card says.

    Attributes:
        kind: what is given away.
        base: how `nightschool.toml` names the base model.
        hub: its name on the Hub, where it is from there; `revision` belongs to it.
        record: what the state says about itself.
        learned: what it learned, in order.
        version: of nightschool.
    """

    kind: Kind
    base: str
    hub: str | None
    revision: str | None
    record: Record
    learned: list[Learned] = field(default_factory=list)
    version: str = ""

    @property
    def root(self) -> str:
        """Digest of the run's root, 64 hexadecimal digits."""
        return root_digest(self.record.root)


def collect(settings: Settings, ledger: Ledger, record: Record, kind: Kind) -> Facts:
    """The facts of a state with this record."""
    from nightschool import __version__

    return Facts(
        kind, settings.model.name, hub_name(settings.model.name), settings.model.revision, record,
        learned_files(ledger, record), __version__,
    )  # fmt: skip


def hub_name(name: str) -> str | None:
    """`name` if it is one on the Hub; None for a folder, whose path says nothing to anyone else."""
    return None if Path(name).expanduser().is_dir() or not _HUB_NAME.fullmatch(name) else name


def check_base(settings: Settings, root: Mapping[str, Any], cache: Path) -> Path:
    """The folder of the run's base model, whose files are those that the run began with.

    Raises:
        ModelError: it is gone, or a file of the model or the tokenizer is another.
    """
    folder = basemodel.resolve(settings.model.name, settings.model.revision)
    found = basemodel.fingerprint(basemodel.model_files(folder), cache)
    then = root.get("base") or {}
    changed = sorted(name for name in {*found, *then} if found.get(name) != then.get(name))
    if not changed and basemodel.tokenizer_digest(folder, cache) != root.get("tokenizer"):
        changed = ["the tokenizer"]
    if changed:
        raise ModelError(
            f"The base model in {folder} is not the one this run was trained on: {', '.join(changed)} changed. What "
            "was learned fits only the old one. Put the old files back."
        )
    return folder


def learned_files(ledger: Ledger, record: Record) -> list[Learned]:
    """Every stretch of the history up to the state, file by file."""
    entries = curriculum.cut(record.entries, record.step)
    usual = usual_settings(entries)
    ids = [file_id for entry in entries for file_id in entry.file_ids]
    measured = ledger.holdouts.of_files(min(ids), max(ids)) if ids else {}
    found, done = [], 0
    for at, entry in enumerate(entries):
        ended = entry.stop == entry.length
        for part in entry.parts:
            loss = measured.get(part.file_id)
            found.append(
                _learned(ledger, part, entry, done, usual, loss if loss and loss.position == at else None, ended)
            )
        done += entry.steps
    return found


def _learned(
    ledger: Ledger, part: Part, entry: Entry, done: int, usual: Mapping[str, Any], loss: HoldoutRow | None, ended: bool
) -> Learned:
    try:
        row = ledger.files.get(part.file_id)
    except KeyError:
        row = None
    if row is not None and row.data_digest != part.data_digest:
        row = None  # the number is another file's: the state is from another history
    loss = loss if row is not None else None
    return Learned(
        row.name if row else None, row.rows_good if row else None, row.tokens if row else None,
        row.sha256 if row else None, done + 1, done + entry.steps, entry.length,
        {key: value for key, value in flat(entry.settings).items() if usual.get(key) != value},
        loss.loss_before if loss else None, loss.loss_after if loss and ended else None,
    )  # fmt: skip


def usual_settings(entries: list[Entry]) -> dict[str, Any]:
    """For each setting, the value under which most steps were trained."""
    weights: dict[str, Counter[str]] = {}
    values: dict[str, Any] = {}
    for entry in entries:
        for key, value in flat(entry.settings).items():
            values[f"{key} {value!r}"] = value
            weights.setdefault(key, Counter())[f"{key} {value!r}"] += entry.steps
    return {key: values[count.most_common(1)[0][0]] for key, count in weights.items()}


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings under the names that people know: `epochs`, `data.max_length`."""
    own = {key: value for key, value in recipe.items() if key != "data"}
    return {**own, **{f"data.{key}": value for key, value in (recipe.get("data") or {}).items()}}
