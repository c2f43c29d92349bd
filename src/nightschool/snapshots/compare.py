"""What lies between two saved states. Pure: records, and what the ledger knows of names and losses, come as values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nightschool import curriculum
from nightschool.curriculum import Entry, Part
from nightschool.record import Record, root_digest

Relation = Literal["same", "onward", "back", "parted", "foreign"]
AROUND = 20
"""Steps whose mean loss is shown for each side."""


@dataclass(frozen=True)
class Stretch:
    """Steps on one file that only one side has.

    Attributes:
        name: of the file; what stands for it where it is not known any more.
        rows: of the file, where known.
        first, last: steps in that side's own counting, both included.
        of: steps that the whole of the file takes.
    """

    name: str
    rows: int | None
    first: int
    last: int
    of: int

    @property
    def steps(self) -> int:
        """Steps in it."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Side:
    """One of the two states.

    Attributes:
        name: what people call it.
        step, generation, lineage: as its record says.
        only: what it has learned that the other has not, in order.
        numerics: changes of the numerics that only it went through, as "step N: words".
        loss: mean over its last steps, in nats; None where the ledger has not got them.
        bytes: size of the state on the disk.
    """

    name: str
    step: int
    generation: int
    lineage: str
    only: list[Stretch]
    numerics: list[str]
    loss: float | None
    bytes: int


@dataclass(frozen=True)
class Difference:
    """What lies between two states.

    Attributes:
        a, b: the two.
        relation: `same`; `onward`: B goes on from A; `back`: A goes on from B; `parted`; or `foreign`: other runs.
        common: steps that both begin with.
        within: name of the file in the middle of which they part; None where that is at a file's end.
        settings: settings under which the sides learned what only they have, where those differ, by name: (the values
            on A's side, on B's). A side that has nothing of its own stands with the last file that both have.
        root: what is fixed for a run, where that differs: (A's, B's).
        numerics: how the last numerics differ: (A's, B's).
    """

    a: Side
    b: Side
    relation: Relation
    common: int
    within: str | None
    settings: dict[str, tuple[list[Any], list[Any]]]
    root: dict[str, tuple[Any, Any]]
    numerics: dict[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "words": self.words()}

    def words(self) -> str:
        """Their relation in a sentence."""
        a, b = self.a.name, self.b.name
        match self.relation:
            case "same":
                return f"{a} and {b} hold the same history: with equal numerics, the same bits."
            case "onward":
                return f"{b} goes on from {a}."
            case "back":
                return f"{a} goes on from {b}."
            case "foreign":
                return f"{a} and {b} are of different runs: what is fixed for a run differs, so they share no step."
        if not self.common:
            return f"{a} and {b} share no step: they part at the base model."
        where = f"in the middle of {self.within}" if self.within else "at the end of a file"
        return f"{a} and {b} part after step {self.common:,}, {where}."


@dataclass(frozen=True)
class Given:
    """A state and what else is known of it: see `Side`. `loss` gives the mean loss over a range of its steps."""

    name: str
    record: Record
    bytes: int
    loss: Callable[[int, int], float | None]


@dataclass(frozen=True)
class Known:
    """What is known of a data file: the digest of its prepared data, its name and rows."""

    data_digest: str | None
    name: str
    rows: int | None


def compare(a: Given, b: Given, files: Mapping[int, Known]) -> Difference:
    """What lies between two states.

    Args:
        a, b: the states.
        files: what is known of data files, by id. One whose digest is another stands for no file of theirs.
    """
    ours, theirs = (curriculum.cut(one.record.entries, one.record.step) for one in (a, b))
    roots = _differing(a.record.root, b.record.root)
    foreign = root_digest(a.record.root) != root_digest(b.record.root)
    common = 0 if foreign else curriculum.common_steps(ours, theirs)
    relation: Relation = "foreign" if foreign else _relation(common, a.record.step, b.record.step)
    return Difference(
        _side(a, ours, b, common, files), _side(b, theirs, a, common, files), relation, common,
        _within(ours, common, files) or _within(theirs, common, files) if relation == "parted" else None,
        _settings(_own(ours, common), _own(theirs, common)), roots,
        _differing(a.record.numerics, b.record.numerics),
    )  # fmt: skip


def _relation(common: int, a: int, b: int) -> Relation:
    if common == a == b:
        return "same"
    if common == a:
        return "onward"
    return "back" if common == b else "parted"


def _side(one: Given, entries: Sequence[Entry], other: Given, common: int, files: Mapping[int, Known]) -> Side:
    record = one.record
    changes = [change for change in record.numerics_changes if change not in other.record.numerics_changes]
    return Side(
        one.name, record.step, record.generation, record.lineage, _stretches(entries, common, files),
        [f"step {change['step']:,}: {'; '.join(change['changes'])}" for change in changes],
        one.loss(max(1, record.step - AROUND + 1), record.step), one.bytes,
    )  # fmt: skip


def _stretches(entries: Sequence[Entry], common: int, files: Mapping[int, Known]) -> list[Stretch]:
    found, before = [], 0
    for entry in entries:
        first, last = max(before, common) + 1, before + entry.steps
        if first <= last:
            for part in entry.parts:
                name, rows = _called(part, files)
                found.append(Stretch(name, rows, first, last, entry.length))
        before = last
    return found


def _called(part: Part, files: Mapping[int, Known]) -> tuple[str, int | None]:
    known = files.get(part.file_id)
    if known is None or known.data_digest != part.data_digest:
        return f"file {part.file_id} (not known any more)", None
    return known.name, known.rows


def _within(entries: Sequence[Entry], common: int, files: Mapping[int, Known]) -> str | None:
    """The file in the middle of which step `common` ends."""
    place = curriculum.place(entries, common)
    if place is None or place.local == entries[place.index].start:
        return None
    first, *others = entries[place.index].parts
    name, _ = _called(first, files)
    return f"{name} and {len(others):,} more" if others else name


def _own(entries: Sequence[Entry], common: int) -> list[Entry]:
    """The entries with steps behind `common`; where there are none, the last one."""
    before, found = 0, []
    for entry in entries:
        before += entry.steps
        if before > common:
            found.append(entry)
    return found or list(entries[-1:])


def _settings(ours: Sequence[Entry], theirs: Sequence[Entry]) -> dict[str, tuple[list[Any], list[Any]]]:
    """See `Difference.settings`."""
    a, b = _values(ours), _values(theirs)
    if not a or not b:
        return {}
    found = {}
    for key in sorted({*a, *b}):
        mine, its = a.get(key, {}), b.get(key, {})
        if mine.keys() != its.keys():
            found[key] = (list(mine.values()), list(its.values()))
    return found


def _values(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Every value of every setting, by its canonical text."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        recipe = {key: value for key, value in entry.settings.items() if key != "data"}
        recipe |= {f"data.{key}": value for key, value in (entry.settings.get("data") or {}).items()}
        for key, value in recipe.items():
            found.setdefault(key, {})[json.dumps(value, sort_keys=True)] = value
    return found


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*one, *other})
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}
