"""The curriculum: which sequences each step trains on. Pure arithmetic: no files, no clock, no torch.

The curriculum is an ordered list of entries; the entry that covers a step, and the place in it, follow from the
entries alone. A checkpoint is an offset into this list, and the lineage at step N is a hash over all that came before.

Steps are counted from 1: after step s the run has done s optimizer steps. `done` is a number of steps already done, so
the step about to be taken is `done + 1`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Part(NamedTuple):
    """One prepared data file in an entry.

    Attributes:
        file_id: the data file, for people; not part of the lineage.
        data_digest: digest of the prepared data.
        sequences: number of sequences in it.
    """

    file_id: int
    data_digest: str
    sequences: int


@dataclass(frozen=True)
class Entry:
    """The local steps [start, stop) of training on one prepared data file, or on several small ones together.

    Attributes:
        parts: the files; their sequences are numbered through in this order.
        recipe: canonical JSON of the settings frozen when the entry began; hashed as these very characters.
        start, stop: range of local steps.
    """

    parts: tuple[Part, ...]
    recipe: str
    start: int
    stop: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The recipe, parsed."""
        return json.loads(self.recipe)

    @cached_property
    def data_digest(self) -> str:
        """What stands for the data in the lineage: the file's own digest; of several, a hash over theirs in order."""
        digests = [part.data_digest for part in self.parts]
        return digests[0] if len(digests) == 1 else hashlib.sha256("/".join(digests).encode()).hexdigest()

    @cached_property
    def sequences(self) -> int:
        """Sequences of all parts."""
        return sum(part.sequences for part in self.parts)

    @property
    def file_ids(self) -> tuple[int, ...]:
        """The data files."""
        return tuple(part.file_id for part in self.parts)

    @property
    def steps(self) -> int:
        """Steps in the range."""
        return self.stop - self.start

    @property
    def adopted(self) -> bool:
        """Whether this stands for steps that were done elsewhere, before the run began here. It is never trained."""
        return "adopted" in self.settings

    @property
    def length(self) -> int:
        """Steps the whole of the files takes."""
        return full_length(self.sequences, self.settings["train_batch_size"], self.settings["epochs"])

    def key(self) -> tuple[tuple[Part, ...], str]:
        """What two ranges of the same training have in common."""
        return (self.parts, self.recipe)


@dataclass(frozen=True)
class Place:
    """Where a number of done steps lies: in entry `index`, before its local step `local`."""

    index: int
    local: int


def full_length(sequences: int, train_batch_size: int, epochs: int) -> int:
    """Steps for `epochs` passes over `sequences`; an epoch's last step takes what is left: no row is dropped."""
    return epochs * -(-sequences // train_batch_size)


def whole(parts: Iterable[Part], recipe: str) -> Entry:
    """The entry that trains all of these prepared files."""
    entry = Entry(tuple(parts), recipe, 0, 0)
    return replace(entry, stop=entry.length)


def total_steps(entries: Iterable[Entry]) -> int:
    """Steps of the whole curriculum."""
    return sum(entry.steps for entry in entries)


def normalised(entries: Iterable[Entry]) -> list[Entry]:
    """Without empty ranges, and with adjacent ranges of one entry merged, so that equal training has one spelling."""
    result: list[Entry] = []
    for entry in entries:
        if entry.steps <= 0:
            continue
        if result and result[-1].key() == entry.key() and result[-1].stop == entry.start:
            result[-1] = replace(result[-1], stop=entry.stop)
        else:
            result.append(entry)
    return result


def cut(entries: Sequence[Entry], done: int) -> list[Entry]:
    """The curriculum up to and with step `done`.

    Raises:
        ValueError: there are fewer steps.
    """
    result: list[Entry] = []
    left = done
    for entry in entries:
        if left <= 0:
            break
        result.append(replace(entry, stop=entry.start + min(entry.steps, left)))
        left -= entry.steps
    if left > 0:
        raise ValueError(f"the curriculum has {total_steps(entries)} steps, not {done}")
    return normalised(result)


def divided(entries: Sequence[Entry], done: int) -> tuple[list[Entry], list[Entry]]:
    """What is done after so many steps, and what is still to be done; a range in progress is in both, in two pieces."""
    at = place(entries, done)
    if at is None:
        return list(entries), []
    entry = entries[at.index]
    begun = [replace(entry, stop=at.local)] if at.local > entry.start else []
    return [*entries[: at.index], *begun], [replace(entry, start=at.local), *entries[at.index + 1 :]]


def inserted(entries: Sequence[Entry], done: int, entry: Entry) -> list[Entry]:
    """The curriculum in which `entry` is trained next, and what is in progress goes on afterwards."""
    before, after = divided(entries, done)
    return _rejoined(before, [entry, *after])


def ended(entries: Sequence[Entry], done: int) -> list[Entry]:
    """The curriculum in which the files of the next step end here; what follows of others stays.

    Raises:
        ValueError: there is no next step.
    """
    before, after = divided(entries, done)
    if not after:
        raise ValueError(f"after {done} steps nothing is left to be ended")
    return _rejoined(before, [entry for entry in after if entry.parts != after[0].parts])


def with_recipe(entries: Sequence[Entry], done: int, recipe: str) -> list[Entry]:
    """The curriculum in which the files of the next step are trained by another recipe from there on.

    Raises:
        ValueError: there is no next step, or the recipe numbers the files' steps otherwise.
    """
    before, after = divided(entries, done)
    if not after:
        raise ValueError(f"after {done} steps nothing is left to be trained by another recipe")
    new = replace(after[0], recipe=recipe)
    if any(new.settings[key] != after[0].settings[key] for key in ("data", "train_batch_size", "epochs")):
        raise ValueError("a recipe that changes which sequences a step trains on is for files that have not begun")
    return _rejoined(before, [replace(e, recipe=recipe) if e.parts == new.parts else e for e in after])


def _rejoined(done: list[Entry], after: Iterable[Entry]) -> list[Entry]:
    """`done` with `after` behind it, merged where they meet. The places of what is done stay as they are."""
    return [*done[:-1], *normalised([*done[-1:], *after])]


def first_range(entries: Sequence[Entry], index: int) -> int:
    """Where the training of the files of entry `index` began: that entry, or an earlier range of theirs."""
    entry = entries[index]
    if entry.start == 0:
        return index
    return next(at for at in range(index + 1) if entries[at].parts == entry.parts)


def oldest_open(entries: Sequence[Entry], index: int) -> int:
    """Steps done before the first step on any file that is in progress when entry `index` is.

    One that was interrupted is in progress too: its rest follows.
    """
    open_ones = [index, *(at for at in range(index + 1, len(entries)) if entries[at].start > 0)]
    return min(first_step(entries, first_range(entries, at)) for at in open_ones)


def without(entries: Iterable[Entry], files: Collection[int]) -> list[Entry]:
    """The curriculum in which these data files were never dropped; the others keep their order and settings."""
    return _with_parts(entries, lambda part: [] if part.file_id in files else [part])


def exchanged(entries: Iterable[Entry], files: Mapping[int, Part]) -> list[Entry]:
    """The curriculum in which other data was dropped in the place of these files, by their ids."""
    return _with_parts(entries, lambda part: [files.get(part.file_id, part)])


def _with_parts(entries: Iterable[Entry], change: Callable[[Part], list[Part]]) -> list[Entry]:
    result = []
    for entry in entries:
        parts = tuple(new for part in entry.parts for new in change(part))
        if parts != entry.parts:
            if not parts:
                continue
            other = replace(entry, parts=parts)
            # A range up to the end stays one up to the end, whatever the number of steps is now.
            stop = other.length if entry.stop == entry.length else min(entry.stop, other.length)
            entry = replace(other, start=min(entry.start, stop), stop=stop)
        result.append(entry)
    return normalised(result)


def joined(first: Sequence[Entry], then: Sequence[Entry]) -> list[Entry]:
    """`first`, and behind it what `then` trains on that `first` does not: other files, and further steps of its own."""
    known = {file for entry in first for file in entry.file_ids}
    reached = {entry.parts: entry.stop for entry in first}
    more: list[Entry] = []
    for entry in then:
        if entry.parts in reached:
            more.append(replace(entry, start=max(entry.start, reached[entry.parts])))
        else:
            more += without([entry], known)
    return normalised([*first, *more])


def common_steps(one: Sequence[Entry], other: Sequence[Entry]) -> int:
    """Steps that both begin with: up to there their lineages are equal."""
    steps = 0
    for a, b in zip(normalised(one), normalised(other), strict=False):
        if (a.data_digest, a.recipe, a.start) != (b.data_digest, b.recipe, b.start):
            break
        steps += min(a.steps, b.steps)
        if a.stop != b.stop:
            break
    return steps


def lineage(root: str, entries: Sequence[Entry], done: int) -> str:
    """Hash chain over the root's digest and the curriculum cut at `done`: 64 hexadecimal digits.

    Only what decides the weights goes in: digest of the data, recipe and range; no names, ids or times.
    """
    digest = root
    for entry in cut(entries, done):
        link = [digest, entry.data_digest, entry.recipe, entry.start, entry.stop]
        digest = hashlib.sha256(json.dumps(link, ensure_ascii=False).encode()).hexdigest()
    return digest


def place(entries: Sequence[Entry], done: int) -> Place | None:
    """Where the step after `done` steps is; None when the curriculum is done."""
    before = 0
    for index, entry in enumerate(entries):
        if done < before + entry.steps:
            return Place(index, entry.start + done - before)
        before += entry.steps
    return None


def first_step(entries: Sequence[Entry], index: int) -> int:
    """Steps done before entry `index` begins."""
    return total_steps(entries[:index])


class End(NamedTuple):
    """Where a file ends in a curriculum.

    Attributes:
        step: steps done after its last one.
        stop, length: how far its entry goes, and how far the whole of it would: a rollback may have ended it earlier.
    """

    step: int
    stop: int
    length: int

    @property
    def why(self) -> str | None:
        """Why it is not learned after its last step, unless its rest waits in the queue; None where it is."""
        return None if self.stop == self.length else f"shelved after {self.stop} of its {self.length} steps"


def ends(entries: Sequence[Entry]) -> dict[int, End]:
    """Where each file ends, by its id."""
    found: dict[int, End] = {}
    done = 0
    for entry in entries:
        done += entry.steps
        found.update(dict.fromkeys(entry.file_ids, End(done, entry.stop, entry.length)))
    return found


def order(seed: int, data_digest: str, epoch: int, sequences: int) -> np.ndarray:
    """Order of the sequences in one epoch: a permutation of range(sequences), int64.

    Sorts by a 64-bit hash of the position (the splitmix64 finaliser, Steele et al., "Fast splittable pseudorandom
    number generators", OOPSLA 2014). A library's generator would be shorter, but none promises the same permutation
    in its next release, and the order is part of the lineage.
    """
    import numpy as np  # here, because the supervisor reads curricula and does without

    key = hashlib.sha256(f"{seed}/{data_digest}/{epoch}".encode()).digest()
    x = np.arange(1, sequences + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.frombuffer(key[:8], "<u8")[0]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")


_cached_order = lru_cache(maxsize=2)(order)


def step_sequences(seed: int, entry: Entry, local: int) -> np.ndarray:
    """The sequences, as positions in the prepared data, that local step `local` of `entry` trains on."""
    batch = entry.settings["train_batch_size"]
    per_epoch = -(-entry.sequences // batch)
    epoch, within = divmod(local, per_epoch)
    return _cached_order(seed, entry.data_digest, epoch, entry.sequences)[within * batch : (within + 1) * batch]


def cells(
    sequences: Sequence[int] | np.ndarray, size: int, rank: int = 0, world: int = 1
) -> list[tuple[int, list[int]]]:
    """The cells of a step that process `rank` of `world` trains on: (number of the cell in the step, its sequences).

    Cells are cut before they are dealt out, so that a cell, and the randomness that hangs on its number, is the same
    for any number of processes.
    """
    every = [[int(s) for s in sequences[at : at + size]] for at in range(0, len(sequences), size)]
    return [(number, cell) for number, cell in enumerate(every) if number % world == rank]


def schedule_origin(entries: Sequence[Entry], index: int) -> int:
    """Steps done when the learning-rate schedule of entry `index` began: 0, or the start of the last entry that resets.

    An entry with `carry_optimizer` false begins with fresh moments and a new warm-up. A further range of files that
    were begun earlier goes on with what is there, whatever lies in between. What follows an adopted state that came
    without moments begins anew too.
    """
    for at in range(index, -1, -1):
        entry = entries[at]
        if entry.adopted and not entry.settings["adopted"]["moments"]:
            return first_step(entries, at) + entry.steps
        if not entry.settings["carry_optimizer"] and entry.start == 0:
            return first_step(entries, at)
    return 0


def to_record(entries: Sequence[Entry]) -> dict[str, Any]:
    """The curriculum as JSON for a checkpoint; a recipe that many entries share is written once."""
    recipes = list(dict.fromkeys(entry.recipe for entry in entries))
    number = {recipe: at for at, recipe in enumerate(recipes)}
    return {
        "recipes": recipes,
        "entries": [[[list(part) for part in e.parts], number[e.recipe], e.start, e.stop] for e in entries],
    }


def from_record(record: dict[str, Any]) -> list[Entry]:
    """The reverse of `to_record`.

    Raises:
        ValueError: the record is not one.
    """
    try:
        recipes = record["recipes"]
        return [_entry(recipes, *row) for row in record["entries"]]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no curriculum: {error}") from None


def _entry(recipes: list[str], *row: Any) -> Entry:
    if len(row) == 6:  # format 1: one file to an entry
        row = ([row[:3]], *row[3:])
    parts, recipe, start, stop = row
    return Entry(tuple(Part(*part) for part in parts), recipes[recipe], start, stop)
