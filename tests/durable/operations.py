"""Every operation of `durable` on a prepared folder, for tests that make it fail.

Also a program, so that the same can be done in a process of its own: `python operations.py FOLDER OPERATION` prints
the errno and message of the StorageError as JSON, or nulls.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nightschool import durable
from nightschool.errors import StorageError

OPERATIONS = [
    "write_file",
    "copy_file",
    "save",
    "replace_file",
    "replace_link",
    "link_or_copy",
    "remove_tree",
    "make_dirs",
    "sweep",
]
CHECKPOINT = {"model": b"weights" * 20, "optimizer.pt": b"moments" * 20}
SOURCE = "the source content"


def prepare(root: Path) -> None:
    """A folder with something old in it for each operation to work on."""
    root.mkdir(exist_ok=True)
    (root / "old").write_text("the old content")
    (root / "source").write_text(SOURCE)
    (root / ".tmp-ready").write_text("the ready content")
    old = durable.staging(root, "old")
    (old / "model").write_text("older weights")
    durable.seal(old)
    durable.publish(old, root / "checkpoint-1")
    (root / "latest").symlink_to("checkpoint-1")
    (root / ".trash-left").mkdir()
    (root / ".trash-left/x").write_text("x")


def operate(root: Path, operation: str) -> None:
    """Carry out one operation in a prepared folder."""
    match operation:
        case "write_file":
            durable.write_file(root / "old", "the new content")
        case "copy_file":
            durable.copy_file(root / "source", root / "a/b/target")
        case "save":
            folder = durable.staging(root, "2")
            for name, data in CHECKPOINT.items():
                (folder / name).write_bytes(data)
            durable.seal(folder)
            durable.publish(folder, root / "checkpoint-2")
        case "replace_file":
            durable.replace_file(root / ".tmp-ready", root / "old")
        case "replace_link":
            durable.replace_link(root / "latest", "checkpoint-2")
        case "link_or_copy":
            durable.link_or_copy(root / "source", root / "second-name")
        case "remove_tree":
            durable.remove_tree(root / "checkpoint-1")
        case "make_dirs":
            durable.make_dirs(root / "x/y/z")
        case "sweep":
            durable.sweep(root)


def the_old_state_stands(root: Path, operation: str) -> None:
    """What was there before is there, or the complete new thing is in its place."""
    news = {"write_file": "the new content", "replace_file": "the ready content"}
    assert (root / "old").read_text() in {"the old content", news.get(operation)}
    assert (root / "source").read_text() == SOURCE
    assert str((root / "latest").readlink()) in {"checkpoint-1", "checkpoint-2"}
    assert not (root / "a/b/target").exists(), "a copy that nobody was told of"
    assert not (root / "checkpoint-2").exists(), "a checkpoint that nobody was told of"
    assert not (root / "second-name").exists(), "a link that nobody was told of"
    if operation != "remove_tree" or (root / "checkpoint-1").exists():
        assert durable.check(root / "checkpoint-1") == []


def finished(root: Path, operation: str) -> bool:
    """Whether the operation's result is there."""
    match operation:
        case "write_file":
            return (root / "old").read_text() == "the new content"
        case "copy_file":
            return (root / "a/b/target").read_text() == SOURCE
        case "save":
            found = {name: (root / "checkpoint-2" / name).read_bytes() for name in CHECKPOINT}
            return durable.check(root / "checkpoint-2") == [] and found == CHECKPOINT
        case "replace_file":
            return (root / "old").read_text() == "the ready content" and not (root / ".tmp-ready").exists()
        case "replace_link":
            return str((root / "latest").readlink()) == "checkpoint-2"
        case "link_or_copy":
            return (root / "second-name").read_text() == SOURCE
        case "remove_tree":
            return not (root / "checkpoint-1").exists()
        case "make_dirs":
            return (root / "x/y/z").is_dir()
    return not (root / ".trash-left").exists()


if __name__ == "__main__":
    code, message = None, None
    try:
        operate(Path(sys.argv[1]), sys.argv[2])
    except StorageError as error:
        code, message = error.errno, str(error)
    print(json.dumps({"errno": code, "message": message}))
