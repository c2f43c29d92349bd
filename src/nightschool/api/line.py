"""The queue: what waits, in which order, and for how long; what is in training may be skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from nightschool.api.opened import Opened
from nightschool.errors import SettingsError

if TYPE_CHECKING:
    from nightschool.forecast import Queue

File = str | int
"""A file's name, or its number."""


class Line(Opened):
    """The part of `Workspace` that is about the queue.

    Methods that change it return what was done, in a sentence, and raise DataError where a file is not found or is not
    in a state that allows it; then nothing was changed. They work whether the machine runs or not.
    """

    def queue(self, limit: int = 50) -> Queue:
        """What waits to be learned, the first `limit` files of it, and how long all of it takes.

        Raises:
            WorkspaceError, StorageError: the ledger is not there or cannot be read.
        """
        from nightschool.forecast import read_queue

        return read_queue(self.layout, limit)

    def skip(self, *, shelve: bool = False, file: int | None = None) -> str:
        """Put the file in training behind all that waits, or, with `shelve`, set it aside, what it has learned kept.

        The trainer does so at its next step, or when it is started. With `file`, the number of a file, only if that is
        the one in training.
        """
        from nightschool import ordering

        with self.ledger() as ledger:
            return ordering.skip(ledger, shelve, file)

    def settings_now(self) -> str:
        """Let the file in training go on with the settings as they are now, where they do not decide its steps.

        Raises:
            SettingsError: the settings file cannot be used, or all that differs is for the next file or a new run.
        """
        from nightschool import durable, inforce, ordering
        from nightschool.settings.changes import changes

        settings = self.settings
        if durable.holder(self.layout.supervisor_lock) is not None:
            # A running machine takes the file as a whole or not at all, and so does this.
            fixed = [change for change in changes(inforce.read(self.layout), settings) if change.kind == "run"]
            if fixed:
                names = ", ".join(map(str, fixed))
                raise SettingsError(f"{names}: that is fixed for a run, so nothing in the file is taken. Put it back.")
        with self.ledger() as ledger:
            return ordering.resettle(ledger, settings)

    def move(self, file: File, where: Literal["first", "last", "before"], other: File | None = None) -> str:
        """Move a waiting file to the head of the queue, behind all that wait with its priority, or before `other`."""
        from nightschool import queueing
        from nightschool.snapshots.forget import find

        if (where == "before") != (other is not None):
            raise ValueError("`other` goes with `before`")
        with self.ledger() as ledger:
            (row,) = find(ledger, [str(file)])
            return queueing.move(ledger, row, where if other is None else find(ledger, [str(other)])[0])

    def set_priority(self, files: Sequence[File], priority: Literal["now", "high", "normal", "low"]) -> str:
        """Give waiting files another priority; `now` interrupts the file in training, which goes on afterwards."""
        from nightschool import queueing
        from nightschool.snapshots.forget import find

        if priority not in queueing.PRIORITIES:
            raise ValueError(f"priority is one of {', '.join(queueing.PRIORITIES)}, not {priority!r}")
        with self.ledger() as ledger:
            return queueing.set_priority(ledger, find(ledger, map(str, files)), priority)

    def remove(self, files: Sequence[File]) -> str:
        """Take waiting files out of the queue: set aside, their bytes kept."""
        from nightschool import queueing
        from nightschool.snapshots.forget import find

        with self.ledger() as ledger:
            return queueing.remove(ledger, find(ledger, map(str, files)))

    def put_back(self, files: Sequence[File]) -> str:
        """Put files that are set aside to the end of the queue: whole, or with the steps that are left of them."""
        from nightschool import queueing
        from nightschool.snapshots.forget import find

        with self.ledger() as ledger:
            return queueing.put_back(ledger, find(ledger, map(str, files)))
