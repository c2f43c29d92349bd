"""`Workspace`: making or opening one, handing files over, and looking at what it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from nightschool import adding, durable, pausing
from nightschool.api import stopping
from nightschool.api.line import Line
from nightschool.api.past import Past
from nightschool.errors import CheckpointError, DataError, ModelError, NightschoolError
from nightschool.intake import sidecar
from nightschool.intake.glance import Glance, glance
from nightschool.ledger import Arrival, CheckpointRow, FileRow, HoldoutRow, Ledger
from nightschool.queueing import PRIORITIES
from nightschool.status import Status, read_status
from nightschool.workspace import find_workspace

if TYPE_CHECKING:
    from nightschool.settings import Settings

Priority = Literal["now", "high", "normal", "low"]
LOOKED_AT = 50
"""Files of one `add` whose beginnings are looked at."""


@dataclass(frozen=True)
class Loss:
    """One optimizer step. `loss` is the mean over the step's label tokens, in nats; NaN where it was not finite."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    file: str | None


@dataclass(frozen=True)
class Added:
    """A file that was added: its id, its name, and what its beginning says; None where too many came to look at all."""

    id: int
    name: str
    glance: Glance | None


class Workspace(Past, Line):
    """A workspace on disk. Works with or without a running machine: both sides meet in the ledger."""

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], model: str, *, fetch: bool = False, **settings: Mapping[str, Any]
    ) -> Workspace:
        """Make a new workspace in `folder`, which must be empty or not there.

        A model of the Hub is pinned: the commit that it is of becomes `model.revision`, and nothing is fetched later.

        Args:
            folder: where.
            model: folder of the base model, or a name on the Hub.
            fetch: fetch a model of the Hub that is not in the local cache. By default the network is not used.
            settings: sections of `nightschool.toml`, as in `training={"method": "full"}, data={"max_length": 512}`.

        Raises:
            WorkspaceError: the folder is a workspace already, or holds something else.
            ModelError: there is no usable model of that name, or it could not be fetched.
            StorageError: the disk has no room for it.
            SettingsError: a setting is unknown or malformed.
        """
        from nightschool.creation import Fetching, create

        return cls(create(Path(folder), model, settings, Fetching() if fetch else None))

    @classmethod
    def adopt(
        cls,
        folder: str | os.PathLike[str],
        source: str | os.PathLike[str],
        model: str | None = None,
        *,
        say: Callable[[str], Any] | None = None,
        **settings: Mapping[str, Any],
    ) -> Workspace:
        """Make a new workspace in `folder` from what `source` holds, which is only read.

        From the output folder of a Hugging Face Trainer, or one `checkpoint-N` of it: the run goes on from its newest
        whole state. From another workspace: all its files wait again, in the order in which it learned them.

        Args:
            folder: where; empty or not there. Made whole or not at all.
            source: the folder to go on from.
            model: the base model, if another than `source` names.
            say: called with each line on progress, on what was carried and what was not.
            settings: sections of `nightschool.toml` over those that follow from `source`.

        Raises:
            CheckpointError: `source` holds no state that can be taken over, or it does not fit the model.
            SettingsError, ModelError: it was trained with what is not offered here, or its base model is not found.
            WorkspaceError: `folder` holds something.
        """
        from nightschool.adoption import adopt

        return cls(adopt(Path(folder), Path(source), model, settings, say).layout)

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None) -> Workspace:
        """The workspace at or above `folder` (default: the current one).

        Raises:
            WorkspaceError: there is none, or a part of it is missing.
        """
        layout = find_workspace(None if folder is None else Path(folder))
        layout.require()
        return cls(layout)

    def add(
        self,
        data: str | os.PathLike[str] | Iterable[Any],
        *,
        priority: Priority = "normal",
        epochs: int | None = None,
        again: bool = False,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> int:
        """Hand over one data file, or rows, to be learned; returns its id once the bytes are safe.

        Settings beside a file (NAME.toml) are taken with it; what is given here counts over them.

        Args:
            data: path of a file; or rows as dicts (`{"text": ...}`, `{"messages": [...]}`, `{"prompt", "completion"}`),
                from a list, a generator or a `datasets.Dataset`, which are kept as a JSONL file.
            priority: place in the queue; `now` interrupts the file in training, which goes on afterwards.
            epochs: passes over this file, instead of `training.epochs`.
            again: train it also if the same bytes were learned before.
            name: what to call it; the file's name, or one made from the time, if not given.
            columns: names of its columns where they differ, ours first: {"prompt": "ask"}.

        Raises:
            DataError: no plain readable file, or a row that is no JSON object.
            StorageError: the disk refuses; nothing was added.
        """
        options = _options(epochs, again, columns)
        if isinstance(data, str | os.PathLike):
            offered = adding.single(Path(data), name)
            return self._add([offered], priority, options)[0].id
        chosen = name or f"rows-{_utc_now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        if not Path(chosen).suffix:
            chosen += ".jsonl"
        with adding.scratch(self.layout) as folder:
            adding.write_rows(folder / "rows", data)
            return self._add([adding.Offered(folder / "rows", adding.checked_name(chosen))], priority, options)[0].id

    def add_stream(
        self,
        stream: BinaryIO,
        *,
        priority: Priority = "normal",
        epochs: int | None = None,
        again: bool = False,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Added:
        """Hand over the bytes of an open binary stream, read to its end, as one file; see `add`."""
        chosen = adding.checked_name(name or f"stdin-{_utc_now():%Y%m%d-%H%M%S}.jsonl")
        options = _options(epochs, again, columns)
        with adding.scratch(self.layout) as folder:
            place = adding.keep_stream(folder, stream)
            return self._add([adding.Offered(place, chosen)], priority, options)[0]

    def add_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        priority: Priority = "normal",
        epochs: int | None = None,
        again: bool = False,
        columns: Mapping[str, str] | None = None,
        name: str | None = None,
        left_out: Callable[[Path, str], Any] | None = None,
    ) -> list[Added]:
        """Hand over files, all files in folders, and those that patterns name, as one arrival.

        All of them are added, or after an error none. See `add`.

        Args:
            paths: files; folders, with all that is in them; patterns like `data/**/*.jsonl`.
            priority, epochs, again, columns: as of `add`, for each of them.
            name: what to call it, where it is one.
            left_out: called with each item in a folder that is no data file, and why.
        """
        options = _options(epochs, again, columns)
        offer = adding.offer(paths)
        if left_out is not None:
            for path, why in offer.left_out:
                left_out(path, why)
        if name is not None:
            if len(offer.files) > 1:
                raise DataError(f"A name is for one file, and these are {len(offer.files)}.")
            return self._add([replace(offer.files[0], name=adding.checked_name(name))], priority, options)
        return self._add(offer.files, priority, options)

    def _add(self, files: Sequence[adding.Offered], priority: str, options: dict[str, Any]) -> list[Added]:
        if priority not in PRIORITIES:
            raise ValueError(f"priority is one of {', '.join(PRIORITIES)}, not {priority!r}")
        # Everything is looked at before anything is copied.
        own = [
            sidecar.merged(sidecar.read(file.settings, file.name) if file.settings else {}, options) for file in files
        ]
        labels: list[str] = []
        arrival = os.urandom(8).hex()
        try:
            arrivals, looks = [], []
            for number, file in enumerate(files):
                # Files of one name are queued by where they lie: in the order they were given.
                labels.append(f"{arrival}-{number:06d}")
                kept = adding.keep(self.layout, file.path, labels[-1])
                if file.settings is not None:
                    adding.keep(self.layout, file.settings, labels[-1] + sidecar.ENDING)
                arrivals.append(Arrival(file.name, kept, PRIORITIES[priority], options, kept.stat().st_size))
                looks.append(self._look(kept, file.name, own[number]) if number < LOOKED_AT else None)
            with self.ledger() as ledger:
                ids = ledger.files.arrive(arrivals)
        except BaseException:
            for label in labels:
                adding.forget(self.layout, label)
            raise
        return [Added(id, file.name, look) for id, file, look in zip(ids, files, looks, strict=True)]

    def _look(self, path: Path, name: str, options: dict[str, Any]) -> Glance:
        try:
            columns = self.settings.inbox.columns
        except NightschoolError:
            columns = {}  # the machine will say so; the bytes are safe all the same
        return glance(path, name, {**columns, **(options.get("columns") or {})})

    def status(self) -> Status:
        """What the machine is doing, read in a few milliseconds.

        Raises:
            WorkspaceError, StorageError: the ledger is not there or cannot be read.
        """
        return read_status(self.layout)

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

    def holdouts(self, first: int = 0, last: int = 2**62) -> dict[int, HoldoutRow]:
        """The loss on rows that are never trained on, before and after a file, by file id from `first` to `last`."""
        with self.ledger() as ledger:
            return ledger.holdouts.of_files(first, last)

    def checkpoints(self) -> list[CheckpointRow]:
        """The checkpoints the machine has written (the newest 1000), oldest first."""
        with self.ledger() as ledger:
            return ledger.checkpoints.listing()

    def pause(self, seconds: float | None = None) -> None:
        """Let the trainer save and end, which frees the GPU, until `resume` or for so many seconds.

        Files are still taken in and read.
        """
        row = pausing.row_for(seconds, _utc_now())
        self._tell("pause", "Pause was asked for.", **{pausing.ROW: row})

    def resume(self) -> None:
        """Go on after `pause`, or try again after a failure that was put right."""
        self._tell("resume", "Going on was asked for.", paused=False, resumed=os.urandom(4).hex())

    def stop(self) -> int | None:
        """Ask the machine that runs here to save and end, and return its process id at once; None where none runs.

        Raises:
            BusyError: it runs, and cannot be reached from here.
        """
        return stopping.ask(self.layout)

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


def _options(epochs: int | None, again: bool, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """A file's own settings, checked."""
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs is at least 1, not {epochs}")
    return sidecar.checked({"epochs": epochs, "again": again or None, "columns": columns}, "add")


def _name_of(ledger: Ledger, position: int) -> str | None:
    try:
        return ledger.called(ledger.entries.get(position).file_ids)
    except KeyError:
        return None


def _utc_now() -> datetime:
    return datetime.now(UTC)
