"""nightschool from Python: `from nightschool import Workspace`. The command line uses nothing else.

Importing this module imports neither torch nor pydantic; what needs them imports them when it is called.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightschool import durable
from nightschool.errors import CheckpointError, DataError, ModelError
from nightschool.ledger import HIGH, LOW, NORMAL, Arrival, CheckpointRow, FileRow, Ledger
from nightschool.logs import escape
from nightschool.workspace import Layout, find_workspace

if TYPE_CHECKING:
    from datetime import datetime

    from nightschool.settings import Settings

Priority = Literal["high", "normal", "low"]
PRIORITIES: dict[str, int] = {"high": HIGH, "normal": NORMAL, "low": LOW}
LONGEST_NAME = 200
"""Bytes in a file's name; names must fit with a suffix into what file systems take."""
SCRATCH = "add-"
"""Folders in `.nightschool/tmp` begin so while something is copied; one left by a power cut is cleared a day later."""


@dataclass(frozen=True)
class Status:
    """What the machine is doing. The first twelve fields are stable, also as keys of `nightschool status --json`.

    Attributes:
        state: one word or two: idle, preparing, starting, training, pausing, paused, stopping, stopped, restarting,
            waiting, waiting for disk, failed.
        step: optimizer steps done.
        lineage: hash of all that led to the newest checkpoint; None before there is one.
        current_file: name of the file in training.
        queued, learned, rejected: numbers of files.
        loss, learning_rate: of the last step; the loss is None where it was not finite.
        tokens_per_second: None while nothing is trained.
        last_checkpoint: {"step", "path", "written_at"}.
        last_snapshot: None: dated snapshots are not taken yet.
        reason: why it is in this state, or what to do.
        since: when the state began (UTC ISO 8601).
        pid: process id of the running machine.
        paused: whether `pause` is in force.
        duplicates, set_aside: numbers of files.
        workspace: its folder.
    """

    state: str
    step: int
    lineage: str | None
    current_file: str | None
    queued: int
    learned: int
    rejected: int
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float | None
    last_checkpoint: dict[str, Any] | None
    last_snapshot: dict[str, Any] | None
    reason: str
    since: str | None
    pid: int | None
    paused: bool
    duplicates: int
    set_aside: int
    workspace: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Loss:
    """One optimizer step. `loss` is the mean over the step's label tokens, in nats; NaN where it was not finite."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    file: str | None


class Workspace:
    """A workspace on disk. Works with or without a running machine: both sides meet in the ledger."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __repr__(self) -> str:
        return f"Workspace({str(self.layout.root)!r})"

    @classmethod
    def create(cls, folder: str | os.PathLike[str], model: str, **settings: Mapping[str, Any]) -> Workspace:
        """Make a new workspace in `folder`, which must be empty or not there.

        Args:
            folder: where.
            model: folder of the base model, or a Hub name that is in the local cache.
            settings: sections of `nightschool.toml`, as in `training={"method": "full"}, data={"max_length": 512}`.

        Raises:
            WorkspaceError: the folder is a workspace already, or holds something else.
            ModelError: there is no usable model of that name; nothing is downloaded.
            SettingsError: a setting is unknown or malformed.
        """
        from nightschool.creation import create

        return cls(create(Path(folder), model, settings))

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None) -> Workspace:
        """The workspace at or above `folder` (default: the current one).

        Raises:
            WorkspaceError: there is none, or a part of it is missing.
        """
        layout = find_workspace(None if folder is None else Path(folder))
        layout.require()
        return cls(layout)

    @property
    def root(self) -> Path:
        """The workspace's folder."""
        return self.layout.root

    @property
    def settings(self) -> Settings:
        """What `nightschool.toml` says now.

        Raises:
            SettingsError: it is malformed.
        """
        from nightschool.settings import load_settings

        return load_settings(self.layout.settings_file)

    def ledger(self) -> Ledger:
        """Open the ledger, for what has no method here; close it, or use it in a `with`."""
        return Ledger.open(self.layout.ledger)

    def add(
        self,
        data: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
        *,
        priority: Priority = "normal",
        epochs: int | None = None,
        again: bool = False,
        name: str | None = None,
    ) -> int:
        """Hand over one data file, or rows, to be learned; returns its id once the bytes are safe.

        Args:
            data: path of a file; or rows as dicts (`{"text": ...}`, `{"messages": [...]}`, `{"prompt", "completion"}`),
                from a list, a generator or a `datasets.Dataset`, which are kept as a JSONL file.
            priority: place in the queue.
            epochs: passes over this file, instead of `training.epochs`.
            again: train it also if the same bytes were learned before.
            name: what to call it; the file's name, or one made from the time, if not given.

        Raises:
            DataError: no plain readable file, or a row that is no JSON object.
            StorageError: the disk refuses; nothing was added.
        """
        if isinstance(data, str | os.PathLike):
            return self._add([(Path(data), name)], priority, epochs, again)[0]
        chosen = name or f"rows-{_utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        if not Path(chosen).suffix:
            chosen += ".jsonl"
        with self._scratch() as folder:
            _write_rows(folder / "rows", data)
            return self._add([(folder / "rows", chosen)], priority, epochs, again)[0]

    def add_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        priority: Priority = "normal",
        epochs: int | None = None,
        again: bool = False,
    ) -> list[int]:
        """Hand over several files as one arrival: all of them, or after an error none. See `add`."""
        return self._add([(Path(path), None) for path in paths], priority, epochs, again)

    def _add(self, files: list[tuple[Path, str | None]], priority: str, epochs: int | None, again: bool) -> list[int]:
        if priority not in PRIORITIES:
            raise ValueError(f"priority is one of {', '.join(PRIORITIES)}, not {priority!r}")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs is at least 1, not {epochs}")
        options: dict[str, Any] = {}
        if epochs is not None:
            options["epochs"] = epochs
        if again:
            options["again"] = True
        # Everything is looked at before anything is copied.
        checked = [(_plain_file(path), _checked_name(name or path.name)) for path, name in files]
        kept: list[Path] = []
        try:
            arrivals = []
            for source, name in checked:
                kept.append(self._keep(source))
                arrivals.append(Arrival(name, kept[-1], PRIORITIES[priority], options))
            with self.ledger() as ledger:
                return ledger.files.arrive(arrivals)
        except BaseException:
            for path in kept:
                durable.remove_file(path)
            raise

    def _keep(self, source: Path) -> Path:
        """A durable copy of the bytes in `incoming/`.

        Copied in a folder of its own first: processes that start clear what looks unfinished out of the shared ones.
        """
        with self._scratch() as folder:
            durable.copy_file(source, folder / "data")
            place = self.layout.incoming / folder.name.removeprefix(SCRATCH)
            durable.replace_file(folder / "data", place)
        return place

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = self.layout.tmp / f"{SCRATCH}{secrets.token_hex(8)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def status(self) -> Status:
        """What the machine is doing, read in a few milliseconds.

        Raises:
            WorkspaceError, StorageError: the ledger is not there or cannot be read.
        """
        pid = durable.holder(self.layout.supervisor_lock)
        with self.ledger() as ledger:
            told = ledger.machine.all()
            counts = ledger.files.counts()
            last = ledger.steps.last()
            newest = ledger.checkpoints.newest()
            in_training = ledger.files.listing("training", limit=1) or ledger.files.listing("trained", limit=1)
        state = told.get("state") or {}
        word, reason, since = state.get("word", "stopped"), state.get("reason", ""), state.get("since")
        if pid is None and word != "failed":
            if word != "stopped":
                # It was killed, or lost power, before it could say that it ended.
                since = None
            word, reason = "stopped", "`nightschool run` starts it"
        trainer = told.get("trainer") or {}
        at_work = pid is not None and word == "training"
        return Status(
            state=word,
            step=last.step if last else 0,
            lineage=newest.lineage if newest else None,
            current_file=in_training[0].name if in_training else None,
            queued=sum(counts[key] for key in ("arrived", "archived", "ready")),
            learned=counts["learned"],
            rejected=counts["rejected"],
            loss=_finite(last.loss) if last else None,
            learning_rate=_finite(last.learning_rate) if last else None,
            tokens_per_second=_finite(trainer.get("tokens_per_second")) if at_work else None,
            last_checkpoint=None if newest is None else self._describe(newest),
            last_snapshot=None,
            reason=reason,
            since=since,
            pid=pid,
            paused=bool(told.get("paused", False)),
            duplicates=counts["duplicate"],
            set_aside=counts["set_aside"],
            workspace=str(self.root),
        )

    def _describe(self, row: CheckpointRow) -> dict[str, Any]:
        path = self.layout.checkpoint(row.step).relative_to(self.root)
        return {"step": row.step, "path": str(path), "written_at": row.written_at}

    def losses(self, after: int = 0) -> Iterator[Loss]:
        """Every step after step `after`, in order: the loss curve over all files. Read in pages as you go."""
        with self.ledger() as ledger:
            names: dict[int, str | None] = {}
            for page in ledger.steps.losses(after):
                for row in page:
                    if row.entry not in names:
                        names[row.entry] = _name_of(ledger, row.entry)
                    yield Loss(row.step, row.loss, row.learning_rate, row.grad_norm, row.tokens, names[row.entry])

    def files(self) -> Iterator[FileRow]:
        """Every file that was dropped or added, in the order of arrival. Read in pages as you go."""
        with self.ledger() as ledger:
            yield from ledger.files.each()

    def checkpoints(self) -> list[CheckpointRow]:
        """The checkpoints the machine has written (the newest 1000), oldest first."""
        with self.ledger() as ledger:
            return ledger.checkpoints.listing()

    def pause(self) -> None:
        """Let the trainer save and end, which frees the GPU, until `resume`. Files are still taken in."""
        self._tell("pause", "Pause was asked for.", paused=True)

    def resume(self) -> None:
        """Go on after `pause`, or try again after a failure that was put right."""
        self._tell("resume", "Going on was asked for.", paused=False, resumed=secrets.token_hex(4))

    def _tell(self, kind: str, text: str, **values: Any) -> None:
        with self.ledger() as ledger, ledger.transaction():
            for key, value in values.items():
                ledger.machine.set(key, value)
            ledger.events.add(kind, text)

    def load(self, at: int | None = None, device: str = "cpu") -> tuple[Any, Any]:
        """The model as it is now, ready for inference: (model, tokenizer), through transformers and PEFT.

        Args:
            at: step of a checkpoint; the newest weights if not given.
            device: where to put it. The machine may be using the GPU.

        Raises:
            CheckpointError: nothing was saved yet, there is no checkpoint at that step, or it is damaged.
            ModelError: the base model is gone or no longer the one that was trained on.
        """
        folder = self._folder(at)
        settings = self.settings
        with self.ledger() as ledger:
            root = ledger.machine.get("root") or {}
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options: dict[str, Any] = {
            "dtype": getattr(torch, root.get("dtype") or "float32"),
            "local_files_only": True,
            "trust_remote_code": settings.model.trust_remote_code,
        }
        tokenizer = AutoTokenizer.from_pretrained(
            self.layout.current_model,
            local_files_only=True,
            trust_remote_code=settings.model.trust_remote_code,
        )
        if not (folder / "adapter_config.json").exists():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        else:
            from peft import PeftModel

            base = AutoModelForCausalLM.from_pretrained(self._base(settings, root), **options)
            model = PeftModel.from_pretrained(base, str(folder))
        return model.to(device).eval(), tokenizer

    def _base(self, settings: Settings, root: dict[str, Any]) -> Path:
        from nightschool import basemodel

        folder = basemodel.resolve(settings.model.name, settings.model.revision)
        found = basemodel.fingerprint(basemodel.model_files(folder), self.layout.fingerprint_cache)
        if root.get("base") not in (None, found):
            raise ModelError(
                f"The base model in {folder} is not the one this run was trained on, so the adapter does not fit it. "
                "Put the old files back."
            )
        return folder

    def _folder(self, at: int | None) -> Path:
        current = self.layout.current_model
        if at is not None:
            folder = self.layout.checkpoint(at)
            steps = [step for step, _ in self.layout.checkpoints()]
            if at not in steps:
                there = f"There are checkpoints at {', '.join(map(str, steps))}." if steps else "There is none yet."
                raise CheckpointError(f"{current} has no checkpoint at step {at}. {there}")
            problems = durable.check(folder)
            if problems:
                raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}. Load another one.")
            return folder
        if (current / "adapter_config.json").is_file():
            return current
        if (current / "latest").is_dir():
            return current / "latest"
        raise CheckpointError(f"{current} holds no model yet: nothing has been saved. `nightschool status` says why.")


def _name_of(ledger: Ledger, position: int) -> str | None:
    try:
        return ledger.files.get(ledger.entries.get(position).file_id).name
    except KeyError:
        return None


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _utc_now() -> datetime:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _plain_file(path: Path) -> Path:
    """The file itself (a link named by the user is followed), or a DataError that says what is wrong with it."""
    shown = escape(path)
    try:
        real = path.resolve(strict=True)
        if real.is_dir():
            raise DataError(f"{shown} is a folder. Name the files in it, for instance {shown}/*.jsonl.")
        if not real.is_file():
            raise DataError(f"{shown} is a pipe or a device, not a file.")
    except FileNotFoundError:
        raise DataError(f"{shown} does not exist.") from None
    except (OSError, RuntimeError) as error:
        raise DataError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not os.access(real, os.R_OK):
        raise DataError(f"{shown} cannot be read: permission denied.")
    return real


def _checked_name(name: str) -> str:
    shown = escape(name)
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise DataError(f"{shown!r} is no name for a file.")
    if shown != name:
        raise DataError(
            f"The name {shown} holds a line break, a control character or bytes that are no UTF-8. Rename it."
        )
    if len(name.encode()) > LONGEST_NAME:
        raise DataError(f"The name {shown[:40]}… is longer than {LONGEST_NAME} bytes. Rename the file.")
    return name


def _write_rows(path: Path, rows: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        number = 0
        for number, row in enumerate(rows, start=1):
            file.write(_row_text(row, number))
    if number == 0:
        raise DataError("There are no rows to add.")


def _row_text(row: Any, number: int) -> str:
    if not isinstance(row, Mapping):
        raise DataError(
            f"Row {number} is of type {type(row).__name__}, not a dict. Give rows as dicts; of a DatasetDict, name one "
            "split; a DataFrame has to_dict('records')."
        )
    try:
        text = json.dumps(dict(row), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"Row {number} cannot be written as JSON: {error}.") from None
    return text + "\n"
