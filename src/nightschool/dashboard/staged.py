"""Files that are sent from the browser: whole or not at all, and kept aside until the person says that they are meant.

A file is streamed into a scratch folder in `.nightschool/tmp`, under its own name, in pieces and with the sender held
back while the disk is slow. Only `add` hands it to the machine, as `nightschool add` would. What is not added goes
after an hour, and at the next start of the page: nothing else knows of it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from starlette.requests import ClientDisconnect

from nightschool import adding, inforce, room
from nightschool.api import Workspace
from nightschool.dashboard.endpoints import NotThere, TooMuch
from nightschool.dashboard.hands import Hands
from nightschool.dashboard.shapes import Add, Added, Upload
from nightschool.errors import BusyError, DataError, NightschoolError, StorageError
from nightschool.intake.glance import Glance, glance
from nightschool.words import escape, in_bytes
from nightschool.workspace import Layout

SCRATCH = f"{adding.SCRATCH}upload-"
"""Folders in `.nightschool/tmp` begin so. The supervisor clears them too, a day later, as those of `add`."""
AT_ONCE = 2
MOST_WAITING = 50
"""Files that were sent and neither added nor thrown away."""
STALLED_SECONDS = 30.0
"""A sender that gives no byte for so long is let go."""
KEPT_SECONDS = 3600.0
PIECE = 1 << 20
"""Bytes that are gathered before they are written."""
COPIES = 2
"""`add` copies the bytes before the machine has them, so for a moment they are there twice."""


@dataclass(eq=False)
class Staged:
    """A file that was sent whole. `busy`: it is being added or thrown away."""

    path: Path
    told: Upload
    expires: float
    busy: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return self.told.name


@dataclass
class Uploads:
    """The files that were sent and wait to be added.

    Args:
        layout: the workspace. What an earlier process has left is cleared.
        clock: monotonic seconds.
        now: the time, aware.
        stalled: see STALLED_SECONDS.
    """

    layout: Layout
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    stalled: float = STALLED_SECONDS
    _staged: dict[str, Staged] = field(default_factory=dict)
    _coming: dict[str, int] = field(default_factory=dict)
    _hands: Hands = field(default_factory=lambda: Hands("uploads", most=None))

    def __post_init__(self) -> None:
        for folder in self.layout.tmp.glob(f"{SCRATCH}*"):
            self._hands.submit(lambda folder=folder: shutil.rmtree(folder, ignore_errors=True))

    async def receive(self, name: str, promised: int, body: AsyncIterator[bytes], checkpoint: int | None) -> Upload:
        """Take a file in.

        Args:
            name: what it is called.
            promised: how many bytes it has.
            body: gives them.
            checkpoint: size of the newest checkpoint: room for the next one is left.

        Raises:
            DataError: it cannot be called so, is empty, is not what was promised, or the sender stopped; nothing stays.
            TooMuch: others are being sent, too many wait, or the disk has no room.
            StorageError: the disk refuses.
        """
        adding.checked_name(name)
        if promised == 0:
            raise DataError(f"{name} is empty.")
        self.sweep()
        if len(self._coming) >= AT_ONCE:
            raise TooMuch(f"{AT_ONCE} files are being sent already. Send this one when they are there.", 429)
        if len(self._staged) >= MOST_WAITING:
            raise TooMuch(f"{MOST_WAITING} files were sent and not added. Add them, or throw them away.", 429)
        id = secrets.token_urlsafe(12)
        self._coming[id] = promised
        folder = self.layout.tmp / f"{SCRATCH}{id}"
        try:
            await self._hands.do(lambda: self._require_room(id, name, checkpoint))
            path = await self._hands.do(lambda: _made(folder) / name)
            await self._fill(path, promised, body)
            found = await self._hands.do(lambda: self._glance(path, name))
            staged = self._stage(id, path, promised, found)
        except BaseException:
            # Also where this task is cancelled: the thread does it after the write that may be under way.
            await asyncio.shield(self._remove(folder))
            raise
        finally:
            del self._coming[id]
        return staged.told

    def get(self, id: str) -> Staged:
        """A file that waits.

        Raises:
            NotThere: there is none with that id, or not any more.
        """
        self.sweep()
        found = self._staged.get(id)
        if found is None:
            raise NotThere(
                "This file is not here any more: it was added, thrown away, or kept for an hour. Send it again."
            )
        return found

    async def add(self, id: str, workspace: Workspace, how: Add) -> Added:
        """Hand it to the machine.

        Raises:
            NotThere: as of `get`.
            BusyError: that is being done already.
            DataError, StorageError: it cannot be added; it is still here.
        """
        staged = self._taken(id)
        try:
            (added,) = await self._hands.do(
                lambda: workspace.add_files(
                    [staged.path], priority=how.priority, epochs=how.epochs, again=how.again, name=staged.name
                )
            )
        except BaseException:
            staged.busy = False
            raise
        await self._drop(id)
        said = _said(added.id, added.name, added.glance)
        return Added(id=added.id, name=added.name, said=said)

    async def discard(self, id: str) -> None:
        """Throw it away. Raises as `add` does."""
        self._taken(id)
        await self._drop(id)

    def sweep(self) -> None:
        """Let go of what was kept for long enough; the files go a moment later."""
        for id, staged in list(self._staged.items()):
            if not staged.busy and self.clock() >= staged.expires:
                del self._staged[id]
                self._submit_removal(staged.path.parent)

    def close(self) -> None:
        """Remove all; returns at once."""
        for staged in self._staged.values():
            self._submit_removal(staged.path.parent)
        self._staged.clear()
        self._hands.close()

    def _require_room(self, id: str, name: str, checkpoint: int | None) -> None:
        try:
            free = room.free_bytes(self.layout.tmp)
        except OSError as error:
            raise StorageError(
                f"The disk of {self.layout.tmp} cannot be asked: {error.strerror}.", error.errno
            ) from None
        keep = room.room_needed(checkpoint, int(inforce.read(self.layout).machine.min_free_gb * room.GB))
        own, every = self._coming[id], list(self._coming.values())
        needed = COPIES * sum(every) + keep
        if free < needed:
            beside = " beside those that are being sent" if len(every) > 1 else ""
            raise TooMuch(
                f"There is no room for {escape(name)}: {in_bytes(COPIES * own)} are needed to take it in{beside}, "
                f"{in_bytes(keep)} must stay free for the next checkpoint and beside it (machine.min_free_gb), and "
                f"{in_bytes(free)} are free. Make room first.",
                413,
            )

    async def _fill(self, path: Path, promised: int, body: AsyncIterator[bytes]) -> None:
        file = await self._hands.do(lambda: _opened(path))
        try:
            came = 0
            async for piece in _gathered(body, self.stalled, path.name):
                came += len(piece)
                if came > promised:
                    break
                await self._hands.do(lambda piece=piece: _write(file, piece))
        finally:
            # Behind a write that may be under way, also where this task is cancelled.
            self._hands.submit(file.close)
        if came != promised:
            more = "more came than" if came > promised else f"only {in_bytes(came)} came of the"
            raise DataError(
                f"{path.name} is not whole: {more} {in_bytes(promised)} that were announced. Send it again."
            )

    def _glance(self, path: Path, name: str) -> Glance:
        try:
            columns = inforce.read(self.layout).inbox.columns
        except NightschoolError:
            columns = {}
        return glance(path, name, columns)

    def _stage(self, id: str, path: Path, size: int, found: Glance) -> Staged:
        told = Upload(
            id=id,
            name=path.name,
            bytes=size,
            looks_like=str(found) or "nothing that can be read",
            warnings=[_warning(found)] if found.problem else [],
            expires_at=(self.now() + timedelta(seconds=KEPT_SECONDS)).astimezone(UTC).isoformat(timespec="seconds"),
        )
        staged = self._staged[id] = Staged(path, told, self.clock() + KEPT_SECONDS)
        # `sweep` is called by whoever comes next; where nobody comes, this does it.
        asyncio.get_running_loop().call_later(KEPT_SECONDS + 1, self.sweep)
        return staged

    def _taken(self, id: str) -> Staged:
        staged = self.get(id)
        if staged.busy:
            raise BusyError(f"{staged.name} is being added or thrown away already.")
        staged.busy = True
        return staged

    async def _drop(self, id: str) -> None:
        staged = self._staged.pop(id)
        await asyncio.shield(self._remove(staged.path.parent))

    def _remove(self, folder: Path) -> asyncio.Future[None]:
        return asyncio.wrap_future(self._submit_removal(folder))

    def _submit_removal(self, folder: Path) -> Future[None]:
        return self._hands.submit(lambda: shutil.rmtree(folder, ignore_errors=True))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StorageError(f"{folder.parent} cannot be written to: {error.strerror}.", error.errno) from None
    return folder


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("xb", buffering=0)
    except OSError as error:
        raise StorageError(f"{escape(path.name)} cannot be kept: {error.strerror}.", error.errno) from None


def _write(file: BinaryIO, piece: bytes) -> None:
    view = memoryview(piece)
    try:
        while view:
            view = view[os.write(file.fileno(), view) :]
    except OSError as error:
        text = f"The disk refuses it: {error.strerror}. Nothing of the file was kept; make room, and send it again."
        raise StorageError(text, error.errno) from None


async def _gathered(body: AsyncIterator[bytes], patience: float, name: str) -> AsyncIterator[bytes]:
    """Pieces of about a MiB of what comes, so that a write is worth a change of threads."""
    piece = bytearray()
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(body)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise DataError(f"{name} is not whole: nothing more came for {patience:.0f} s. Send it again.") from None
        except ClientDisconnect:
            raise DataError(f"{name} is not whole: the connection ended. Send it again.") from None
        piece += chunk
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _warning(found: Glance) -> str:
    what = "It will be rejected" if found.container is None else "Look at it"
    return f"{what}: {found.problem}."


def _said(number: int, name: str, found: Glance | None) -> str:
    text = f"Added {name} as file {number}"
    if found is None:
        return f"{text}."
    text += f": {found}." if str(found) else "."
    return f"{text} {_warning(found)}" if found.problem else text
