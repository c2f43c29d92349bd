"""Every path of a workspace, in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nightschool.errors import WorkspaceError

SETTINGS_NAME = "nightschool.toml"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Layout:
    """Where things are. Properties only name a path; nothing is created or read by asking for one."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """The settings, written by `init` and edited by the user."""
        return self.root / SETTINGS_NAME

    @property
    def inbox(self) -> Path:
        """Where users drop data files; `high/` and `low/` below it set a priority."""
        return self.root / "inbox"

    @property
    def archive(self) -> Path:
        """Every accepted file, byte for byte as dropped, in a folder per day."""
        return self.root / "archive"

    @property
    def rejected(self) -> Path:
        """What could not be read, each beside NAME.why.txt."""
        return self.root / "rejected"

    @property
    def current_model(self) -> Path:
        """The newest adapter or model, and the checkpoints."""
        return self.root / "current_model"

    @property
    def snapshots(self) -> Path:
        """Dated copies of the full training state."""
        return self.root / "snapshots"

    @property
    def undone(self) -> Path:
        """Checkpoints that no longer belong to the run, or are damaged, kept until the user removes them."""
        return self.root / "undone"

    @property
    def runs(self) -> Path:
        """What experiment trackers keep on this disk: TensorBoard's event files above all."""
        return self.root / "runs"

    @property
    def log_file(self) -> Path:
        """What a person reads."""
        return self.root / "training_output.log"

    @property
    def state(self) -> Path:
        """The machine's own files."""
        return self.root / ".nightschool"

    @property
    def accepted_settings(self) -> Path:
        """The settings that the running machine goes by: a copy of the file as it was taken last."""
        return self.state / "accepted.toml"

    @property
    def ledger(self) -> Path:
        """The SQLite database."""
        return self.state / "ledger.db"

    @property
    def generation_file(self) -> Path:
        """The number that goes up at every cut, kept outside the ledger."""
        return self.state / "generation"

    @property
    def prepared(self) -> Path:
        """Tokenised files, one sealed folder each."""
        return self.state / "prepared"

    @property
    def incoming(self) -> Path:
        """Bytes handed over by `add`, not archived yet."""
        return self.state / "incoming"

    @property
    def tmp(self) -> Path:
        """Scratch space on the same file system."""
        return self.state / "tmp"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the one supervisor."""
        return self.state / "supervisor.lock"

    @property
    def trainer_lock(self) -> Path:
        """Held by the one process that may publish checkpoints."""
        return self.state / "trainer.lock"

    @property
    def intake_lock(self) -> Path:
        """Held by the one process that archives and prepares files."""
        return self.state / "intake.lock"

    @property
    def way_back_lock(self) -> Path:
        """Held by the one process that takes, removes or goes back to saved states; no trainer starts meanwhile."""
        return self.state / "way_back.lock"

    @property
    def export_lock(self) -> Path:
        """Held by the one `export` at work."""
        return self.state / "export.lock"

    @property
    def trainer_output(self) -> Path:
        """Raw output of the trainer process since it started."""
        return self.state / "trainer.out"

    @property
    def intake_output(self) -> Path:
        """Raw output of the intake process since it started."""
        return self.state / "intake.out"

    @property
    def tracker_lock(self) -> Path:
        """Held by the one process that tells the experiment trackers."""
        return self.state / "tracker.lock"

    @property
    def tracker_output(self) -> Path:
        """Raw output of the process that tells the experiment trackers."""
        return self.state / "tracker.out"

    @property
    def page_lock(self) -> Path:
        """Held by the one process that serves the page."""
        return self.state / "page.lock"

    @property
    def page_output(self) -> Path:
        """Raw output of the page's process."""
        return self.state / "page.out"

    @property
    def cursors(self) -> Path:
        """How far each experiment tracker has been told, a file each."""
        return self.state / "trackers"

    @property
    def verified(self) -> Path:
        """Which saved states were read and compared with their hashes, and when."""
        return self.state / "verified.json"

    @property
    def fingerprint_cache(self) -> Path:
        """Hashes of the base model's files with the file states they were computed for."""
        return self.state / "fingerprint.json"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint at `step`."""
        return self.current_model / f"checkpoint-{step}"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of everything named like a checkpoint, by number: text order puts 900 after 2600."""
        return checkpoints_in(self.current_model)

    def create(self) -> None:
        """Make the folders. Existing ones are left as they are."""
        for folder in (
            self.inbox / "high",
            self.inbox / "low",
            self.archive,
            self.rejected,
            self.current_model,
            self.snapshots,
            self.undone,
            self.prepared,
            self.incoming,
            self.tmp,
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def require(self, *, ledger: bool = True) -> None:
        """Raise WorkspaceError unless every part is there: a folder that is missing is never an empty one.

        Without `ledger`, that one file may be missing.
        """
        if not self.settings_file.is_file():
            raise WorkspaceError(
                f"{self.root} is no nightschool workspace: {SETTINGS_NAME} is missing. "
                "Name the workspace with -C DIR, or make one with `nightschool init DIR --model MODEL`."
            )
        for part in (self.state, self.inbox, self.archive, self.current_model, self.ledger):
            if part == self.ledger and self.root.exists() and not part.exists():
                if not ledger:
                    continue
                raise WorkspaceError(
                    f"{part} is missing, so nothing is started. If it was moved, put it back; if it is lost, "
                    "`nightschool doctor --rebuild-ledger` makes it again from the checkpoints, the archive and copies "
                    "of it."
                )
            if not part.exists():
                raise WorkspaceError(
                    f"{part} is missing, so nothing is started: a folder that is not there is never taken for an "
                    "empty one. If it lies on another disk, mount it; if it was moved, put it back."
                )


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the `checkpoint-N` folders in `folder`, by step."""
    if not folder.is_dir():
        return []
    found = [(_CHECKPOINT.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()]
    return sorted((int(m.group(1)), p) for m, p in found if m)


def find_workspace(start: Path | None = None) -> Layout:
    """The workspace at or above `start` (default: the current folder).

    Raises:
        WorkspaceError: no `nightschool.toml` there or in any folder above.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / SETTINGS_NAME).is_file():
            return Layout(folder)
    raise WorkspaceError(
        f"There is no {SETTINGS_NAME} in {here} or above it. "
        "Name the workspace with -C DIR, or make one with `nightschool init DIR --model MODEL`."
    )
