"""Stand-ins for the real disk: one that fails at a chosen operation, one that kills the process there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightschool import durable

CHANGES = ("create", "write", "sync", "mkdir", "rename", "link", "symlink", "unlink", "rmdir")


class Hooked(durable.Effects):
    """Calls `before(number, name, args)` ahead of every change, numbered from 0, and `after` behind it."""

    def __init__(
        self, before: Callable[[int, str, tuple[Any, ...]], None], after: Callable[[int, str], None] | None = None
    ) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        for name in CHANGES:
            setattr(self, name, self._hooked(name, getattr(super(), name), before, after))

    def _hooked(self, name: str, real: Callable[..., Any], before: Any, after: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            number = len(self.calls)
            self.calls.append((name, args))
            before(number, name, args)
            result = real(*args)
            if after is not None:
                after(number, name)
            return result

        return call


def failing(at: int, errno_value: int, kinds: tuple[str, ...] = CHANGES) -> Hooked:
    """A disk whose `at`-th change among `kinds` fails; every other works, as a full disk still lets one remove."""
    seen = 0

    def before(_: int, name: str, __: tuple[Any, ...]) -> None:
        nonlocal seen
        if name in kinds:
            seen += 1
            if seen == at + 1:
                raise OSError(errno_value, os.strerror(errno_value))

    return Hooked(before)


def failing_always(errno_value: int, kinds: tuple[str, ...]) -> Hooked:
    """A disk on which none of `kinds` ever works."""

    def before(_: int, name: str, __: tuple[Any, ...]) -> None:
        if name in kinds:
            raise OSError(errno_value, os.strerror(errno_value))

    return Hooked(before)


def counting() -> Hooked:
    """The real disk; `calls` lists the changes."""
    return Hooked(lambda *_: None)


def killed_at(point: int, action: Callable[[], object]) -> bool:
    """Run `action` in a forked child that gets SIGKILL ahead of change number `point`; whether it was killed."""
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            with durable.use(Hooked(lambda number, *_: _die() if number == point else None)):
                action()
            failed = 0
        finally:
            os._exit(failed)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), "the action failed in the child"
    return code != 0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def files_below(folder: Path) -> dict[str, bytes]:
    """Content of every plain file below a folder by its path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
