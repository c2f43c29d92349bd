"""Folders that are whole or not there: staged under a temporary name, sealed with a manifest, then renamed.

`MANIFEST.json` lists every file with its size and SHA-256, and is written last, so a folder with a good manifest is
complete. It carries a hash of itself and has exactly one spelling: a bit flipped in it is found like any other.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nightschool.durable.effects import active, explain, in_words, shown, sync_folder
from nightschool.durable.files import (
    TEMPORARY,
    Copied,
    NotRegular,
    hash_open_file,
    nonce,
    open_regular,
    write_file,
)
from nightschool.errors import StorageError

MANIFEST = "MANIFEST.json"
TRASH = ".trash-"
FORMAT = 1
_LARGEST_MANIFEST = 64 << 20
_OWN_FIELDS = {"format", "files", "manifest_sha256"}


@dataclass(frozen=True)
class Manifest:
    """What a sealed folder holds: each file's size and hash by its path inside the folder, and the caller's fields."""

    files: Mapping[str, Copied]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all the files together, without the manifest."""
        return sum(record.bytes for record in self.files.values())


def staging(parent: Path, label: str) -> Path:
    """Create a folder `parent/.tmp-<label>-<nonce>/` to fill, `seal` and `publish`. What a crash leaves is swept."""
    folder = parent / f"{TEMPORARY}{label}-{nonce()}"
    with in_words("create the folder", folder):
        active().mkdir(folder)
    return folder


def seal(folder: Path, extra: Mapping[str, Any] | None = None, known: Mapping[str, Copied] | None = None) -> Manifest:
    """Make every file below `folder` durable, hash it, and write `MANIFEST.json` last, with `extra` in it.

    Files in `known`, by their path inside the folder, are not read again: the caller has just seen that their content
    has this hash. Their size is looked at.

    Raises StorageError, and writes no manifest, if a file cannot be synced: drop the folder then and write it anew.
    Syncing the same file a second time would succeed and prove nothing.
    """
    fields = json.loads(json.dumps(dict(extra or {})))  # as it will be read again: text keys, lists
    if taken := _OWN_FIELDS & fields.keys():
        raise ValueError(f"the manifest itself needs the names {sorted(taken)}")
    files: dict[str, Copied] = {}
    folders = [folder]
    for path, is_folder in _walk(folder):
        if is_folder:
            folders.append(path)
        elif path != folder / MANIFEST:
            name = path.relative_to(folder).as_posix()
            files[name] = _sync_and_hash(path, (known or {}).get(name))
    for inner in reversed(folders):
        with in_words("save", inner):
            sync_folder(inner)
    manifest = Manifest(files, fields)
    write_file(folder / MANIFEST, _render(manifest))
    return manifest


def publish(folder: Path, final: Path) -> None:
    """Rename a sealed folder to its final name, which must be free, and make that durable; or leave it as it was."""
    if os.path.lexists(final):
        raise StorageError(
            f"Cannot put a folder at {shown(final)}: that name is already taken, and nothing is overwritten here.",
            errno.EEXIST,
        )
    with in_words("publish", final):
        active().rename(folder, final)
        try:
            sync_folder(final.parent)
            if folder.parent != final.parent:
                sync_folder(folder.parent)
        except OSError:
            with suppress(OSError):  # nobody may pick what is not certain, and the name must be free for the next try
                active().rename(final, folder)
            raise


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a sealed folder, itself checked. Raises StorageError if it is missing or damaged."""
    manifest, problem = _load(folder)
    if manifest is None:
        raise StorageError(f"{shown(folder)}: {problem}.")
    return manifest


def check(folder: Path, deep: bool = True, between: Callable[[], Any] | None = None) -> list[str]:
    """What is wrong with a sealed folder, in words that name the file; an empty list means that it is whole.

    Not `deep` compares sizes only, and costs no reading. Files that the manifest does not list are no problem.
    `between` is called again and again while bytes are read; what it raises ends the reading.
    """
    manifest, problem = _load(folder)
    if manifest is None:
        return [problem]
    problems = (_compare(folder, name, record, deep, between) for name, record in manifest.files.items())
    return [problem for problem in problems if problem]


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, or a file. It vanishes from its name at once, durably, then is deleted.

    So a crash never leaves half of it under a name that someone might pick. What else is in the parent folder is made
    certain first: whatever is the reason for removing this one must not be lost before it is. Nothing happens if it
    is not there.
    """
    trash = path.parent / f"{TRASH}{nonce()}"
    if not os.path.lexists(path):
        return
    with in_words("remove", path):
        sync_folder(path.parent)
        try:
            active().rename(path, trash)
        except FileNotFoundError:
            return
        sync_folder(path.parent)
        _delete(trash)


def sweep(folder: Path) -> list[str]:
    """Remove what a crash left directly in `folder` under a temporary name; returns those names.

    Also syncs the folder, so that what the caller now sees in it stays, even if the run before was killed between
    a rename and its sync.
    """
    if not folder.is_dir():
        return []
    with in_words("clean up", folder):
        leftovers = sorted(child for child in folder.iterdir() if child.name.startswith((TEMPORARY, TRASH)))
        for leftover in leftovers:
            _delete(leftover)
        sync_folder(folder)
    return [leftover.name for leftover in leftovers]


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Every file and folder below `folder`, a folder before what is in it, in a fixed order."""
    with in_words("read", folder):
        children = sorted(folder.iterdir())
    for child in children:
        with in_words("read", child):
            is_folder = stat.S_ISDIR(child.lstat().st_mode)
        yield child, is_folder
        if is_folder:
            yield from _walk(child)


def _sync_and_hash(path: Path, known: Copied | None = None) -> Copied:
    fd, before = open_regular(path)
    try:
        with in_words("save", path):
            active().sync(fd)
        with in_words("read", path):
            record = known or hash_open_file(fd)
            after = os.fstat(fd)
    finally:
        active().close(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or record.bytes != after.st_size:
        raise StorageError(f"{shown(path)} was written to while its folder was being sealed. Close it before sealing.")
    return record


def _render(manifest: Manifest) -> bytes:
    """The one spelling of a manifest. Non-ASCII is escaped, so that even a name that is no text comes back."""
    listed = {name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in manifest.files.items()}
    body = {**manifest.extra, "format": FORMAT, "files": listed}
    body["manifest_sha256"] = hashlib.sha256(_spell(body)).hexdigest()
    return _spell(body)


def _spell(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def _load(folder: Path) -> tuple[Manifest | None, str]:
    """The manifest, or None and what is wrong with it."""
    try:
        fd, found = open_regular(folder / MANIFEST)
    except NotRegular as error:
        return None, str(error).rstrip(".")
    except StorageError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return None, str(error).rstrip(".")
        there = folder.is_dir()
        return None, f"{MANIFEST} is missing: it was never finished" if there else "the folder is not there"
    try:
        if found.st_size > _LARGEST_MANIFEST:
            return None, f"{MANIFEST} is damaged: {found.st_size} bytes is more than any manifest has"
        raw = os.read(fd, found.st_size + 1)
    except OSError as error:
        return None, str(explain("read", folder / MANIFEST, error)).rstrip(".")
    finally:
        active().close(fd)
    try:
        body = json.loads(raw)
        if body["format"] > FORMAT:
            return None, f"{MANIFEST} has format {body['format']:d}; this version of nightschool reads up to {FORMAT}"
        files = {name: Copied(record["sha256"], record["bytes"]) for name, record in body["files"].items()}
        extra = {key: value for key, value in body.items() if key not in _OWN_FIELDS}
        manifest = Manifest(files, extra)
        if _render(manifest) == raw:
            return manifest, ""
    # A file full of rubbish can fail in any of these ways; all of them mean the same.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        pass
    return None, f"{MANIFEST} is damaged: it does not match its own hash"


def _compare(folder: Path, name: str, record: Copied, deep: bool, between: Callable[[], Any] | None) -> str | None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        return f"{shown(name)} leads out of the folder"
    path = folder.joinpath(*parts)
    try:
        if any(outer.is_symlink() for outer in list(path.parents)[: len(parts) - 1]):
            return f"{shown(name)} is reached through a symbolic link"
        fd, found = open_regular(path)
    except ValueError:  # a zero byte, or text that no file system can hold
        return f"{shown(name)} is no possible file name"
    except OSError as error:
        return str(explain("read", path, error)).rstrip(".")
    except NotRegular as error:
        return str(error).rstrip(".")
    except StorageError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return f"{shown(name)} is missing" if missing else str(error).rstrip(".")
    try:
        if found.st_size != record.bytes:
            return f"{shown(name)} has {found.st_size} bytes instead of {record.bytes}"
        if deep and hash_open_file(fd, between) != record:
            return f"{shown(name)} has changed: its content does not match its hash"
    except OSError as error:
        return str(explain("read", path, error)).rstrip(".")
    finally:
        active().close(fd)
    return None


def _delete(path: Path) -> None:
    """Delete without following links; what someone else deletes meanwhile is fine."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            active().unlink(path)
            return
        for child in list(path.iterdir()):
            _delete(child)
        active().rmdir(path)
