"""Every state that a power cut may legally leave behind, made into folders that a test can open.

`record(root, action)` runs `action` and notes every change below `root`: what goes through `nightschool.durable`
exactly, and what other code writes (torch.save, Path.write_text) as soon as durable is next called. `crash_states`
then cuts the power after each operation and enumerates what may be on the disk:

* a file's content is what it was when it was last synced; what was written since may be there, or missing, or there
  by half, or be zeros of the full length;
* an entry of a folder (a creation, link, rename or removal) is certain once the folder has been synced since, and
  until then may have happened or not, each independently of the others. ext4 and XFS keep them in order and so allow
  fewer states than this; a program that survives all of these survives those.
* a rename between two folders happens as a whole, and is certain once both have been synced.

Where one cut has too many combinations, all extremes, all single deviations from them and a fixed random choice of
the rest are taken; `exhaustive` in a state tells which.

    def save(mark):
        durable.write_file(root / "a", "new")
        mark("written")

    for state in crash_states(record(root, save)):
        folder = state.materialise(scratch)
        assert (folder / "a").read_text() == "new" or "written" not in state.marks
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .recorder import (
    ROOT,
    Enter,
    Kind,
    Leave,
    Mark,
    Marked,
    Move,
    Op,
    Recorder,
    Recording,
    Sync,
    WithoutFileSync,
    WithoutFolderSync,
    Write,
    record,
)

__all__ = [
    "Mark",
    "Recorder",
    "Recording",
    "State",
    "WithoutFileSync",
    "WithoutFolderSync",
    "crash_states",
    "holds_unless_broken",
    "record",
]


@dataclass(frozen=True)
class State:
    """One disk as a power cut may leave it: path below the root → (kind, node, content)."""

    tree: dict[str, tuple[Kind, int, bytes]]
    marks: tuple[str, ...]
    story: str
    exhaustive: bool

    def materialise(self, folder: Path) -> Path:
        """Make this state real in `folder`, whose former content is removed; returns the folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        first_name: dict[int, Path] = {}
        for name, (kind, node, content) in self.tree.items():  # a folder comes before what is in it
            path = folder / name
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(os.fsdecode(content))
            elif node in first_name:
                path.hardlink_to(first_name[node])
            else:
                path.write_bytes(content)
                first_name[node] = path
        return folder


def crash_states(recording: Recording, limit: int = 1000, seed: int = 0) -> Iterator[State]:
    """Every different state after a power cut at any point; `limit` bounds the combinations looked at per cut."""
    generator = random.Random(seed)
    known: set[int] = set()
    for cut in range(len(recording.ops) + 1):
        for state in _states_at(recording, cut, limit, generator):
            fingerprint = hash((state.marks, frozenset(state.tree.items())))
            if fingerprint not in known:
                known.add(fingerprint)
                yield state


def holds_unless_broken(promises: Callable[[], None], recorder: type[Recorder]) -> None:
    """Call `promises`, which asserts; with a `recorder` that leaves syncs out, it has to complain."""
    if recorder is Recorder:
        promises()
        return
    try:
        promises()
    except AssertionError:
        return
    raise AssertionError(f"nobody noticed {recorder.__name__}")


def _states_at(recording: Recording, cut: int, limit: int, generator: random.Random) -> Iterator[State]:
    done = recording.ops[:cut]
    marks = tuple(op.label for op in done if isinstance(op, Marked))
    synced = {op.node: index for index, op in enumerate(done) if isinstance(op, Sync)}
    unsure = [index for index, op in enumerate(done) if _pending(op, index, synced)]
    contents = _contents(recording, done, synced)
    torn = [node for node, variants in contents.items() if len(variants) > 1]
    sizes = [2] * len(unsure) + [len(contents[node]) for node in torn]
    exhaustive, choices = _choices(sizes, limit, generator)
    for choice in choices:
        lost = {index for index, happened in zip(unsure, choice, strict=False) if not happened}
        versions = dict(zip(torn, choice[len(unsure) :], strict=True))
        tree = _tree(recording, done, lost, contents, versions)
        yield State(tree, marks, _story(recording, cut, lost, contents, versions), exhaustive)


def _pending(op: Op, index: int, synced: dict[int, int]) -> bool:
    match op:
        case Enter() | Leave():
            return synced.get(op.folder, -1) < index
        case Move():
            return min(synced.get(op.folder, -1), synced.get(op.to_folder, -1)) < index
    return False


def _contents(recording: Recording, done: list[Op], synced: dict[int, int]) -> dict[int, list[bytes]]:
    """For each file what it may hold, the oldest first and the newest last."""
    certain: dict[int, bytes] = dict(recording.base.content)
    newest: dict[int, bytes] = dict(recording.base.content)
    unsure: dict[int, list[Write]] = {node: [] for node in newest}
    for index, op in enumerate(done):
        if isinstance(op, Write):
            newest[op.node] = _apply(newest.get(op.node, b""), op)
            if synced.get(op.node, -1) > index:
                certain[op.node] = newest[op.node]
            else:
                unsure.setdefault(op.node, []).append(op)
    contents: dict[int, list[bytes]] = {}
    for node, new in newest.items():
        variants = [certain.get(node, b"")]
        if unsure.get(node):
            half = new[: len(new) // 2]
            variants += [half, half + variants[0][len(half) :], bytes(len(new))]
            variants += [b"" for write in unsure[node] if write.offset is None]  # truncated, then written
        contents[node] = [variant for variant in dict.fromkeys(variants) if variant != new] + [new]
    for op in recording.ops:  # a symbolic link's target is part of its creation: it cannot tear or be missing
        if isinstance(op, Write) and recording.kinds[op.node] == "link":
            contents[op.node] = [op.data]
    return contents


def _apply(before: bytes, write: Write) -> bytes:
    if write.offset is None:
        return write.data
    padded = before.ljust(write.offset, b"\0")
    return padded[: write.offset] + write.data + padded[write.offset + len(write.data) :]


def _choices(sizes: list[int], limit: int, generator: random.Random) -> tuple[bool, Iterator[tuple[int, ...]]]:
    """All combinations of one choice per place, or a spread of `limit` of them. The last choice is "it happened"."""
    total = 1
    for size in sizes:
        total *= size
        if total > limit:
            return False, itertools.islice(_spread(sizes, generator), limit)
    return True, itertools.product(*(range(size) for size in sizes))


def _spread(sizes: list[int], generator: random.Random) -> Iterator[tuple[int, ...]]:
    nothing, everything = [0] * len(sizes), [size - 1 for size in sizes]
    yield tuple(nothing)
    yield tuple(everything)
    for place, size in enumerate(sizes):
        for value in range(size):
            for base in (nothing, everything):
                yield (*base[:place], value, *base[place + 1 :])
    for place in range(len(sizes)):
        yield (*everything[:place], *nothing[place:])
    while True:
        yield tuple(generator.randrange(size) for size in sizes)


def _tree(
    recording: Recording, done: list[Op], lost: set[int], contents: dict[int, list[bytes]], versions: dict[int, int]
) -> dict[str, tuple[Kind, int, bytes]]:
    entries = {node: dict(names) for node, names in recording.base.entries.items()}
    for index, op in enumerate(done):
        if index in lost:
            continue
        match op:
            case Enter():
                entries.setdefault(op.folder, {})[op.name] = op.node
            case Leave() if entries.get(op.folder, {}).get(op.name) == op.node:
                del entries[op.folder][op.name]
            case Move() if entries.get(op.folder, {}).get(op.name) == op.node:  # else what it moves was never there
                del entries[op.folder][op.name]
                entries.setdefault(op.to_folder, {})[op.to_name] = op.node
    tree: dict[str, tuple[Kind, int, bytes]] = {}
    waiting = [("", ROOT)]
    while waiting:
        prefix, folder = waiting.pop()
        for name, node in sorted(entries.get(folder, {}).items()):
            kind = recording.kinds[node]
            content = b"" if kind == "folder" else contents.get(node, [b""])[versions.get(node, -1)]
            tree[prefix + name] = (kind, node, content)
            if kind == "folder":
                waiting.append((f"{prefix}{name}/", node))
    return tree


def _story(
    recording: Recording, cut: int, lost: set[int], contents: dict[int, list[bytes]], versions: dict[int, int]
) -> str:
    """What happened, for a test that fails."""
    lines = [f"power cut after {cut} of {len(recording.ops)} operations:"]
    for index, op in enumerate(recording.ops[:cut]):
        note = "  LOST" if index in lost else ""
        if isinstance(op, Write) and op.node in versions:
            left, all_of_it = contents[op.node][versions[op.node]], contents[op.node][-1]
            note = "" if left == all_of_it else f"  LEFT {len(left)} of {len(all_of_it)} bytes"
        lines.append(f"  {op.text}{note}")
    return "\n".join(lines)
