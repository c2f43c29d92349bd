"""Taking turns on a GPU with the supervisors of other workspaces: when the trainer must wait, or let the GPU go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nightschool import leases
from nightschool.errors import StorageError
from nightschool.leases import Holder
from nightschool.words import escape

WORD = "waiting for GPU"
LOOK_SECONDS = 0.5
ON_GPU = ("beginning", "training", "waiting")
"""What a trainer says it is doing once it has the lease."""
LOST_SECONDS = 5.0
"""A trainer that trains has the lease; one without it for so long has lost it."""


class Turns:
    """What this workspace's supervisor knows of the lease, asked in each round of its loop.

    The trainer takes the lease itself and keeps it as long as it lives. Here is decided when it is started and ended.

    Args:
        name: of the lease; with None there is none, and nobody waits.
        workspace: folder of the workspace.
        clock: monotonic seconds.
    """

    def __init__(self, name: str | None, workspace: Path, clock: Callable[[], float]) -> None:
        self._name = name
        self._folder = workspace
        self._workspace = str(workspace.resolve())
        self._clock = clock
        self._sign = None if name is None else leases.Waiting(name, workspace)
        self._next = 0.0
        self._asked: tuple[bool, bool, bool] | None = None
        self._rest: tuple[str, str] | None = None
        self._entry: int | None = None
        self._began: float | None = None
        self._free_since: float | None = None
        self._lost_since: float | None = None
        self._letting_go: str | None = None

    def look(
        self, trainer_alive: bool, phase: str | None, entry: int | None, wants: bool, ready: bool = True
    ) -> tuple[str, str] | None:
        """The word and the reason while the trainer must not be started, or must be asked to stop; None else.

        Looks at most twice a second, and when the trainer has begun or ended or is wanted anew.

        Args:
            trainer_alive: its process runs.
            phase: what *this* trainer says it is doing; None before it said anything.
            entry: the place in the history that it trains on; None while it trains on none.
            wants: there is work for a trainer, and nothing else keeps it from being run: no pause, no hours, no
                trouble.
            ready: it could train at once. If not, it may load its model on a free GPU, but asks nobody for theirs.
        """
        if self._name is None:
            return None
        now = self._clock()
        asked = (trainer_alive, wants, ready)
        if now >= self._next or self._asked != asked:
            self._next, self._asked = now + LOOK_SECONDS, asked
            try:
                holder = leases.holder(self._name)
            except StorageError:
                self._rest = None  # the trainer meets the same trouble, and its last words tell of it
            else:
                if trainer_alive:
                    found = self._running(holder, phase, entry, now)
                else:
                    found = self._before(holder, wants, ready, now)
                self._rest = None if found is None else (WORD, found)
        return self._rest

    def end(self) -> None:
        """Wait no more."""
        if self._sign is not None:
            self._sign.release()

    def _running(self, holder: Holder | None, phase: str | None, entry: int | None, now: float) -> str | None:
        """Why a trainer that runs must let the GPU go. Once it must, it must, until it has ended."""
        assert self._name is not None
        assert self._sign is not None
        self._free_since = None
        # On a full disk a holder cannot write who it is. A trainer that is past the taking of it is then taken for it.
        nameless = holder is not None and holder.workspace is None and phase in ON_GPU
        if holder is None or not (holder.workspace == self._workspace or nameless):
            return self._without(holder, phase, now)
        self._sign.release()
        self._lost_since = None
        before, self._entry = self._entry, self._entry if entry is None else entry
        if self._began is None and phase == "training":
            self._began = now
        if self._letting_go is None:
            other = leases.somebody_waits(self._name, self._folder)
            at_file_end = phase == "training" and before is not None and before != self._entry
            held = 0.0 if self._began is None else now - self._began
            why = leases.gives_way(other is not None, at_file_end, phase == "waiting", held)
            if why is not None:
                self._letting_go = f"the workspace {escape(other)} comes first now: {why}"
        return self._letting_go

    def _without(self, holder: Holder | None, phase: str | None, now: float) -> str | None:
        """The trainer runs and has not got the lease: it is about to take it, another was faster, or it is lost."""
        if holder is not None and holder.workspace is not None:
            return f"{holder} has it"
        if phase not in ON_GPU:
            self._lost_since = None
            return self._letting_go
        if self._lost_since is None:
            self._lost_since = now
        if now - self._lost_since >= LOST_SECONDS:
            self._letting_go = "the trainer no longer holds the lease, and takes it anew"
        return self._letting_go

    def _before(self, holder: Holder | None, wants: bool, ready: bool, now: float) -> str | None:
        """Why a trainer is not to be started."""
        assert self._name is not None
        assert self._sign is not None
        self._letting_go = self._entry = self._began = self._lost_since = None
        if not (wants and ready):
            self._sign.release()
        if not wants:
            self._free_since = None
            return None
        if ready:
            with suppress(StorageError):  # then nobody knows that we wait, and everybody lets it go sooner or later
                self._sign.acquire()
        if holder is not None:
            self._free_since = None
            # An earlier trainer of ours that is still ending has its own place in the supervisor.
            return None if holder.workspace == self._workspace else f"{holder} has it"
        if self._free_since is None:
            self._free_since = now
        first = next(iter(leases.queue(self._name)), None)
        ours = first is None or first.workspace == self._workspace
        if leases.after_you(now - self._free_since, other_had_it=ours):
            return f"{first} waited for it longer, and comes first"
        return None
