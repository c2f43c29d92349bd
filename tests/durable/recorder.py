"""Notes every change below a folder: exactly where it goes through `nightschool.durable`, by looking where it does not.

`crash` turns such a recording into the states that a power cut may leave.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nightschool import durable

ROOT = 0
Kind = Literal["file", "folder", "link"]
Mark = Callable[[str], None]


@dataclass(frozen=True)
class Enter:
    """A name for a node came into a folder: a creation (file, folder, symbolic link) or a hard link."""

    folder: int
    name: str
    node: int
    text: str


@dataclass(frozen=True)
class Leave:
    """A name went out of a folder."""

    folder: int
    name: str
    node: int
    text: str


@dataclass(frozen=True)
class Move:
    """A rename, replacing what was at the target."""

    folder: int
    name: str
    to_folder: int
    to_name: str
    node: int
    text: str


@dataclass(frozen=True)
class Write:
    """Bytes written at an offset; with offset None the whole content was replaced."""

    node: int
    offset: int | None
    data: bytes
    text: str


@dataclass(frozen=True)
class Sync:
    """An fsync of a file or folder."""

    node: int
    text: str


@dataclass(frozen=True)
class Marked:
    """The recorded action says how far it has come: what was promised by then must hold from then on."""

    label: str
    text: str


Op = Enter | Leave | Move | Write | Sync | Marked


@dataclass
class Disk:
    """Nodes and names. `content` holds a file's bytes or a symbolic link's target; folders are absent from it."""

    kinds: dict[int, Kind] = field(default_factory=lambda: {ROOT: "folder"})
    content: dict[int, bytes] = field(default_factory=dict)
    entries: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})


@dataclass(frozen=True)
class Recording:
    """What was on the disk before, all of it durable, and the operations since. `kinds` covers new nodes as well."""

    base: Disk
    ops: list[Op]
    kinds: dict[int, Kind]


class Recorder(durable.Effects):
    """Does the real thing and notes it, as `ops`; changes that others made below `root` are noted first."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.ops: list[Op] = []
        self.kinds: dict[int, Kind] = {ROOT: "folder"}
        self._nodes: dict[tuple[int, int], int] = {_identity(self.root.stat()): ROOT}
        self._seen: dict[str, int] = {}  # path → node, as of the last look
        self._prints: dict[int, tuple[int, int]] = {}  # node → size, mtime of a file
        self.observe()
        self.base = self._as_disk()
        self.ops.clear()

    def create(self, path: Path) -> int:
        self.observe()
        fd = super().create(path)
        self._enter(path, "create")
        return fd

    def mkdir(self, path: Path) -> None:
        self.observe()
        super().mkdir(path)
        self._enter(path, "mkdir")

    def link(self, source: Path, target: Path) -> None:
        self.observe()
        super().link(source, target)
        self._enter(target, f"link {source.name} to")

    def symlink(self, text: str, path: Path) -> None:
        self.observe()
        super().symlink(text, path)
        self._enter(path, f"symlink to {text}:")
        self.observe()

    def write(self, fd: int, data: memoryview) -> int:
        self.observe()
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        count = super().write(fd, data)
        node = self._nodes.get(_identity(os.fstat(fd)))
        if node is not None:
            name = self._name_of(node)
            self.ops.append(Write(node, offset, bytes(data[:count]), f"write {count} bytes to {name}"))
            self._look_again()
        return count

    def sync(self, fd: int) -> None:
        self.observe()
        super().sync(fd)
        node = self._nodes.get(_identity(os.fstat(fd)))
        if node is not None:
            self.ops.append(Sync(node, f"sync {self._name_of(node)}"))

    def rename(self, source: Path, target: Path) -> None:
        self.observe()
        super().rename(source, target)
        if not os.path.lexists(source):  # it stays where both names were one file already
            self._move(self._key(source), self._key(target))

    def unlink(self, path: Path) -> None:
        self.observe()
        super().unlink(path)
        self._leave(self._key(path))

    def rmdir(self, path: Path) -> None:
        self.observe()
        super().rmdir(path)
        self._leave(self._key(path))

    def mark(self, label: str) -> None:
        """Note that the action has come this far."""
        self.observe()
        self.ops.append(Marked(label, f"say {label!r}"))

    def observe(self) -> None:
        """Note what changed below the root since the last look without passing through here."""
        found = self._scan()
        gone = {name: node for name, node in self._seen.items() if name not in found}
        for name, (identity, _, _) in found.items():
            if name in self._seen and self._nodes.get(identity) != self._seen[name]:
                gone[name] = self._seen[name]  # replaced by another file
        for name in sorted(gone, reverse=True):
            self._leave(name)
        for name in sorted(found):
            if name not in self._seen:
                self._enter(self.root / name, "elsewhere: create")
        for name, (identity, kind, stamp) in found.items():
            node = self._nodes[identity]
            if kind != "folder" and self._prints.get(node) != stamp:
                self._replaced(node, name, kind)
                self._prints[node] = stamp

    def _look_again(self) -> None:
        """Take sizes and times as they are now for known: the change has just been noted."""
        for identity, kind, stamp in self._scan().values():
            if kind != "folder" and (node := self._nodes.get(identity)) is not None:
                self._prints[node] = stamp

    def _scan(self) -> dict[str, tuple[tuple[int, int], Kind, tuple[int, int]]]:
        found: dict[str, tuple[tuple[int, int], Kind, tuple[int, int]]] = {}
        waiting = [self.root]
        while waiting:
            with os.scandir(waiting.pop()) as children:
                for child in children:
                    info = child.stat(follow_symlinks=False)
                    kind = _kind(info.st_mode)
                    if kind == "folder":
                        waiting.append(Path(child.path))
                    name = Path(child.path).relative_to(self.root).as_posix()
                    found[name] = (_identity(info), kind, (info.st_size, info.st_mtime_ns))
        return found

    def _key(self, path: Path) -> str | None:
        """The path below the root as text, or None if it is somewhere else."""
        place = path.parent.resolve() / path.name
        return place.relative_to(self.root).as_posix() if place.is_relative_to(self.root) else None

    def _folder_of(self, name: str) -> int:
        parent = Path(name).parent.as_posix()
        return ROOT if parent == "." else self._seen[parent]

    def _enter(self, path: Path, verb: str) -> None:
        name = self._key(path)
        if name is None:
            return
        info = path.lstat()
        identity = _identity(info)
        node = self._nodes.get(identity)
        if node is None:
            node = self._nodes[identity] = max(self.kinds) + 1
            self.kinds[node] = _kind(info.st_mode)
            if self.kinds[node] == "file" and not verb.startswith("elsewhere"):
                self._prints[node] = (info.st_size, info.st_mtime_ns)
        self._seen[name] = node
        self.ops.append(Enter(self._folder_of(name), Path(name).name, node, f"{verb} {name}"))

    def _leave(self, name: str | None) -> None:
        if name is None or name not in self._seen:
            return
        folder, node = self._folder_of(name), self._seen.pop(name)
        self.ops.append(Leave(folder, Path(name).name, node, f"remove {name}"))
        self._forget(node)

    def _move(self, source: str | None, target: str | None) -> None:
        if source is None and target is None:
            return
        if source is None or target is None:
            raise AssertionError("a rename across the edge of what is recorded; record a folder further up")
        folder, to_folder = self._folder_of(source), self._folder_of(target)
        replaced = self._seen.get(target)
        node = self._seen.pop(source)
        for name in [name for name in self._seen if name.startswith(source + "/")]:
            self._seen[target + name[len(source) :]] = self._seen.pop(name)
        self._seen[target] = node
        text = f"rename {source} to {target}"
        self.ops.append(Move(folder, Path(source).name, to_folder, Path(target).name, node, text))
        if replaced is not None:
            self._forget(replaced)

    def _forget(self, node: int) -> None:
        """The file system may use the number of a node without a name again."""
        if node not in self._seen.values():
            self._nodes = {identity: known for identity, known in self._nodes.items() if known != node}

    def _replaced(self, node: int, name: str, kind: Kind) -> None:
        path = self.root / name
        data = os.fsencode(path.readlink()) if kind == "link" else path.read_bytes()
        if data or node in self._prints:
            self.ops.append(Write(node, None, data, f"elsewhere: write {len(data)} bytes to {name}"))

    def _name_of(self, node: int) -> str:
        return next((name for name, known in self._seen.items() if known == node), "." if node == ROOT else "?")

    def _as_disk(self) -> Disk:
        disk = Disk(dict(self.kinds))
        disk.entries.update({node: {} for node, kind in self.kinds.items() if kind == "folder"})
        for name, node in self._seen.items():
            disk.entries[self._folder_of(name)][Path(name).name] = node
        for op in self.ops:
            if isinstance(op, Write):
                disk.content[op.node] = op.data
        return disk


class WithoutFolderSync(Recorder):
    """A control: what if folders were never synced?"""

    def sync(self, fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            super().sync(fd)


class WithoutFileSync(Recorder):
    """A control: what if the content of files were never synced?"""

    def sync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            super().sync(fd)


def record(root: Path, action: Callable[[Mark], object], recorder_type: type[Recorder] = Recorder) -> Recording:
    """Run `action`, noting every change below `root`; what is there before counts as durable.

    `action` gets a function to call with a label when something has been promised. When it returns, the mark
    "returned" is set; an exception passes through. `WithoutFolderSync` and `WithoutFileSync` as `recorder_type` show
    whether a test would notice that syncs are missing.
    """
    recorder = recorder_type(root)
    with durable.use(recorder):
        action(recorder.mark)
    recorder.mark("returned")
    return Recording(recorder.base, recorder.ops, recorder.kinds)


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _kind(mode: int) -> Kind:
    return "folder" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "file"
