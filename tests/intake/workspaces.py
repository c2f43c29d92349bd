"""A workspace for intake tests: made in a moment, looked at as a whole, and interrupted at any change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightschool import durable
from nightschool.intake import accept, watch
from nightschool.intake.worker import Worker
from nightschool.ledger import Arrival, FileRow, Ledger
from nightschool.settings import Settings, parse_settings
from nightschool.workspace import Layout

TODAY = "2026-11-22"


def lines(*rows: Any) -> bytes:
    """JSON Lines of objects; bytes go in as they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


class Workspace:
    """A workspace with its ledger, and what a supervisor and an intake worker would do in it."""

    ledger: Ledger = None  # type: ignore[assignment]

    def __init__(self, root: Path, model: Path | str = "/no/model", **data: Any) -> None:
        self.layout = Layout(root)
        self.layout.create()
        self.model = str(model)
        self.settings = self.with_settings(**data)
        self.layout.settings_file.write_text(f'[model]\nname = "{self.model}"\n')
        if not self.layout.ledger.exists():
            Ledger.create(self.layout.ledger).close()
        self.restart()

    def with_settings(self, **data: Any) -> Settings:
        return parse_settings({"model": {"name": self.model}, "data": {"packing": False, "holdout": 0, **data}})

    def restart(self) -> None:
        """As after a crash: everything in memory is gone."""
        if self.ledger is not None:
            self.ledger.close()
        self.ledger = Ledger.open(self.layout.ledger)
        # Processes die here, not the machine: what the kernel holds is kept without waiting for the disk.
        self.ledger._database._connection.execute("PRAGMA synchronous=OFF")

    def drop(self, name: str, data: bytes, **options: Any) -> int:
        """Put a file into the inbox and report it, as the supervisor does."""
        path = self.layout.inbox / name
        path.write_bytes(data)
        (number,) = self.ledger.files.arrive([Arrival(path.name, str(path), options=options)])
        return number

    def look(self) -> list[int]:
        """Look at the inbox as a supervisor that has just started, with no settling time."""
        ready = watch.settled(None, watch.scan(self.layout.inbox), 0, 0).ready
        return self.ledger.files.arrive([Arrival(item.name, str(item.path), item.priority) for item in ready])

    def worker(self, **options: Any) -> Worker:
        return Worker(self.layout, self.ledger, self.settings, today=lambda: TODAY, **options)

    def work(self, **options: Any) -> list[str]:
        """Let a worker do all there is to do; what it did."""
        worker, done = self.worker(**options), []
        while (did := worker.step()) not in (None, "later"):
            assert did is not None
            done.append(did)
        return done

    def get(self, number: int) -> FileRow:
        return self.ledger.files.get(number)

    def rows(self) -> list[FileRow]:
        return list(self.ledger.files.each())

    def tree(self, *folders: str) -> dict[str, bytes]:
        """Content of the files below these folders of the workspace."""
        root = self.layout.root
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for folder in folders or ("inbox", "archive", "rejected", ".nightschool/incoming", ".nightschool/prepared")
            for path in sorted((root / folder).rglob("*"))
            if path.is_file()
        }

    def picture(self) -> dict[str, Any]:
        """All that must be the same after every crash: the files, and what the ledger says of them."""
        fields = ("id", "name", "sha256", "bytes", "archive", "state", "reason", "rows_good", "rows_bad", "prepared")
        rows = [tuple(getattr(row, field) for field in fields) for row in self.rows()]
        # Times are when things happened, not what.
        tree = {
            name: re.sub(rb"arrived \S+", b"arrived", data)
            for name, data in self.tree().items()
            if not name.endswith((durable.MANIFEST,))
        }
        return {"files": tree, "ledger": rows}


class Killed(BaseException):
    """Stands for the process being gone."""


class Fatal(durable.Effects):
    """A disk under a process that dies ahead of change number `at`; after that nothing is changed any more."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0
        self.names: list[str] = []
        for name in ("create", "write", "sync", "mkdir", "rename", "link", "unlink", "rmdir"):
            setattr(self, name, self._mortal(name, getattr(super(), name)))

    def point(self, name: str) -> None:
        """One more change is about to happen."""
        self.names.append(name)
        if self.count >= self.at:
            raise Killed(name)
        self.count += 1

    def _mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any) -> Any:
            self.point(name)
            return None if name == "sync" else real(*arguments)

        return change


@contextmanager
def dying(workspace: Workspace, at: int) -> Iterator[Fatal]:
    """Run the block until change number `at`, commits of the ledger among them."""
    fatal = Fatal(at)
    database = workspace.ledger._database
    real = database.transaction

    @contextmanager
    def transaction() -> Iterator[None]:
        with real():
            yield
            if database._depth == 1:
                fatal.point("commit")

    database.transaction = transaction
    try:
        with durable.use(fatal):
            yield fatal
    finally:
        del database.transaction


def take(place: Workspace, number: int) -> accept.Outcome:
    """Take in one file."""
    return accept.take(place.layout, place.ledger, place.get(number), TODAY)


def take_all(place: Workspace) -> None:
    """Take in every file that has arrived."""
    while row := place.ledger.files.next_to_take():
        accept.take(place.layout, place.ledger, row, TODAY)


def nested(place: Workspace, name: str, data: bytes, arrive: bool = True, **options: Any) -> int:
    path = place.layout.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return place.ledger.files.arrive([Arrival(name, str(path), options=options)])[0] if arrive else 0
