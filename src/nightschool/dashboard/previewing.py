"""Previews of files that were sent: `nightschool preview` in a child process, one at a time, behind all other work.

What it needs (tokenizers, transformers) is large and slow, and what it reads is anybody's: neither belongs into the
process that serves the page. It is on a lifeline, a pipe of which only the page has the other end: where the page is
killed, it ends too.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from nightschool.dashboard.endpoints import TooMuch
from nightschool.dashboard.shapes import Preview
from nightschool.dashboard.staged import Staged
from nightschool.errors import BusyError, DataError
from nightschool.workspace import Layout

LIMIT_SECONDS = 300.0
"""Of wall time, and of processor time too."""
MOST_WAITING = 8
KEPT = 8
"""Previews that are remembered of one file."""
OUTPUT_BYTES = 32 << 20
POLL_SECONDS = 0.25
END_SECONDS = 10.0
NICE = 15

Gone = Callable[[], Awaitable[bool]]
"""Whether whoever asked does not wait any more."""


class Previews:
    """Makes previews and remembers them as long as the file waits.

    Args:
        layout: the workspace.
        command: what makes one: given a file and a number of rows, the program and its arguments; `--lifeline FD` is
            added.
        limit: see LIMIT_SECONDS.
    """

    def __init__(
        self,
        layout: Layout,
        command: Callable[[Path, int], Sequence[str]] | None = None,
        limit: float = LIMIT_SECONDS,
    ) -> None:
        self._command = command or (lambda path, rows: _command(layout, path, rows))
        self._limit = limit
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._made: WeakKeyDictionary[Staged, dict[int, Preview]] = WeakKeyDictionary()

    async def of(self, staged: Staged, rows: int, gone: Gone) -> Preview:
        """What the model would see of a file.

        Args:
            staged: the file.
            rows: read so many; 0: all.
            gone: asked now and then; where it says yes, the work is ended.

        Raises:
            DataError: it cannot be looked at, or not in time.
            TooMuch: too many wait for theirs.
        """
        known = self._made.setdefault(staged, {})
        if rows not in known:
            if self._waiting >= MOST_WAITING:
                raise TooMuch(f"{self._waiting} previews are being made already. Try again in a moment.", 429)
            self._waiting += 1
            try:
                async with self._turn:
                    # Somebody else may have asked for the same.
                    if rows not in known:
                        preview = await self._make(staged, rows, gone)
                        while len(known) >= KEPT:
                            del known[next(iter(known))]
                        known[rows] = preview
            finally:
                self._waiting -= 1
        return known[rows]

    async def _make(self, staged: Staged, rows: int, gone: Gone) -> Preview:
        if await gone():
            raise BusyError("Nobody waits for this preview any more.")
        # Both ends are close-on-exec: no other child of the page holds one.
        read_end, write_end = os.pipe()
        try:
            return await self._made_by(read_end, staged, rows, gone)
        finally:
            os.close(write_end)

    async def _made_by(self, lifeline: int, staged: Staged, rows: int, gone: Gone) -> Preview:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(staged.path, rows), "--lifeline", str(lifeline),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                start_new_session=True, env=_environment(), pass_fds=(lifeline,),
            )  # fmt: skip
        finally:
            os.close(lifeline)
        _put_behind(process.pid)
        work = asyncio.ensure_future(_output(process))
        watch = asyncio.ensure_future(_until(gone))
        try:
            await asyncio.wait({work, watch}, timeout=self._limit, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return _read(staged, await work, process.returncode or 0)
            if watch.done():
                raise BusyError("Nobody waits for this preview any more.")
            raise DataError(
                f"A preview of {staged.name} takes more than {self._limit:.0f} s. Ask for fewer rows, or use "
                "`nightschool preview` on the file."
            )
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
            await asyncio.shield(_ended(process))


def _command(layout: Layout, path: Path, rows: int) -> Sequence[str]:
    program = [sys.executable, "-P", "-m", "nightschool", "-C", str(layout.root)]
    return [*program, "preview", str(path), "--json", "--rows", str(rows)]


def _environment() -> dict[str, str]:
    """The network and the GPU are not for it, and of the processors one is enough."""
    own = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}


def _put_behind(pid: int) -> None:
    """Let everything else go first, also where memory runs out. Set from here: after a fork of a process with threads
    nothing of Python's may run in the child."""
    seconds = int(LIMIT_SECONDS)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    with suppress(OSError, ValueError):
        resource.prlimit(pid, resource.RLIMIT_CPU, (seconds, seconds + 5))
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


async def _output(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """What it says on both streams, of each no more than is sensible."""
    assert process.stdout is not None
    assert process.stderr is not None
    both = [asyncio.ensure_future(_bounded(stream)) for stream in (process.stdout, process.stderr)]
    try:
        out, err = await asyncio.gather(*both)
    finally:
        # One that is given up leaves the other reading, and a stream has one reader only.
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)
    await process.wait()
    return out, err


async def _bounded(stream: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while piece := await stream.read(1 << 16):
        if len(found) + len(piece) > OUTPUT_BYTES:
            raise DataError("The preview of this file is too large to be shown. `nightschool preview` shows it.")
        found += piece
    return bytes(found)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End it, and what it may have started, and collect it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # where all have ended, there is no such group any more
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    with suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            # `wait` does not return while something is left to be read.
            await asyncio.gather(*(_emptied(stream) for stream in streams))
            await process.wait()


async def _emptied(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


async def _until(gone: Gone) -> None:
    while not await gone():
        await asyncio.sleep(POLL_SECONDS)


def _read(staged: Staged, output: tuple[bytes, bytes], code: int) -> Preview:
    out, err = output
    if code == 0:
        try:
            return msgspec.json.decode(out, type=Preview)
        except msgspec.MsgspecError as error:
            raise DataError(f"The preview of {staged.name} cannot be read: {error}.") from None
    # Errors for people are one line that begins so; before it there may be warnings of libraries.
    said = [
        line.partition(": ")[2] for line in err.decode(errors="replace").splitlines() if line[:13] == "nightschool: "
    ]
    if said:
        raise DataError(said[-1])
    why = f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
    raise DataError(f"{staged.name} could not be looked at: {why}. `nightschool preview` on the file says more.")
