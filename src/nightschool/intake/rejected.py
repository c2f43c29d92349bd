"""The folder `rejected/`: files that could not be used beside NAME.why.txt, and single rows in NAME.bad-rows.jsonl.

Everything here can be done again after a crash and gives the same names: what is there already with the same content is
taken as done, and nothing of someone else's is overwritten.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.intake.reasons import Reasons
from nightschool.intake.rows import BadRow
from nightschool.intake.sidecar import ENDING as SIDECAR
from nightschool.ledger.files import FileRow
from nightschool.ledger.ledger import Ledger
from nightschool.words import escape
from nightschool.workspace import Layout

WHY, BAD_ROWS = ".why.txt", ".bad-rows.jsonl"
MOST_BYTES = 64 << 20
"""Size of a bad-rows file, at most: a file of nothing but noise is in `rejected/` itself."""


def names(name: str, number: int) -> Iterator[str]:
    """Names to try for a file: its own, then with its number in the ledger, then with a count behind that.

    With the folders of its name, and by turns without them: one of the folders' names may be another file's already.
    Whatever a caller passed as the name, none of these leads out of the folder that it is meant for.
    """
    path = _inside(name)
    yield str(path)
    for count in itertools.count(1):
        other = f"{path.stem}-{number}{f'-{count}' if count > 1 else ''}{path.suffix}"
        yield str(path.with_name(other))
        if path.parent.parts:
            yield other


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        path = PurePosixPath(path.name)
    if path.name in ("", ".."):
        path = PurePosixPath("file")
    # Names that a sweep would take for something unfinished.
    return PurePosixPath(*(f"_{part}" if part.startswith((".tmp-", ".trash-")) else part for part in path.parts))


def free(folder: Path, name: str) -> bool:
    """Whether `name` can be made in `folder`: nothing has it, and what lies above it are folders."""
    path = folder / name
    return not os.path.lexists(path) and reachable(folder, name)


def reachable(folder: Path, name: str) -> bool:
    """Whether everything between `folder` and `name` is a folder, or can become one."""
    above = folder / name
    while (above := above.parent) != folder and above != above.parent:
        if os.path.lexists(above):
            return above.is_dir()
    return True


def why(row: FileRow, reason: str, where: str) -> str:
    """The text of NAME.why.txt. The same for the same file and reason, so that it can be recognised."""
    return (
        f"{escape(row.name)} was not learned.\n\n"
        f"Why: {escape(reason)}\n\n"
        f"The file: {where}\n"
        "What to do: put it right and drop it into inbox/ again. Nothing was learned from it.\n\n"
        f"(file {row.id}, arrived {row.arrived_at}{f', SHA-256 {row.sha256}' if row.sha256 else ''})\n"
    )


class BadRows:
    """Collects the bad rows of one file on disk, and what the reasons were."""

    def __init__(self, layout: Layout, number: int) -> None:
        layout.tmp.mkdir(parents=True, exist_ok=True)
        self.path = layout.tmp / f"bad-rows-{number}{BAD_ROWS}"
        self._file = self.path.open("w", encoding="utf-8", newline="\n")
        self._left_out = 0
        self._bytes = 0
        self._reasons = Reasons()

    @property
    def count(self) -> int:
        """How many there are."""
        return self._reasons.count

    def add(self, row: BadRow) -> None:
        """Take note of a bad row."""
        self._reasons.add(row)
        line = json.dumps({"line": row.number, "reason": str(row), "row": row.preview}, ensure_ascii=False) + "\n"
        if self._bytes + 3 * len(line) > MOST_BYTES:
            self._left_out += 1
            return
        self._bytes += len(line.encode("utf-8", "backslashreplace"))
        self._file.write(line.encode("utf-8", "backslashreplace").decode())

    def close(self) -> None:
        """Write what waits."""
        if not self._file.closed:
            if self._left_out:
                self._file.write(json.dumps({"left_out": self._left_out}) + "\n")
            self._file.close()

    def summary(self) -> str:
        """The reasons, the most frequent first, with the first lines they were found in."""
        return self._reasons.summary()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def keep_bad_rows(layout: Layout, row: FileRow, bad: BadRows) -> str | None:
    """Put the bad rows of a file that is used otherwise into `rejected/`; the name of the file there."""
    if not bad.count:
        return None
    bad.close()
    place = _place(layout, row, {BAD_ROWS: _sha256(bad.path)})
    durable.make_dirs((layout.rejected / place).parent)
    _put(bad.path, layout.rejected / (place + BAD_ROWS))
    return place + BAD_ROWS


def reject(layout: Layout, ledger: Ledger, row: FileRow, reason: str, bad: BadRows | None = None) -> None:
    """Refuse a file: say why in `rejected/` and in the ledger, then move its archived bytes there.

    After a crash in between, doing it again, or `finish`, leads to the same end.
    """
    text = why(row, reason, _where(row))
    wanted = {WHY: hashlib.sha256(text.encode()).hexdigest(), **_settings(layout, row)}
    if bad is not None and bad.count:
        bad.close()
        wanted[BAD_ROWS] = _sha256(bad.path)
    place = _place(layout, row, wanted)
    durable.make_dirs((layout.rejected / place).parent)
    if bad is not None and bad.count:
        _put(bad.path, layout.rejected / (place + BAD_ROWS))
    durable.write_file(layout.rejected / (place + WHY), text)
    rows_bad = bad.count if bad is not None else None
    twins = ledger.files.duplicates_of(row.id)
    sources = _hand_over(layout, row, twins)
    with ledger.transaction():
        ledger.files.reject(row.id, reason, **({} if rows_bad is None else {"rows_bad": rows_bad}))
        ledger.events.add("file-rejected", f"{row.name}: {reason}", file=row.id)
        for twin, source in zip(twins, sources, strict=False):
            ledger.files.arrived_again(twin.id, source)
            text = f"{twin.name} is taken after all: {row.name}, which has the same bytes, was rejected"
            ledger.events.add("file-arrived-again", text, file=twin.id, of=row.id)
    finish(layout, ledger, ledger.files.get(row.id))


def _hand_over(layout: Layout, row: FileRow, twins: list[FileRow]) -> list[Path]:
    """Give each duplicate of a file the bytes, in `incoming/`: refused under one name, good under another.

    Nothing where the bytes in the archive are not those that the duplicates had.
    """
    archived = layout.root / (row.archive or "")
    if not twins or row.archive is None or not archived.is_file() or _sha256(archived) != row.sha256:
        return []
    places = [layout.incoming / f"again-{twin.id}-{row.sha256}" for twin in twins]
    for place in places:
        if not place.exists():  # left there by a crash
            # Not linked: people mend what is in `rejected/` in place, and that must not reach another file's archive.
            half = layout.incoming / "taken" / place.name
            durable.remove_file(half)
            durable.copy_file(archived, half)
            durable.replace_file(half, place)
    return places


def finish(layout: Layout, ledger: Ledger, row: FileRow) -> None:
    """Move the archived bytes of a rejected file to `rejected/`, if that is still to be done."""
    if row.state != "rejected" or row.archive is None or not row.archive.startswith("archive/"):
        return
    archived = layout.root / row.archive
    beside = layout.root / (row.archive + SIDECAR)
    text = why(row, row.reason or "", _where(row))
    place = _place(layout, row, {WHY: hashlib.sha256(text.encode()).hexdigest(), **_settings(layout, row)})
    target = layout.rejected / place
    if archived.exists() or beside.exists():
        durable.make_dirs(target.parent)
        if not (layout.rejected / (place + WHY)).exists():
            durable.write_file(layout.rejected / (place + WHY), text)
        for source, name in ((beside, place + SIDECAR), (archived, place)):
            if not source.exists():
                continue
            if not (layout.rejected / name).exists():
                durable.link_or_copy(source, layout.rejected / name)
            durable.remove_file(source)
    if target.exists():
        ledger.files.reject(row.id, row.reason or "", archive=f"{layout.rejected.name}/{place}")


def _settings(layout: Layout, row: FileRow) -> dict[str, str]:
    """The settings that lie beside a file's archived bytes: their ending and SHA-256."""
    beside = layout.root / ((row.archive or "") + SIDECAR)
    return {SIDECAR: _sha256(beside)} if row.archive and beside.is_file() else {}


def _where(row: FileRow) -> str:
    if row.archive is None:
        return f"it was left where it is, {escape(row.source)}"
    return "it lies beside this text, byte for byte as it was dropped"


def _place(layout: Layout, row: FileRow, wanted: dict[str, str]) -> str:
    """The first name under which everything wanted (ending to SHA-256) is free, or is there with just that content."""
    durable.make_dirs(layout.rejected)
    for name in names(row.name, row.id):
        own = {**wanted, "": row.sha256 or ""}
        if reachable(layout.rejected, name) and all(
            _free_or_same(layout.rejected / (name + ending), digest) for ending, digest in own.items()
        ):
            return name
    raise AssertionError("unreachable: there are names without end")


def _free_or_same(path: Path, digest: str) -> bool:
    if not os.path.lexists(path):
        return True
    return path.is_file() and not path.is_symlink() and _sha256(path) == digest


def _put(source: Path, target: Path) -> None:
    if target.exists():
        source.unlink(missing_ok=True)
        return
    try:
        durable.replace_file(source, target)
    except StorageError as error:
        if error.errno != errno.EXDEV:
            raise
        durable.copy_file(source, target)
        source.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
