"""The past of a run: saved states, going back to one, forgetting, and giving away what was learned."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool.api.opened import Opened

if TYPE_CHECKING:
    from nightschool.snapshots.compare import Difference
    from nightschool.snapshots.listing import Listed
    from nightschool.snapshots.purge import Trace
    from nightschool.snapshots.retention import Verdict
    from nightschool.snapshots.rollback import Later, Plan
    from nightschool.snapshots.second import Summary
    from nightschool.snapshots.states import Snapshot


class Past(Opened):
    """The part of `Workspace` that is about saved states."""

    def rollback(
        self,
        to: str | int,
        later: Later = "again",
        *,
        dry_run: bool = False,
        waiting: Callable[[str], Any] = print,
        agreed: Callable[[Plan], Any] | None = None,
    ) -> Plan:
        """Go back to a saved state; see `nightschool.snapshots.rollback.plan` for the words that name one.

        Args:
            to: a step, a snapshot's date or name, `latest`, or `undo`.
            later: what becomes of what was learned after it: `again`, `queue` or `shelve`.
            dry_run: only say what it would do.
            waiting: told what is waited for.
            agreed: given the plan as it is when the machine rests, right before it is carried out; what it raises
                ends it, and nothing was changed.

        Raises:
            BusyError: snapshots or the history are being changed already.
            CheckpointError: there is no such state, or it cannot be used.
        """
        from nightschool.snapshots import acts, rollback

        if not dry_run:
            return acts.go_back(self.layout, str(to), later, waiting, agreed)
        with self.ledger() as ledger:
            return rollback.plan(self.layout, ledger, str(to), later)

    def forget(
        self,
        files: Sequence[str | int],
        *,
        replace: str | os.PathLike[str] | None = None,
        purge: bool = False,
        dry_run: bool = False,
        waiting: Callable[[str], Any] = print,
        agreed: Callable[[Plan], Any] | None = None,
    ) -> Plan:
        """Forget files exactly: afterwards the run is, bit for bit, the one in which they were never dropped.

        Args:
            files: names or numbers.
            replace: a mended file that is put in the place of the one that is forgotten.
            purge: remove the bytes too, and all that has seen them.
            dry_run: only say what it would do.
            waiting: told what is waited for.
            agreed: as of `rollback`.

        Raises:
            BusyError: snapshots or the history are being changed already.
            DataError: there is no such file, or the mended one cannot be used; then nothing was forgotten.
            CheckpointError: nothing is left to start from.
        """
        from nightschool.snapshots import acts
        from nightschool.snapshots import forget as forgetting

        words = [str(file) for file in files]
        if not dry_run:
            instead = None if replace is None else Path(replace)
            return acts.forget_files(
                self.layout, words, instead=instead, purging=purge, second_place=self._second_place(), waiting=waiting,
                agreed=agreed,
            )  # fmt: skip
        with self.ledger() as ledger:
            return forgetting.plan(self.layout, ledger, forgetting.find(ledger, words), purge=purge)

    def traces(self, files: Sequence[str | int]) -> list[Trace]:
        """What a purge of these files would remove."""
        from nightschool.snapshots import acts

        return acts.traces(self.layout, [str(file) for file in files], self._second_place())

    def _second_place(self) -> Path | None:
        place = self.settings.snapshots.copy_to
        return Path(place) if place else None

    def snapshot(
        self, name: str | None = None, *, patience: float = 600.0, told: Callable[[str], Any] | None = None
    ) -> Snapshot:
        """Take a snapshot now, of the newest state, and return it. A trainer at work saves first, and goes on.

        Args:
            name: what to call it, and its folder in `snapshots/`; the local time if not given.
            patience: seconds to wait for the trainer, and for whoever else takes or goes back to a saved state.
            told: called with each thing that is waited for, in a sentence.

        Raises:
            SettingsError: it cannot be called so.
            CheckpointError: nothing has been saved yet, or what was is damaged.
            BusyError: somebody else was at saved states for too long.
            StorageError: the disk refuses, or there is a snapshot of that name; nothing was left behind.
        """
        from nightschool.snapshots import byhand

        now, say = _now(), told or (lambda _: None)
        return byhand.take_now(self.layout, self.settings.snapshots, name, now, patience, say)

    def copy_snapshots(self) -> Summary | None:
        """Bring the second place (`snapshots.copy_to`) up to date; None without one, or if the running machine does it.

        Raises:
            StorageError: it is not there, is another workspace's, or the disk refuses.
        """
        from nightschool.snapshots import byhand

        return byhand.copy_now(self.layout, self.settings.snapshots, _now().date())

    def snapshots(self) -> list[Listed]:
        """Every snapshot with its size, what is wrong with it, and whether retention keeps it; by step, not by time."""
        from nightschool.snapshots.listing import listing

        return listing(self.layout, self.settings.snapshots, _now().date())

    def verify_states(
        self, told: Callable[[str], Any] | None = None, between: Callable[[], Any] | None = None
    ) -> dict[str, str | None]:
        """Read every checkpoint and snapshot and compare it with its hashes; what is wrong with each, or None.

        The names are paths in the workspace. When it was done is kept beside the ledger, for those who look later.

        Args:
            told: called with what is being read, in a sentence.
            between: called again and again meanwhile; what it raises ends the reading, and nothing is kept of it.

        Raises:
            WorkspaceError, StorageError: the ledger is not there, or the disk refuses.
        """
        from nightschool.snapshots import verified

        began = _now()
        with self.ledger() as ledger:
            found = verified.read_all(self.layout, ledger, told or (lambda _: None), between)
        verified.record(self.layout, found, began)
        return {verified.name_of(self.layout, folder): problem for folder, problem in found.items()}

    def prune(self, *, dry_run: bool = False) -> list[Verdict]:
        """Remove the snapshots that retention lets go of, and return what was decided about them.

        Raises:
            BusyError: somebody else is at saved states.
        """
        from nightschool.snapshots import byhand

        return byhand.prune_now(self.layout, self.settings.snapshots, _now().date(), dry_run)

    def diff(self, a: str | int, b: str | int = "current") -> Difference:
        """What lies between two saved states, each named by a step, a snapshot's date or name, `latest` or `current`.

        Raises:
            CheckpointError: there is no such state.
        """
        from nightschool.snapshots.between import between

        with self.ledger() as ledger:
            return between(self.layout, ledger, str(a), str(b))

    def export(
        self,
        folder: str | os.PathLike[str],
        at: str | None = None,
        merged: bool = False,
        *,
        shard_size: str = "5GB",
    ) -> dict[str, Any]:
        """Put what was learned into a folder of its own, with tokenizer, chat template and a model card.

        The adapter alone; with `merged`, or where the run trains in full, a whole model in safetensors. Every byte of
        the state is read and compared with its hash before. The machine may run meanwhile.

        Args:
            folder: empty, or not there yet. After an error it is as it was.
            at: which state: a step, a checkpoint's name, a snapshot's date or name; the newest checkpoint if not given.
            merged: the base model with the adapter merged into it, in the run's own type, on the CPU.
            shard_size: largest file of a whole model, as in 5GB.

        Returns:
            {"folder", "kind", "step", "lineage", "bytes", "files"}.

        Raises:
            CheckpointError: there is no such state, it is damaged, or it cannot be merged.
            ModelError: the base model, which a whole model is made from, is not the one that was trained on.
            WorkspaceError: something is in the folder.
        """
        from nightschool.exporting import asking

        return asking.export(self.layout, Path(folder), at, merged, shard_size)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()
